"""Experiments are scripts; tests load them as modules."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import seqjax.sweeps.sweep
from seqjax.config import Config, to_dict
from seqjax.host.guard import guarded
from seqjax.runs import read_result
from seqjax.training.loop import train_bundle

REPOSITORY = Path(__file__).parent.parent
RESULTS, SWEEPS = REPOSITORY / "experiments" / "results", REPOSITORY / "configs" / "sweeps"


def load(name: str) -> ModuleType:
    """The module of experiments/NAME.py."""
    folder = str(REPOSITORY / "experiments")
    if folder not in sys.path:
        sys.path.insert(0, folder)  # they share common.py
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(name: str) -> dict[str, Any]:
    """experiments/results/NAME/results.json."""
    return json.loads((RESULTS / name / "results.json").read_text())


def trained_as_by_a_user(config: Config, folder: Path) -> dict[str, Any]:
    """The result of `seqjax train` in a process that has one device and compiles with all optimizations.

    For runs that are compared with recorded ones: the tests' own process compiles without (tests/conftest.py).
    """
    file = folder.parent / f"{folder.name}.json"
    file.write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "seqjax", "train", str(file), "--run", str(folder), "--no-sample", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read_result(folder)


def run_here(patch: pytest.MonkeyPatch, module: ModuleType, place: Path, *words: str) -> int:
    """The exit code of an experiment with these options, whose runs are trained in this process, none of them timed.

    They go to PLACE/runs, and what is found to PLACE/report.
    """

    def launch(folder: Path, *_: Any) -> Any:
        def train_all(next_units: Any, *_: Any) -> tuple[str, ...]:
            while units := next_units((), ()):
                for unit in units:
                    lanes = [(run.config, folder / run.run_id) for run in unit.runs]
                    train_bundle(lanes, quiet=True, wandb_mode="disabled")
            return ()

        return train_all

    name = Path(module.__file__).stem
    patch.setattr(seqjax.sweeps.sweep, "local_launch", launch)
    patch.setattr(seqjax.sweeps.sweep, "measured_speeds", lambda *_: None)
    patch.setattr(sys, "argv", [name, "--runs", str(place / "runs"), "--report", str(place / "report"), *words])
    return guarded(getattr(module, "main", lambda: module.run(name, name, "", module.analyse)))
