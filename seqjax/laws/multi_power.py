"""The Multi-Power law: a learning curve under any schedule of the learning rate, to forecast the end of a run.

    L(t) = L_0 + A S(t)^-alpha - B sum_{k <= t} (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t)),
    G(x) = 1 - (C x + 1)^-beta

with S(t) the sum of the learning rates to step t, the warmup's included, and S_k(t) that from step k on (Luo et al.
2025, arXiv 2503.12811). The last term is what decay takes off. Rates are in units of the highest one here, so that
S counts steps at it. Falls of the rate are gathered into at most `PIECES` steps for each curve.

Seven constants hold for one model, data and batch; curves of several schedules are fitted together. The objective is
Huber's of log L, as elsewhere, with a weak prior on all constants but L_0 and A: few curves do not tell B, C, beta and
gamma apart. L_0, A and B enter linearly: starts solve them. Intervals are those of refits to
noise as in :mod:`seqjax.laws.noise`. The residuals of neighbouring evaluations follow each other, so blocks of them
share their noise; a block is as long as their correlation asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.host.numerics import pinned
from seqjax.laws.intervals import LEAST_DRAWS, bounds_of
from seqjax.laws.minimise import minimise
from seqjax.laws.noise import drawn_noise
from seqjax.laws.projected import nonnegative
from seqjax.laws.searching import DELTAS, deltas_to

NAMES = ("L_0", "A", "B", "C", "alpha", "beta", "gamma")
PIECES = 16
GRID = {"C": (1e-3, 1e-2, 1e-1), "alpha": (0.3, 0.7), "beta": (0.3, 1.0), "gamma": (0.5,)}
PRIOR = ((2, np.log(0.3), 1.5), (3, np.log(0.03), 2.0), (4, np.log(0.5), 0.7), (5, np.log(0.6), 0.7), (6, 0.5, 0.4))
"""(place in theta, middle, width) of B, C, alpha, beta and gamma, about as the paper finds them."""
TAU = 3e-3  # the prior of each weighs as one evaluation with a residual of this size, a width away
SMALLEST = 1e-6  # share of the loss that a term begins with
LONGEST = 4  # evaluations that share their noise, at most


@dataclass(frozen=True)
class Curve:
    """A learning curve: losses [n] at steps [n], and the learning rate of each step of its whole schedule [T]."""

    steps: np.ndarray
    loss: np.ndarray
    rates: np.ndarray


@dataclass(frozen=True)
class Forecast:
    """The loss at the last step of a schedule, with its 95 % interval.

    Attributes:
        constants: of the law, by name; residual: root mean square of the residuals of log L.
        flags: reasons to doubt the forecast.
    """

    loss: float
    interval: tuple[float, float]
    constants: dict[str, float]
    residual: float
    flags: tuple[str, ...]


class _Places(NamedTuple):
    """What the law reads at n steps: S [n], falls of the rate [n, K], the rate after each [n, K], and S_k [n, K]."""

    total: Any
    falls: Any
    after: Any
    since: Any


def forecast(curves: Sequence[Curve], rates: np.ndarray, bootstrap: int = 300, seed: int = 0) -> Forecast:
    """The loss at the end of a schedule, by the law through all curves.

    Args:
        curves: of the run as far as it is known, and of earlier ones of the same model, data and batch.
        rates: the learning rate of each step of the run that is forecast, to its end.
        bootstrap: refits for the interval; 0: none.
    Raises:
        UserError: fewer evaluations after the warmup than the law needs, or the rate falls in no curve but will.
    """
    top = max(float(np.max(curve.rates)) for curve in curves)
    kept = [_after_warmup(curve) for curve in curves]
    places = [_places(curve.steps, curve.rates / top) for curve in kept]
    end = _places(np.array([len(rates)]), np.asarray(rates, float) / top)
    loss = np.concatenate([curve.loss for curve in kept])
    if len(loss) < 2 * len(NAMES):
        raise UserError(f"forecast: {len(loss)} evaluations after the warmup are too few for {len(NAMES)} constants")
    seen = max(float(one.falls.sum(axis=1).max(initial=0.0)) for one in places)
    if end.falls.sum() > 0 and not seen > 0:
        raise UserError(
            "forecast: the learning rate falls before the end, and in no curve so far: add a finished run whose rate "
            "falls, of the same model and batch"
        )
    shared = (_Places(*(jnp.asarray(np.concatenate(column)) for column in zip(*places, strict=True))), np.log(loss))
    theta = _best(shared, loss)
    draws = _draws(theta, shared, kept, bootstrap, seed)
    at_end = np.exp(_values(np.vstack([theta[None], draws]), end)[:, 0])
    residuals = np.log(loss) - _values(theta[None], shared[0])[0]
    low, high = bounds_of(at_end[1:, None])[:, 0]
    flags = []
    if seen < 0.5 * end.falls.sum():
        flags.append(f"schedule: so far the rate has fallen by {seen:.0%} of its highest, at the end by "
                     f"{end.falls.sum():.0%}; the forecast leans on the form of the law, which the interval "
                     "does not doubt")  # fmt: skip
    if 0 < len(draws) < 0.95 * bootstrap:
        flags.append(f"starts: {1 - len(draws) / bootstrap:.0%} of the refits failed, and are left out")
    constants = dict(zip(NAMES, (*np.exp(theta[:6]), theta[6]), strict=True))
    size = float(np.sqrt((residuals**2).mean()))
    return Forecast(float(at_end[0]), (float(low), float(high)), {k: float(v) for k, v in constants.items()}, size,
                    tuple(flags))  # fmt: skip


def _after_warmup(curve: Curve) -> Curve:
    keep = np.asarray(curve.steps) > np.argmax(curve.rates)
    return Curve(np.asarray(curve.steps)[keep], np.asarray(curve.loss, float)[keep], np.asarray(curve.rates, float))


def _places(steps: np.ndarray, rates: np.ndarray) -> _Places:
    """What the law reads at these steps (counted from 1) of a schedule whose highest rate is 1."""
    total = np.cumsum(rates)
    top = int(np.argmax(rates))
    falls = np.maximum(0.0, -np.diff(rates, prepend=rates[0]))
    falls[: top + 1] = 0.0
    where = np.flatnonzero(falls > 0)
    groups = [group for group in np.array_split(where, min(PIECES, len(where))) if len(group)] if len(where) else []
    count = np.zeros((len(steps), PIECES))
    after, since = np.ones((len(steps), PIECES)), np.zeros((len(steps), PIECES))
    for k, group in enumerate(groups):
        inside = group[None, :] < steps[:, None]  # falls that have happened
        weight = falls[group] * inside
        size = weight.sum(axis=1)
        middle = np.where(size > 0, (weight * group).sum(axis=1) / np.maximum(size, 1e-300), 0.0)
        place = np.minimum(np.round(middle).astype(int), len(rates) - 1)
        count[:, k] = size
        after[:, k] = np.maximum(rates[place], 1e-3)
        since[:, k] = np.where(size > 0, total[steps - 1] - total[place] + rates[place], 0.0)
    return _Places(total[steps - 1], count, after, since)


def _log_loss(theta: jax.Array, at: _Places) -> jax.Array:
    l_0, a, b, c, alpha, beta = jnp.exp(theta[:6])
    return jnp.log(l_0 + a * at.total**-alpha - b * _gain(at, c, beta, theta[6]))


def _gain(at: _Places, c: Any, beta: Any, gamma: Any) -> Any:
    """What decay takes off for B = 1, [n]."""
    return (at.falls * -jnp.expm1(-beta * jnp.log1p(c * at.after**-gamma * at.since))).sum(axis=-1)


def _residuals(theta: jax.Array, shared: Any) -> jax.Array:
    at, log_loss = shared
    places, middles, widths = (np.array(column) for column in zip(*PRIOR, strict=True))
    prior = TAU * (theta[places.astype(int)] - middles) / widths
    return jnp.concatenate([_log_loss(theta, _Places(*at)) - log_loss, prior])


def _values(theta_SxP: np.ndarray, at: _Places) -> np.ndarray:
    with pinned(), jax.enable_x64(True):
        at = _Places(*map(jnp.asarray, at))
        return np.asarray(jax.vmap(lambda theta: _log_loss(theta, at))(jnp.asarray(theta_SxP)))


def _starts(at: _Places, loss: np.ndarray) -> np.ndarray:
    """Every combination of `GRID`, with L_0, A and B solved."""
    with pinned(), jax.enable_x64(True):
        at = _Places(*(np.asarray(x) for x in at))
        found = []
        for c, alpha, beta, gamma in product(*GRID.values()):
            gain = np.asarray(_gain(at, c, beta, gamma))
            # L_0 stands for what is left when all of the gain is had, so that all coefficients are positive
            columns = np.stack([np.ones_like(loss), at.total**-alpha, gain.max() - gain])[None] / loss
            l_0, a, b = nonnegative(columns, np.ones(len(loss)))[0]
            least = SMALLEST * loss.mean()
            b = max(b, least)
            found.append([np.log(max(l_0 + b * gain.max(), least)), np.log(max(a, least)), np.log(b), np.log(c),
                          np.log(alpha), np.log(beta), gamma])  # fmt: skip
    return np.array(found)


def _best(shared: Any, loss: np.ndarray) -> np.ndarray:
    theta_SxP = _starts(shared[0], loss)
    for delta in deltas_to(DELTAS["huber"]):
        found = minimise(_residuals, theta_SxP, np.ones((len(theta_SxP), len(loss) + len(PRIOR))), shared, delta)
        theta_SxP = found.theta_SxP
    return found.theta_SxP[np.nanargmin(found.value_S)]


def _draws(theta: np.ndarray, shared: Any, curves: Sequence[Curve], count: int, seed: int) -> np.ndarray:
    """Thetas of refits to drawn noise, [R, P]."""
    if count < LEAST_DRAWS:
        return np.empty((0, len(theta)))
    log_loss = shared[1]
    ones = np.ones((1, len(log_loss) + len(PRIOR)))
    squares = minimise(_residuals, theta[None], ones, shared, DELTAS["least-squares"]).theta_SxP[0]
    predicted = _values(np.stack([theta, squares]), shared[0])
    step = 1e-6 * np.eye(len(theta))
    jacobian = (_values(squares + step, shared[0]) - _values(squares - step, shared[0])).T / 2e-6
    residuals = log_loss - predicted[1]
    cluster = _blocks(residuals, [len(curve.loss) for curve in curves])
    noise = drawn_noise(residuals, predicted[0], cluster, jacobian, count, seed)
    targets = np.pad(predicted[0] - log_loss + noise, ((0, 0), (0, len(PRIOR))))
    theta_RxP = np.tile(theta, (count, 1))
    for delta in deltas_to(DELTAS["huber"]):
        found = minimise(_residuals, theta_RxP, np.ones(targets.shape), shared, delta, noise_Sxn=targets)
        theta_RxP = found.theta_SxP
    return theta_RxP[np.isfinite(theta_RxP).all(axis=1) & np.isfinite(found.value_S)]


def _blocks(residuals: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The block of each evaluation: (1 + rho) / (1 - rho) neighbours of a curve, rho the correlation of neighbours."""
    of_curve = np.repeat(np.arange(len(counts)), counts)
    same = of_curve[1:] == of_curve[:-1]
    before, after = residuals[:-1][same], residuals[1:][same]
    rho = float((before * after).sum() / np.sqrt((before**2).sum() * (after**2).sum()))
    most = max(1, len(residuals) // (len(NAMES) + 3))
    length = min(LONGEST, most, max(1, round((1 + rho) / (1 - rho)))) if np.isfinite(rho) and rho < 1 else 1
    first = np.concatenate([[0], np.cumsum([-(-count // length) for count in counts])])
    return np.concatenate([first[i] + np.arange(count) // length for i, count in enumerate(counts)])
