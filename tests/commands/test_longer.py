"""A run that has ended is made longer from its state where its learning rates allow it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from seqjax.cli import main
from seqjax.config import to_dict
from seqjax.trained.opened import open_run

EVERY = {"evaluation.every": 4, "train.checkpoint_every": 4, "train.log_every": 3}
QUIET = ("--devices", 1, "--no-sample", "--quiet")


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def trained(make_config: Any, tmp_path: Path) -> Any:
    def train(name: str, steps: int, **optimizer: Any) -> Path:
        changes = {"train.steps": steps, **EVERY, **{f"optimizer.{key}": value for key, value in optimizer.items()}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(to_dict(make_config("lstm", **changes))))
        assert call("train", tmp_path / f"{name}.yaml", "--runs", tmp_path / "runs", *QUIET) == 0
        (run,) = (tmp_path / "runs" / name).iterdir()
        return run

    return train


@pytest.mark.parametrize("optimizer", [{"schedule": "constant"}, {"schedule": "wsd", "decay_fraction": 0.5}], ids=str)
def test_it_ends_as_a_run_of_that_length(optimizer: dict[str, Any], trained: Any, capsys: Any) -> None:
    short, whole = trained("short", 8, **optimizer), trained("whole", 12, **optimizer)
    assert call("train", short, "--train.steps", 12, *QUIET) == 0
    begun = 8 if optimizer["schedule"] == "constant" else 4
    assert f"goes on from step {begun}" in capsys.readouterr().err
    longer = short.parent / whole.name
    assert json.loads((longer / "taken-over.json").read_text())["step"] == begun
    jax.tree.map(np.testing.assert_array_equal, open_run(longer).params, open_run(whole).params)
    lines = [
        [(r["step"], r.get("loss"), r.get("validation_loss")) for r in map(json.loads, open(run / "metrics.jsonl"))]
        for run in (longer, whole)
    ]
    assert lines[0] == lines[1]
    assert json.loads((longer / "result.json").read_text())["train_loss"] == lines[1][-2][1]
    assert call("train", short, "--train.steps", 12, *QUIET) == 0
    assert "has ended already" in capsys.readouterr().err


def test_another_schedule_says_how(trained: Any, capsys: Any) -> None:
    run = trained("cosine", 8, schedule="cosine")
    assert call("train", run, "--train.steps", 12, *QUIET) == 2
    said = capsys.readouterr().err
    assert "with the schedule cosine the learning rates differ" in said and "--from" in said
    assert os.listdir(run.parent) == [run.name]
    assert call("train", run, "--train.seed", 1, *QUIET) == 2
    assert "keeps its config" in capsys.readouterr().err
    words = said.rpartition("seqjax ")[2].split()
    assert call(*words, "--runs", run.parent.parent / "tuned", *QUIET) == 0
