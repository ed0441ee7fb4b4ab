"""What is remembered by distance: the experiment runs, and what is said of it is what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import experiment
import pytest

from seqjax.sweeps.grid import read_sweep

RECORDED = experiment.RESULTS / "truncation" / "results.json"
README = experiment.REPOSITORY / "experiments" / "README.md"


SMALL = "--train.steps 2 --optimizer.warmup-steps 1 --model.d-model 8 --task.held-out 16".split()


@pytest.mark.slow
def test_it_runs_and_trains_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, sweep = experiment.load("truncation"), tmp_path / "tiny.yaml"
    sweep.write_text(f"""
base: {experiment.REPOSITORY}/configs/tasks/delays.yaml
list: [{{model.family: gru}}, {{model: {{family: transformer, n_heads: 2}}}}, {{model.family: gru, task.bptt: 2}}]
grid: {{task.distance: [2], train.seed: [0, 1]}}
""")
    words = [tmp_path, "--sweep", str(sweep), "--seeds", "1", *SMALL]
    assert experiment.run_here(monkeypatch, module, *words) == 0
    record = json.loads((tmp_path / "report" / "results.json").read_text())
    kinds = [(row["family"], row["distance"], row["bptt"]) for row in record["rows"]]
    assert kinds == [("gru", 2, None), ("transformer", 2, None), ("gru", 2, 2)]
    assert record["steps"] == 2 and record["symbols"] == 8 and {"hardware", "versions", "date"} <= set(record)
    assert (tmp_path / "report" / "truncation.png").stat().st_size > 10_000
    ended = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("runs/*/*/result.json")}
    assert len(ended) == 3 and experiment.run_here(monkeypatch, module, *words) == 0
    assert {path: path.stat().st_mtime_ns for path in ended} == ended


def test_an_unknown_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert experiment.run_here(monkeypatch, experiment.load("truncation"), tmp_path, "--task.distanse", "2") == 2
    assert "task.distanse: unknown key" in (said := capsys.readouterr().err) and "did you mean 'distance'" in said


def test_what_is_said_was_recorded() -> None:
    module, record = experiment.load("truncation"), json.loads(RECORDED.read_text())
    assert module.as_table(record["rows"]) in README.read_text()
    assert module.in_words(record["rows"]) in module.__doc__
    planned = [run.config for run in read_sweep(experiment.SWEEPS / "truncation.yaml").runs()]
    kinds = {(config.model.family, config.task.distance, config.task.bptt) for config in planned}
    recorded = [(row["family"], row["distance"], row["bptt"]) for row in record["rows"]]
    assert set(recorded) == kinds and 3 * len(recorded) == len(planned)
    assert all(len(row["accuracy"]) == 3 for row in record["rows"])
