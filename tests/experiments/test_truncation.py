"""What is remembered by distance: the experiment runs, and what is said of it is what was recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import experiment
import pytest

from seqjax.errors import UserError

RECORDED = experiment.RESULTS / "truncation" / "results.json"
README = experiment.REPOSITORY / "experiments" / "README.md"


def test_it_runs_and_trains_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = experiment.load("truncation")
    monkeypatch.setattr(module, "FAMILIES", ("gru", "transformer"))
    monkeypatch.setattr(module, "TRUNCATED", ("gru",))
    words = "--distances 2 --pieces 2 4 --seeds 1 --train.steps 2 --optimizer.warmup-steps 1".split()
    words += "--model.d-model 8 --task.held-out 16".split()
    places = ["--runs", str(tmp_path / "runs"), "--report", str(tmp_path / "report")]
    monkeypatch.setattr(sys, "argv", ["truncation.py", *words, *places])
    assert module.main() == 0
    found = json.loads((tmp_path / "report" / "results.json").read_text())["rows"]
    kinds = [(row["family"], row["distance"], row["bptt"]) for row in found]
    assert kinds == [("gru", 2, None), ("transformer", 2, None), ("gru", 2, 2)]  # k = 4 is the whole of three tokens
    assert (tmp_path / "report" / "truncation.png").stat().st_size > 10_000
    ended = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("runs/*/result.json")}
    assert len(ended) == 3 and module.main() == 0
    assert {path: path.stat().st_mtime_ns for path in ended} == ended


def test_an_unknown_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["truncation.py", "--task.distanse", "2"])
    with pytest.raises(UserError, match=r"task.distanse: unknown key.*did you mean 'distance'"):
        experiment.load("truncation").main()


def test_what_is_said_was_recorded() -> None:
    module, record = experiment.load("truncation"), json.loads(RECORDED.read_text())
    assert module.as_table(record["rows"]) in README.read_text()
    assert module.in_words(record["rows"]) in module.__doc__
    planned = module.kinds(module.DISTANCES, module.PIECES)
    assert [(row["family"], row["distance"], row["bptt"]) for row in record["rows"]] == planned
    assert all(len(row["accuracy"]) == 3 for row in record["rows"])
