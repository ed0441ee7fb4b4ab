"""The experiment on sentiment: it runs on its built-in sentences, and what the texts say of it was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import experiment
import pytest

from seqjax.sweeps.grid import read_sweep

MODULE = experiment.load("sentiment")
RECORDED = experiment.RESULTS / "sentiment"


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((RECORDED / "results.json").read_text())


SMALL = ["--train.steps", "2", "--model.d-model", "8", "--train.batch-size", "10", "--only.base", "sentiment-phrases"]
BAG = ["--only.model.n-layers", "0"]


@pytest.mark.slow
def test_a_small_run_ends_with_a_table_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "--seeds", "2", "--only.model.family", "gru", "--only.task.causal", "false"]
    assert experiment.run_here(monkeypatch, MODULE, tmp_path, *words) == 0
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    (row,) = found["corpora"]["phrases"]["rows"]
    assert (row["family"], row["pool"], row["causal"], len(row["accuracy"])) == ("gru", "mean", False, 2)
    assert MODULE.as_table(found, "phrases") in capsys.readouterr().out
    assert all((tmp_path / "report" / f"sentiment.{kind}").stat().st_size > 5000 for kind in ("svg", "png"))


def test_a_file_of_ones_own_is_learned_and_its_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "my.txt"
    own.write_text("".join(f"{i % 2} {('bad', 'good')[i % 2]} film\n" for i in range(40)))
    small = (*SMALL, *BAG, "--seeds", "1", "--task.corpus", str(own))
    assert experiment.run_here(monkeypatch, MODULE, tmp_path, *small) == 0
    (row,) = json.loads((tmp_path / "report" / "results.json").read_text())["corpora"][str(own)]["rows"]
    assert row["family"] == "bag"
    own.write_text("1 good film\n7 bad film\n")
    assert experiment.run_here(monkeypatch, MODULE, tmp_path / "again", *small) == 2
    assert f"error: {own}:2: the label '7' is none of 0, 1" in capsys.readouterr().err
    assert experiment.run_here(monkeypatch, MODULE, tmp_path, *small, "--task.least-count", "none") == 2
    assert "task.least_count" in capsys.readouterr().err


def test_the_best_of_the_grid_were_chosen() -> None:
    grid = json.loads((RECORDED / "grid.json").read_text())
    assert grid["corpus"] == "sst2"
    planned = [run.config for run in read_sweep(experiment.SWEEPS / "sentiment-rates.yaml").runs()]
    tried = [(MODULE.family_of(config), config.optimizer.learning_rate) for config in planned]
    assert [(row["family"], row["learning_rate"]) for row in grid["rows"]] == tried
    trained = [run.config for run in read_sweep(experiment.SWEEPS / "sentiment.yaml").runs()]
    chosen = {MODULE.family_of(c): c.optimizer.learning_rate for c in trained if c.task.corpus == "sst2"}
    assert MODULE.best_of(grid["rows"]) == chosen


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
        planned = [
            run.config for run in read_sweep(experiment.SWEEPS / "sentiment.yaml", {"only.train.seed": 0}).runs()
        ]
        kinds = [(MODULE.family_of(c), c.task.pool, c.task.causal) for c in planned if c.task.corpus == corpus]
        assert [(row["family"], row["pool"], row["causal"]) for row in rows] == kinds
        assert len({len(row["accuracy"]) for row in rows}) == 1 and len(rows[0]["accuracy"]) >= 3
        for row in rows:
            mean, half = MODULE.t_interval(row["accuracy"])
            assert (row["mean"], row["half_width"]) == pytest.approx((mean, half))
    assert record["corpora"]["sst2"]["sentences"] == [6920, 872, 1821]
