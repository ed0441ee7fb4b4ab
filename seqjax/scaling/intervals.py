"""Intervals from refits: percentiles, where there are enough of them."""

from __future__ import annotations

import numpy as np

LEVEL = (2.5, 97.5)  # percentiles of an interval
LEAST_DRAWS = 40  # fewer refits have no such percentiles
LOST = 0.025  # share of the refits that may have no value


def bounds_of(drawn: np.ndarray) -> np.ndarray:
    """95 % intervals [2, n] of values [R, n]; NaN with too few refits, or where more than 2.5 % have no value."""
    if len(drawn) < LEAST_DRAWS:
        return np.full((2, drawn.shape[1]), np.nan)
    lost = np.isnan(drawn).mean(axis=0) > LOST
    with np.errstate(invalid="ignore"):  # between two infinite draws
        return np.where(lost, np.nan, np.nanpercentile(np.where(lost, 0.0, drawn), LEVEL, axis=0))
