"""Losses at equal compute from a grid of sizes and lengths, for IsoFLOP profiles without runs of their own.

    log L of one size is interpolated in log C between its runs, by a monotone cubic (Fritsch & Carlson 1980)

Porian et al. 2024 (arXiv 2406.19146) read their IsoFLOP profiles from longer runs in this way. Nothing is extrapolated:
a size has no loss at a budget outside of its runs. The runs of one size should have their own decay and best rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

from seqjax.errors import UserError
from seqjax.laws.points import Points, make_points

LEAST_RUNS = 3  # lengths of a size that is interpolated


def at_equal_compute(points: Points, budgets: Sequence[float]) -> Points:
    """A point for each budget in FLOPs and each size whose runs reach from below to above it.

    Args:
        points: with ``params``, ``tokens`` and ``flops``; runs of one size and length count once, with their mean loss.
    Raises:
        UserError: no size has `LEAST_RUNS` lengths around any of the budgets.
    """
    rows = []
    for params in np.unique(points.variables["params"]):
        here = points.variables["params"] == params
        flops, run = np.unique(points.variables["flops"][here], return_inverse=True)
        if len(flops) < LEAST_RUNS:
            continue
        loss = np.bincount(run, points.loss[here]) / np.bincount(run)
        tokens = float(np.mean(points.variables["tokens"][here] / points.variables["flops"][here]))
        curve = PchipInterpolator(np.log(flops), np.log(loss), extrapolate=False)
        rows += [(np.exp(curve(np.log(c))), params, tokens * c, c) for c in budgets if flops[0] <= c <= flops[-1]]
    if not rows:
        named = ", ".join(f"{budget:g}" for budget in budgets)
        raise UserError(f"no size has {LEAST_RUNS} lengths around any of the budgets {named}")
    losses, params, tokens, flops = np.array(rows).T
    return make_points(losses, params=params, tokens=tokens, flops=flops)
