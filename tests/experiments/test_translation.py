"""The experiment runs at tiny size, resumes, and what it says is what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from experiment import load, run_here

from seqjax.config import run_id
from seqjax.runs.config_file import load_config

REPOSITORY = Path(__file__).parent.parent.parent
RESULTS = REPOSITORY / "experiments" / "results" / "translation"


@pytest.mark.slow
def test_it_runs_at_tiny_size_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    experiment = load("translation")
    tiny = {
        "train.steps": "4",
        "optimizer.warmup_steps": "1",
        "train.evaluate_every": "2",
        "task.training_pairs": "100",
        "task.beam": "2",
    }
    words = ["--only.base", "numbers-gru", *(word for key, value in tiny.items() for word in (f"--{key}", value))]
    assert run_here(monkeypatch, experiment, tmp_path, *words) == 0
    first = json.loads((tmp_path / "report" / "results.json").read_text())
    assert run_here(monkeypatch, experiment, tmp_path, *words, "--translate", "twelve") == 0
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == first
    assert "numbers-gru: " in capsys.readouterr().out
    assert first["numbers-gru"]["steps"] == 4 and len(first["numbers-gru"]["curve"]) == 2
    assert (tmp_path / "report" / "translation.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", sorted(folder.name for folder in RESULTS.iterdir()))
def test_the_readme_shows_the_recorded_table(name: str) -> None:
    shown = (REPOSITORY / "experiments" / "README.md").read_text()
    rows = json.loads((RESULTS / name / "results.json").read_text())
    table = load("translation").as_text(rows)
    assert table == (RESULTS / name / "table.md").read_text()
    for line in table.splitlines():
        assert line in shown


@pytest.mark.parametrize("name", sorted(folder.name for folder in RESULTS.iterdir()))
def test_the_configs_are_those_that_were_recorded(name: str) -> None:
    """A key that came later leaves the ids as they were: a finished run is found, and not trained again."""
    rows = json.loads((RESULTS / name / "results.json").read_text())
    for config, row in rows.items():
        path = REPOSITORY / "configs" / "tasks" / f"{config}.yaml"
        assert row["run_id"] == f"{config}-{run_id(load_config(path)).rpartition('-')[2]}"


def test_the_docstring_says_what_was_recorded() -> None:
    rows, text = json.loads((RESULTS / "numbers" / "results.json").read_text()), load("translation").__doc__
    for name, shown in (
        ("transformer", "Transformer"),
        ("gru", "GRU with attention"),
        ("gru-cho", "GRU without attention"),
    ):
        beam = rows[f"numbers-{name}"]["test"]["beam"]
        low, high = (100 * bound for bound in beam["exact_95"])
        assert f"{shown} {100 * beam['exact']:.1f} ({low:.1f} to {high:.1f}) %" in text


def test_both_families_solve_the_generated_task() -> None:
    rows = json.loads((RESULTS / "numbers" / "results.json").read_text())
    for name in ("numbers-transformer", "numbers-gru", "numbers-lstm"):
        assert rows[name]["test"]["beam"]["exact"] > 0.99
