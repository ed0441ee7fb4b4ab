"""What cannot work is told before anything is launched, whoever trains the runs."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sweeping import write_sweep

from seqjax import cli
from seqjax.config import Config
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.sweeps import sweep as sweep_run
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.launch import NextUnits
from seqjax.sweeps.machine import Machine

AXES = "model: {family: gru, d_model: 16, n_layers: 1}\ngrid: {train.context_length: [16, 50000]}"
SEARCH = "model: {family: gru, d_model: 16, n_layers: 1}\nsearch: {rates: [1e-3, 3e-3, 1e-2], extend: 1}"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is PATH: programs of Slurm that note that they were called, and fail. submitit is there."""
    monkeypatch.setitem(sys.modules, "submitit", ModuleType("submitit"))
    sys.modules["submitit"].__spec__ = ModuleSpec("submitit", None)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "squeue"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def call(tmp_path: Path, text: Path, *options: str) -> int:
    sweep = write_sweep(tmp_path / "s.yaml", text, AXES)
    return cli.main(["sweep", str(sweep), "--runs", str(tmp_path / "runs"), "--launcher", "slurm", *options])


def test_a_run_too_long_for_its_text_is_not_submitted(
    programs: Path, tmp_path: Path, small_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, small_text) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "train.context_length: 50000 needs 50,001 tokens" in line
    assert not (tmp_path / "runs").exists() and not (tmp_path / "called").exists()


@pytest.mark.parametrize("absent", ["submitit", "sbatch", "srun"])
def test_what_slurm_needs_is_looked_for_first(
    absent: str, programs: Path, tmp_path: Path, small_text: Path, monkeypatch: Any, capsys: Any
) -> None:
    if absent == "submitit":
        monkeypatch.setitem(sys.modules, "submitit", None)
    else:
        (programs / absent).unlink()
    assert call(tmp_path, small_text) == 2
    assert "error: --launcher slurm" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists() and not (tmp_path / "called").exists()
    assert call(tmp_path, small_text, "--dry-run") == 0  # a plan can be made anywhere


def test_runs_that_a_search_adds_are_checked_before_they_are_launched(
    tmp_path: Path, small_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "s.yaml", small_text, SEARCH))
    launched: list[str] = []

    def launch(next_units: NextUnits, _view: Any, _stopping: Any) -> tuple[str, ...]:
        while units := next_units((), ()):
            for run in (run for unit in units for run in unit.runs):
                launched.append(run.run_id)
                loss = {"loss": 2 + run.config.optimizer.learning_rate, "loss_se": 0.01}  # the best: at the low edge
                result = {"status": "finished", "steps": 40, "validation": loss}
                disk.write_json(tmp_path / "runs" / run.run_id / "result.json", result)
        return ()

    def check(config: Config, _text: Any) -> None:
        if config.optimizer.learning_rate < 1e-3:
            raise UserError("too long")

    monkeypatch.setattr(sweep_run, "check_lengths", check)
    machine = Machine((0,), (), 1e9, threads=1)
    with pytest.raises(UserError, match="too long"):
        sweep_run.run_sweep(sweep, tmp_path / "runs", machine, None, bundle=True, launch=launch)
    assert len(launched) == 3
