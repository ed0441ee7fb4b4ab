"""The reference fit: the points of Hoffmann et al. 2022 read off by Besiroglu et al. 2024, under named objectives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqjax.laws import Fit, Points, fit, read_points
from seqjax.laws.forms import LAWS
from seqjax.laws.searching import refit

COLUMNS = {"params": "Model Size", "flops": "Training FLOP", "loss": "loss"}
PUBLISHED = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
PUBLISHED_INTERVALS = {"E": (1.769, 1.871), "A": (285, 744), "B": (1042, 5810), "alpha": (0.317, 0.373),
                       "beta": (0.331, 0.415)}  # fmt: skip


@pytest.fixture(scope="module")
def points(shared_data: Path) -> Points:
    table = pd.read_csv(shared_data / "chinchilla_points.csv")
    return read_points(table, COLUMNS, LAWS["chinchilla"].variables, drop_highest=5)


FEW = LAWS["chinchilla"].starts_SxP()[::37]  # where the search itself is not the question


@pytest.fixture(scope="module")
def huber(points: Points) -> Fit:
    return fit(points, "chinchilla", bootstrap=300, starts_SxP=FEW)


def test_the_rows_are_those_of_the_stated_rule(points: Points) -> None:
    assert len(points) == 240 and len(points.left_out) == 5
    assert {gone.rule for gone in points.left_out} == {"one of the 5 highest losses"}
    assert points.conventions["tokens"] == "FLOPs / (6 N)" and "FLOPs / (6 N)" in points.notes[0]


@pytest.mark.slow
def test_huber_finds_the_true_minimum(points: Points) -> None:
    """Objective: sum of Huber losses of log L, delta 1e-3. Found by another program with analytic gradients."""
    huber = fit(points, "chinchilla", bootstrap=0, diagnose=False)
    assert huber.objective == "huber" and huber.delta == 1e-3
    np.testing.assert_allclose(huber.value, 1.0182740e-3, rtol=1e-6)
    expected = {"E": 1.81722, "A": 477.83, "B": 2143.42, "alpha": 0.34731, "beta": 0.36717}
    for name, value in expected.items():
        np.testing.assert_allclose(huber.constants[name], value, rtol=2e-5)
    assert huber.gradient < 1e-8
    assert huber.starts == 4500 and huber.agreeing > 0.3


def test_its_intervals_hold_the_published_values_and_have_the_published_width(huber: Fit) -> None:
    for name, value in PUBLISHED.items():
        low, high = huber.intervals[name]
        assert low < value < high
        there = PUBLISHED_INTERVALS[name]
        assert 0.7 < (high - low) / (there[1] - there[0]) < 1.4
        profile_low, profile_high = huber.details["profiles"][name]
        assert profile_low < value < profile_high


def test_near_lad_gives_the_published_constants(points: Points) -> None:
    """482 / 2085 is the minimum of least absolute deviations, not of Huber with delta 1e-3."""
    found = fit(points, "chinchilla", objective="lad", bootstrap=0, diagnose=False, starts_SxP=FEW)
    for name, value in {"E": 1.81684, "A": 481.93, "B": 2085.0, "alpha": 0.34780, "beta": 0.36584}.items():
        np.testing.assert_allclose(found.constants[name], value, rtol=1e-4)
    assert abs(found.constants["A"] - PUBLISHED["A"]) < 1 and abs(found.constants["B"] - PUBLISHED["B"]) < 2


def test_other_deltas_and_rows(points: Points, shared_data: Path) -> None:
    for delta, a, b in ((1e-1, 593.32, 4875.6), (1e-2, 538.75, 2905.6)):
        found = fit(points, "chinchilla", delta=delta, bootstrap=0, diagnose=False, starts_SxP=FEW)
        np.testing.assert_allclose([found.constants["A"], found.constants["B"]], [a, b], rtol=1e-4)
    everything = read_points(pd.read_csv(shared_data / "chinchilla_points.csv"), COLUMNS, ("params", "tokens"))
    found = fit(everything, "chinchilla", bootstrap=0, diagnose=False, starts_SxP=FEW)
    np.testing.assert_allclose([found.constants["A"], found.constants["B"]], [495.73, 12845.6], rtol=1e-4)


def test_the_optimal_split(huber: Fit) -> None:
    """a = beta / (alpha + beta) at every budget, and the loss at the split is the lowest of its budget."""
    slope, (low, high) = huber.exponent(1e21)
    np.testing.assert_allclose(slope, 0.5139, atol=1e-4)
    assert low < 0.5139 < high and 0.05 < high - low < 0.12
    found = huber.optimal([1e19, 1e21, 1e25])
    c = huber.constants
    g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
    expected = g * (np.array([1e19, 1e21, 1e25]) / 6) ** (c["beta"] / (c["alpha"] + c["beta"]))
    np.testing.assert_allclose(found.params, expected, rtol=1e-6)
    np.testing.assert_allclose(6 * found.params * found.tokens, found.flops)
    assert (found.params_interval[:, 0] < found.params).all() and (found.params < found.params_interval[:, 1]).all()


def test_the_other_published_fit_is_no_minimum(points: Points, huber: Fit) -> None:
    """The objective at Hoffmann's own constants, and at the replication's; the published figures of both."""
    law = LAWS["chinchilla"]
    held = np.zeros((2, 5), bool)
    hoffmann = law.theta_P({"E": np.exp(0.52672), "A": np.exp(6.00734), "B": np.exp(6.01792), "alpha": 0.33917,
                            "beta": 0.28491})  # fmt: skip
    there = refit(law, points, np.stack([hoffmann, law.theta_P(PUBLISHED)]), [1e-3], free_SxP=held)
    np.testing.assert_allclose(there.value_S[0], 1.2312e-3, rtol=5e-4)  # the constants have five digits
    np.testing.assert_allclose(there.value_S[1], 1.0186447e-3, rtol=5e-3)  # these four
    assert (there.value_S > huber.value).all()


def test_the_flags_name_what_is_known_of_these_points(huber: Fit) -> None:
    kinds = {flag.partition(":")[0] for flag in huber.flags}
    assert "correlated" in kinds  # A with alpha, B with beta
    assert "starts" not in kinds and "range" not in kinds
    assert huber.details["hold_out"]["points"] == 24
    np.testing.assert_allclose(np.abs(huber.residuals).mean(), 0.00471, atol=1e-5)
    np.testing.assert_allclose(np.sqrt((huber.residuals**2).mean()), 0.00755, atol=1e-5)
