"""Intervals of draws, and of a few runs: equal to what is known, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from seqjax.laws.intervals import bounds_of, t_interval


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


@pytest.mark.parametrize("count", [40, 100, 1000])
def test_an_interval_of_draws_holds_one_more_draw_in_95_percent(count: int) -> None:
    """Exactly (R + 1 - 2 k) / (R + 1), that is 95.1, 96.0 and 95.0 %."""
    drawn = np.random.default_rng(2).normal(size=(count + 1, 4000))
    low, high = bounds_of(drawn[1:])
    held = ((low <= drawn[0]) & (drawn[0] <= high)).mean()
    assert held == pytest.approx(1 - 2 * ((count + 1) // 40) / (count + 1), abs=0.011)  # three standard errors


def test_draws_may_be_infinite_and_few_may_be_missing() -> None:
    drawn = np.full((100, 3), np.inf)
    drawn[:50] = np.arange(50)[:, None]
    drawn[50:53, 1], drawn[50:52, 2] = np.nan, np.nan
    np.testing.assert_array_equal(bounds_of(drawn), [[1, np.nan, 1], [np.inf, np.nan, np.inf]])
    assert np.isnan(bounds_of(drawn[:39])).all()
