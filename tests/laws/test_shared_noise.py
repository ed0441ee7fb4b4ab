"""Checkpoints of one run are recognised, by a column or by their residuals, taken together, and it is said."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from seqjax.laws import LAWS, Fit, fit, make_points, read_points
from seqjax.laws.files import from_dict, to_dict
from seqjax.laws.shared_noise import followed, runs_of_rows
from seqjax.laws.summary import checklist, describe

LAW = LAWS["chinchilla"]
TRUTH = LAW.theta_P({"E": 1.8, "A": 400.0, "B": 900.0, "alpha": 0.33, "beta": 0.30})


def table(seed: int, of_run: float, own: float, runs: int = 10, rows: int = 16) -> pd.DataFrame:
    """Losses along training: noise that a run has throughout, and noise of each row."""
    rng = np.random.default_rng(seed)
    n = np.repeat(np.geomspace(1e6, 1e9, runs), rows)
    d = np.repeat(np.geomspace(2e9, 2e10, runs), rows) * np.tile(np.linspace(0.1, 1.0, rows), runs)
    noise = np.repeat(of_run * rng.standard_normal(runs), rows) + own * rng.standard_normal(len(n))
    loss = LAW.loss(TRUTH, {"params": n, "tokens": d}) * np.exp(noise)
    return pd.DataFrame({"params": n, "tokens": d, "loss": loss})


def fitted(rows: pd.DataFrame, **options: object) -> Fit:
    points = read_points(rows, needs=("params", "tokens"), **options)
    return fit(points, LAW, bootstrap=80, diagnose=False, starts_SxP=TRUTH[None])


def test_residuals_that_follow_each_other_make_the_runs_clusters_and_intervals_wider() -> None:
    rows = table(0, of_run=3e-3, own=5e-4)
    found, alone = fitted(rows), fitted(rows.assign(row=np.arange(len(rows))), cluster="row")
    assert len(np.unique(found.points.cluster)) == 10 and len(np.unique(alone.points.cluster)) == 160
    widths = [np.ptp(f.intervals["alpha"]) for f in (found, alone)]
    assert widths[0] > 2 * widths[1]
    assert "note: points of one N count as checkpoints of one run" in describe(found)
    assert "checkpoints of one run share their noise: 150 such repetitions" in checklist(found)
    assert from_dict(json.loads(json.dumps(to_dict(found)))).points.clusters == "checkpoints of one run"
    assert not alone.points.notes


def test_runs_of_their_own_stay_apart() -> None:
    for seed in range(3):
        found = fitted(table(seed, of_run=0.0, own=3e-3))
        assert len(np.unique(found.points.cluster)) == 160 and not found.points.notes


def test_a_column_of_runs_tells_without_a_fit() -> None:
    rows = table(0, of_run=0.0, own=3e-3).assign(run=np.repeat([f"r{i // 2}" for i in range(20)], 8))
    points = read_points(rows, needs=("params", "tokens"))
    assert points.clusters == "column 'run'" and len(np.unique(points.cluster)) == 10
    assert points.notes == ("160 rows of 10 runs, by the column 'run': checkpoints of one run share its noise",)
    each = rows.assign(run=[f"r{i}" for i in range(160)])
    assert read_points(each, needs=("params", "tokens")).clusters == ""
    some = pd.DataFrame({"trunk": ["a", "a", None, None]})
    labels, name = runs_of_rows(some, {"tokens": np.array([1.0, 2.0, 1.0, 2.0])}) or (pd.Series(), "")
    assert name == "trunk" and labels.nunique() == 3
    assert runs_of_rows(some, {"tokens": np.ones(4)}) is None  # seeds of one label, at one D


def test_few_runs_have_no_intervals_and_it_is_said() -> None:
    found = fitted(table(0, of_run=3e-3, own=5e-4, runs=5))
    assert not found.intervals and len(found.points) == 80
    assert "note: 5 independent runs do not say how sure 5 constants are: there are no intervals" in describe(found)


@pytest.mark.parametrize("rows", [2, 16])
def test_only_runs_of_several_rows_are_looked_at(rows: int) -> None:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 20), np.arange(1.0, rows + 1), indexing="ij"))
    residuals = np.repeat(np.random.default_rng(0).standard_normal(20), rows)
    assert followed(n, d, residuals) == pytest.approx(1.0 if rows == 16 else 0.0)


def test_clusters_that_are_given_are_kept() -> None:
    rows = table(0, of_run=3e-3, own=5e-4)
    points = make_points(rows["loss"], cluster=np.arange(160), params=rows["params"], tokens=rows["tokens"])
    assert len(np.unique(points.cluster)) == 160 and points.clusters == "column 'cluster'"
