"""Intervals: order statistics of draws, and Student's t for a few seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TAIL = 40  # one of so many draws is below a 95 % interval, and one above it
LEAST_DRAWS = 40  # smallest number of draws for an interval
LOST = 0.025  # largest share of draws without a value


def bounds_of(drawn: np.ndarray) -> np.ndarray:
    """95 % intervals [2, ...] of draws [R, ...]: the k-th lowest and the k-th highest, k = floor((R + 1) / 40).

    One more draw is below the k-th lowest with the probability k / (R + 1) (Davison & Hinkley 1997, 5.2). Percentiles
    that put the ends of 100 draws at 0 and 100 % are narrower: they hold such a draw in 93 %. Draws may be infinite.
    NaN for fewer than 40 draws, or if more than 2.5 % have no value.
    """
    if len(drawn) < LEAST_DRAWS:
        return np.full((2, *drawn.shape[1:]), np.nan)
    ordered = np.sort(drawn, axis=0)  # NaN last
    count = len(drawn) - np.isnan(drawn).sum(axis=0)
    k = np.maximum((count + 1) // TAIL, 1)
    ends = np.take_along_axis(ordered, np.stack([k - 1, np.maximum(count - k, 0)]), axis=0)
    return np.where(count < (1 - LOST) * len(drawn), np.nan, ends)


def profile_ends(ends: Sequence[float | None]) -> tuple[float, float]:
    """The ends of a profile. A fit from a file has None for one that is infinite."""
    low, high = ends
    return -np.inf if low is None else low, np.inf if high is None else high


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of n independent runs, and half the width of its 95 % interval: t_{0.975, n-1} s / sqrt(n).

    s is the standard deviation with n - 1 (Student 1908, Biometrika 6). For one value the half width is NaN.
    """
    from scipy.special import stdtrit

    drawn = np.asarray(values, float)
    if len(drawn) < 2:
        return float(drawn.mean()), float("nan")
    return float(drawn.mean()), float(stdtrit(len(drawn) - 1, 0.975) * drawn.std(ddof=1) / np.sqrt(len(drawn)))
