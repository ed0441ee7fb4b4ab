"""Compute-optimal sizes from the envelope of training curves: approach 1 of Hoffmann et al. 2022 (arXiv 2203.15556).

N_opt = k C^a, section 3.1. Approach 2 is :mod:`seqjax.laws.isoflop`; approach 3, by a fitted law,
:meth:`seqjax.laws.fitting.Fit.optimal`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from seqjax.errors import UserError
from seqjax.host.wording import amount
from seqjax.laws.intervals import bounds_of
from seqjax.laws.points import Points
from seqjax.laws.weighing import PowerLaw

BUDGETS = 50


def envelope(curves: Mapping[float, tuple[np.ndarray, np.ndarray]], bootstrap: int = 1000, seed: int = 0) -> PowerLaw:
    """N_opt = k C^a from training curves: at each compute, the size of the run with the lowest loss (approach 1).

    The `BUDGETS` are equally spaced in log FLOPs over the range of at least two curves. Those at which the smallest or
    the largest run is the best are left out: there the envelope is unknown. The interval is over draws of the sizes.
    With few of them many draws have no two inner sizes: then there is none.

    Args:
        curves: size N -> (FLOPs, loss) along training, rising FLOPs.
    Raises:
        UserError: fewer than three curves, or fewer than two inner sizes are ever the best.
    """
    sizes = np.array(sorted(curves))
    if len(sizes) < 3:
        raise UserError(f"approach 1 needs the training curves of at least three sizes, not {len(sizes)}")
    ends = np.array([[curves[n][0][0], curves[n][0][-1]] for n in sizes])
    grid = np.geomspace(np.sort(ends[:, 0])[1], np.sort(ends[:, 1])[-2], BUDGETS)
    losses = np.array([_along(*curves[n], grid) for n in sizes])

    def law(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = losses[chosen].argmin(axis=0)
        inner = (best > 0) & (best < len(chosen) - 1) & np.isfinite(losses[chosen].min(axis=0))
        return grid[inner], sizes[chosen][best[inner]]

    x, y = law(np.arange(len(sizes)))
    if len(np.unique(y)) < 2:
        raise UserError("approach 1: fewer than two sizes between the smallest and the largest are ever the best")
    rng = np.random.default_rng(seed)
    slopes = []
    for _ in range(bootstrap):
        xs, ys = law(np.unique(rng.integers(len(sizes), size=len(sizes))))
        few = len(np.unique(ys)) < 2  # a draw without a law
        slopes.append(np.nan if few else np.polyfit(np.log(xs), np.log(ys), 1)[0])
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    low, high = bounds_of(np.reshape(slopes, (-1, 1)))[:, 0]
    return PowerLaw(float(np.exp(intercept)), float(slope), (float(low), float(high)), x, y)


def curves_of(points: Points) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Training curves for :func:`envelope` from points that are checkpoints: those of one N are one run.

    Raises:
        UserError: no N has several points, or there are several runs of one N.
    """
    params, flops = points.variables["params"], points.variables["flops"]
    found = {}
    for n in np.unique(params):
        rows = np.flatnonzero(params == n)
        rows = rows[np.argsort(flops[rows], kind="stable")]
        runs = len(np.unique(points.cluster[rows])) if points.clusters else 1
        if runs > 1 or len(np.unique(flops[rows])) < len(rows):
            raise UserError(
                f"{points.rows[rows[0]]}: there are several runs of N = {amount('params', n)}: keep one of each size "
                "with --where"
            )
        if len(rows) > 1:
            found[float(n)] = (flops[rows], points.loss[rows])
    if not found:
        raise UserError("approach 1 needs the losses along training: several rows of each N, a checkpoint each")
    return found


def _along(flops: np.ndarray, loss: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The loss of a curve at these budgets, linear in log FLOPs; infinite beyond its ends."""
    found = np.interp(np.log(at), np.log(flops), loss)
    return np.where((at < flops[0]) | (at > flops[-1]), np.inf, found)
