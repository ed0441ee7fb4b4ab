"""Student's interval of a few runs: equal to scipy's, and how often it holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from seqjax.laws.intervals import t_interval


def test_t_interval_against_scipy() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=5)
    mean, half = t_interval(values)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert mean - half == pytest.approx(low) and mean + half == pytest.approx(high)


def test_t_interval_holds_the_truth_in_95_percent_of_draws() -> None:
    draws = np.random.default_rng(1).normal(size=(4000, 4))
    held = np.mean([abs(mean) <= half for mean, half in map(t_interval, draws)])
    assert held == pytest.approx(0.95, abs=0.011)  # three standard errors


def test_one_value_has_no_interval() -> None:
    assert np.isnan(t_interval([1.0])[1])
