"""Variable projection with scipy finds the same minimum as :mod:`seqjax.laws` on tables of N, D and L."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from balanced_law import loss_of
from experiment import REPOSITORY, load

from seqjax.laws import LAWS, Points, fit, make_points, read_points

LAW = LAWS["chinchilla"]
FEW = LAW.starts_SxP()[::37]
FIGURE7 = REPOSITORY / "experiments" / "results" / "figure7" / "laptop" / "runs.csv"
COLUMNS = {"params": "Model Size", "flops": "Training FLOP", "loss": "loss"}


def synthetic(noise: float, seed: int, sizes: int = 6, **constants: float) -> Points:
    truth = {"E": 1.8172, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672} | constants
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e10, sizes), np.geomspace(1e8, 1e12, 5)))
    loss = LAW.loss(LAW.theta_P(truth), {"params": n, "tokens": d})
    return make_points(loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))), params=n, tokens=d)


def balanced() -> Points:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    return make_points(loss_of(n, d) * np.exp(0.002 * np.random.default_rng(5).standard_normal(36)), params=n, tokens=d)


def figure7(kind: str) -> Points:
    return read_points(pd.read_csv(FIGURE7), needs=LAW.variables, where=f"kind == '{kind}'")


def published(shared_data: Path, drop: int) -> Points:
    return read_points(pd.read_csv(shared_data / "chinchilla_points.csv"), COLUMNS, LAW.variables, drop_highest=drop)


def same_minimum(points: Points) -> None:
    """The values agree to 1e-8 and the curves to 1e-5."""
    found = fit(points, LAW, objective="least-squares", errors="nats", bootstrap=0, diagnose=False, starts_SxP=FEW)
    value, constants = load("projection").projected(points.variables["params"], points.variables["tokens"], points.loss)
    np.testing.assert_allclose(found.value, value, rtol=1e-8)
    ours, theirs = (LAW.loss(theta, points.variables) for theta in (found.theta, LAW.theta_P(constants)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_on_synthetic_tables(seed: int) -> None:
    same_minimum(synthetic(0.003 * 3**seed, seed, alpha=0.25 + 0.1 * seed))


@pytest.mark.slow
def test_on_a_table_of_equal_exponents() -> None:
    same_minimum(balanced())


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0, 5])
def test_on_the_points_of_hoffmann(shared_data: Path, drop: int) -> None:
    same_minimum(published(shared_data, drop))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "transformer gpt2", "transformer modern"])
def test_on_recorded_runs(kind: str) -> None:
    """Two sizes do not determine alpha, but the minimum and the curve at the runs."""
    same_minimum(figure7(kind))
