"""Intervals: percentiles of refits, and Student's t for a few seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = (2.5, 97.5)  # percentiles of an interval
LEAST_DRAWS = 40  # smallest number of refits for these percentiles
LOST = 0.025  # largest share of refits without a value


def bounds_of(drawn: np.ndarray) -> np.ndarray:
    """95 % intervals [2, n] of values [R, n]; NaN for too few refits, or if more than 2.5 % have no value."""
    if len(drawn) < LEAST_DRAWS:
        return np.full((2, drawn.shape[1]), np.nan)
    lost = np.isnan(drawn).mean(axis=0) > LOST
    with np.errstate(invalid="ignore"):  # between two infinite draws
        return np.where(lost, np.nan, np.nanpercentile(np.where(lost, 0.0, drawn), LEVEL, axis=0))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of n independent runs, and half the width of its 95 % interval: t_{0.975, n-1} s / sqrt(n).

    s is the standard deviation with n - 1 (Student 1908, Biometrika 6). For one value the half width is NaN.
    """
    from scipy.special import stdtrit

    drawn = np.asarray(values, float)
    if len(drawn) < 2:
        return float(drawn.mean()), float("nan")
    return float(drawn.mean()), float(stdtrit(len(drawn) - 1, 0.975) * drawn.std(ddof=1) / np.sqrt(len(drawn)))
