"""Values that were meant to be equal: sizes of widths that are whole numbers, tokens of whole steps."""

from __future__ import annotations

import numpy as np


def ranks_of(values_n: np.ndarray, apart: float) -> np.ndarray:
    """Rank, from 0, of the group of each value above 0: sorted neighbours with ratios up to ``apart`` are one group."""
    order = np.argsort(values_n)
    rising = np.asarray(values_n, float)[order]
    ranks_n = np.empty(len(rising), int)
    ranks_n[order] = np.cumsum(rising > apart * np.append(rising[:1], rising[:-1]))
    return ranks_n
