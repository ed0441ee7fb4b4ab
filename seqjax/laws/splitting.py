"""The compute-optimal N and D by a fitted law: the lowest loss along C = 6 N D, with N counted as in the points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.host.numerics import pinned
from seqjax.laws.intervals import bounds_of
from seqjax.laws.law import Law

WIDEST = 60.0  # the optimum is searched between e^-60 and e^60 tokens per parameter


@dataclass(frozen=True)
class Optimum:
    """The best split of a budget of C FLOPs, each [n], with 95 % intervals [n, 2] (NaN without refits)."""

    flops: np.ndarray
    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    params_interval: np.ndarray
    tokens_interval: np.ndarray
    loss_interval: np.ndarray


def best_split(law: Law, theta: np.ndarray, draws: np.ndarray, flops: float | np.ndarray) -> Optimum:
    """N, D and loss of the compute-optimal run by a law of N and D. ``draws`` of theta give the intervals.

    Raises:
        UserError: a law of other variables, or a budget that is not positive.
    """
    budgets = np.atleast_1d(np.float64(flops))
    if not (np.isfinite(budgets) & (budgets > 0)).all():
        raise UserError("flops: must be positive numbers")
    params, loss = _minima(law, theta[None], budgets)
    tokens = budgets / 6.0 / params[0]
    of_draws, losses = _minima(law, draws, budgets)
    bounds = [bounds_of(x).T for x in (of_draws, budgets / 6.0 / of_draws, losses)]
    return Optimum(budgets, params[0], tokens, loss[0], *bounds)


def split_exponent(law: Law, theta: np.ndarray, draws: np.ndarray, flops: float) -> tuple[float, tuple[float, float]]:
    """a of N_opt ~ C^a at a budget, with its 95 % interval; beta / (alpha + beta) for chinchilla. NaN if the law has no
    best split."""
    nearby = flops * np.exp([-0.5, 0.5])

    def slopes(thetas: np.ndarray) -> np.ndarray:
        return np.diff(np.log(_minima(law, thetas, nearby)[0]), axis=1)[:, 0]

    ((low, high),) = bounds_of(slopes(draws)[:, None]).T
    return float(slopes(theta[None])[0]), (float(low), float(high))


def _minima(law: Law, thetas: np.ndarray, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N_opt and loss, each [S, n], by a grid over log N that is refined around the minimum of every theta and budget.
    NaN if the loss falls to the end of the grid: there is no best split."""
    if not {"params", "tokens"} <= set(law.variables):
        raise UserError(f"{law.name} is no law of N and D, so it does not say how compute is best spent")
    if "unique_tokens" in law.variables:
        raise UserError(f"{law.name}: the best split depends on how many tokens there are; predict over sizes instead")
    center = np.broadcast_to(0.5 * np.log(budgets / 6.0), (len(thetas), len(budgets))).copy()
    width = np.full_like(center, WIDEST / 2)
    steps = np.linspace(-1.0, 1.0, 33)
    none = np.zeros(center.shape, bool)
    for closer in range(10):  # each time finer by a factor 16 / 1.5
        grid = center[..., None] + width[..., None] * steps
        loss = _losses(law, thetas, grid, budgets)
        best = loss.argmin(axis=-1)
        if closer == 0:
            none = (best == 0) | (best == len(steps) - 1)
        center = np.take_along_axis(grid, best[..., None], axis=-1)[..., 0]
        width = width * (1.5 / 16)
    return np.where(none, np.nan, np.exp(center)), np.where(none, np.nan, loss.min(axis=-1))


@cache
def _log_losses(law: Law) -> Callable:
    return jax.jit(jax.vmap(law.log_loss))


def _losses(law: Law, thetas: np.ndarray, log_n: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Losses of sizes [S, n, ...] at their budgets [n]."""
    if not len(thetas):
        return np.empty(log_n.shape)
    logs = {"params": log_n, "tokens": np.log(budgets[None, :, None] / 6.0) - log_n}
    with pinned(), jax.enable_x64(True):
        flat = {name: values.reshape(len(thetas), -1) for name, values in logs.items()}
        found = np.asarray(_log_losses(law)(thetas, flat)).reshape(log_n.shape)
    with np.errstate(over="ignore"):  # extreme refits at the ends of the grid
        return np.exp(found)
