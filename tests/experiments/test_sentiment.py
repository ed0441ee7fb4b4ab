"""The experiment on sentiment: it runs on its built-in sentences, and what the texts say of it was recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import experiment
import pytest

MODULE = experiment.load("sentiment")
RECORDED = experiment.RESULTS / "sentiment"


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((RECORDED / "results.json").read_text())


def run(monkeypatch: pytest.MonkeyPatch, place: Path, *words: str) -> int:
    options = ["--runs", str(place / "runs"), "--report", str(place / "report"), *words]
    monkeypatch.setattr(sys, "argv", ["sentiment.py", *options])
    monkeypatch.setattr(MODULE, "share_compilations", lambda: None)
    return MODULE.guarded(MODULE.main)


def test_a_small_run_ends_with_a_table_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MODULE, "VARIANTS", (MODULE.Variant("bag", "mean"), MODULE.Variant("gru", "mean", False)))
    small = ("--seeds", "2", "--train.steps", "2", "--model.d-model", "8", "--train.batch-size", "10")
    assert run(monkeypatch, tmp_path, "--configs", str(MODULE.CONFIGS[1]), *small) == 0
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    rows = found["corpora"]["phrases"]["rows"]
    assert [len(row["accuracy"]) for row in rows] == [2, 2]
    assert MODULE.as_table(found, "phrases") in capsys.readouterr().out
    assert all((tmp_path / "report" / f"sentiment.{kind}").stat().st_size > 5000 for kind in ("svg", "png"))


def test_a_file_of_ones_own_is_learned_and_its_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MODULE, "VARIANTS", (MODULE.Variant("bag", "mean"),))
    own = tmp_path / "my.txt"
    own.write_text("".join(f"{i % 2} {('bad', 'good')[i % 2]} film\n" for i in range(40)))
    small = ("--configs", str(MODULE.CONFIGS[1]), "--seeds", "1", "--train.steps", "3", "--model.d-model", "8")
    assert run(monkeypatch, tmp_path, *small, "--task.corpus", str(own)) == 0
    own.write_text("1 good film\n7 bad film\n")
    assert run(monkeypatch, tmp_path, *small, "--task.corpus", str(own)) == 2
    assert f"error: {own}:2: the label '7' is none of 0, 1" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path, *small, "--task.pool", "median") == 2
    assert "task.pool" in capsys.readouterr().err


def test_the_best_of_the_grid_were_chosen() -> None:
    grid = json.loads((RECORDED / "grid.json").read_text())
    assert grid["corpus"] == "sst2"
    assert MODULE.best_of(grid["rows"]) == MODULE.CHOSEN
    assert len(grid["rows"]) == len(MODULE.CHOSEN) * len(MODULE.GRID_RATES)


def test_the_readme_shows_the_recorded_tables(record: dict) -> None:
    readme = (experiment.REPOSITORY / "experiments" / "README.md").read_text()
    for corpus in ("sst2", "phrases"):
        assert MODULE.as_table(record, corpus) in readme
    for name, value in MODULE.PUBLISHED.items():
        assert record["published"][name] == value and str(value) in readme


def test_the_docstring_tells_what_was_recorded(record: dict) -> None:
    assert MODULE.summary(record) in " ".join(MODULE.__doc__.split())


def test_every_head_of_a_family_was_recorded_with_its_seeds(record: dict) -> None:
    for corpus in ("sst2", "phrases"):
        rows = record["corpora"][corpus]["rows"]
        found = [MODULE.Variant(row["family"], row["pool"], row["causal"]) for row in rows]
        families = {variant.family for variant in found}
        assert found == [variant for variant in MODULE.VARIANTS if variant.family in families]
        assert len({len(row["accuracy"]) for row in rows}) == 1 and len(rows[0]["accuracy"]) >= 3
        for row in rows:
            mean, half = MODULE.t_interval(row["accuracy"])
            assert (row["mean"], row["half_width"]) == pytest.approx((mean, half))
    assert record["corpora"]["sst2"]["sentences"] == [6920, 872, 1821]
