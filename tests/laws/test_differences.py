"""Differences of two fits have Welch's degrees of freedom."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from seqjax.laws import fit, make_points
from seqjax.laws.differences import difference
from seqjax.laws.ratios import crossing

NORMAL = stats.norm.ppf(0.975)


def drawn(left: int, scatter: float, seed: int) -> np.ndarray:
    """An estimate of 1 in row 0, and draws as refits to noise that is widened for few degrees of freedom."""
    noise = np.random.default_rng(seed).standard_normal((40_000, 1))
    return 1 + np.concatenate([[[0.0]], stats.t.ppf(0.975, left) / NORMAL * scatter * noise])


@pytest.mark.parametrize(("scatters", "together"), [((1.0, 1.0), 6.0), ((1.0, 0.0), 3.0), ((2.0, 1.0), 4.41176)])
def test_widths_are_those_of_welch(scatters: tuple[float, float], together: float) -> None:
    """left = (v_a + v_b)^2 / (v_a^2 / 3 + v_b^2 / 3): 6 of equal scatter, 3 of one alone, 75 / 17 of 2 to 1."""
    found = difference(*(drawn(3, scatter, seed) for seed, scatter in enumerate(scatters)), (3, 3))
    expected = stats.t.ppf(0.975, together) / NORMAL * np.hypot(*scatters)
    assert found[0, 0] == 0 and found[1:].std() == pytest.approx(expected, rel=0.02)


def test_what_is_never_reached_stays_so_and_no_draws_are_none() -> None:
    a, b = np.array([[1.0], [np.inf], [1.1], [0.9]]), np.array([[1.0], [1.0], [-np.inf], [1.2]])
    assert np.isinf(difference(a, b, (3, 3))[1:3]).all()
    assert difference(a[:1], b[:1], (3, 3)).tolist() == [[0.0]]


def test_equal_laws_are_not_told_apart() -> None:
    params = np.geomspace(1e4, 1e8, 8)
    points = make_points((1e13 / params) ** 0.08, params=params)
    found = crossing(*(fit(points, "kaplan-n", bootstrap=50, diagnose=False) for _ in "ab"))
    assert found.x is None and "equal within their intervals" in found.verdict
