"""The critical batch measured: steps to one loss with several batches, and the noise of gradients.

    (S / S_min - 1) (E / E_min - 1) = 1,    E = B S,    so S = S_min + E_min / B,    B_crit = E_min / S_min

S steps with B tokens each reach a loss; S_min are needed with a very large batch, E_min tokens with a very small one
(McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11; Kaplan et al. 2020, eq. 5.1). At one loss the square of a
gradient's norm tells the same scale from another side (McCandlish et al. 2018, appendix A.1):

    E |g_B|^2 = |G|^2 + tr(Sigma) / B,    B_noise = tr(Sigma) / |G|^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.laws.fitting import fit_constants
from seqjax.laws.intervals import bounds_of
from seqjax.laws.law import Constant, Law, Logs
from seqjax.laws.points import make_points
from seqjax.laws.weighing import PowerLaw, power_law


def _log_steps(theta: jax.Array, logs: Logs) -> jax.Array:
    s, e = theta
    return jnp.logaddexp(s, e - logs["tokens"])


STEPS = Law(
    name="critical-batch",
    equation="S = S_min + E_min / B",
    source="McCandlish et al. 2018, eq. 2.11",
    variables=("tokens",),
    constants=(Constant("S_min", True, (-1.0,)), Constant("E_min", True, (-1.0,))),
    log_loss=_log_steps,
    linear=(("S_min",), ("E_min",)),
)


@dataclass(frozen=True)
class Critical:
    """A critical batch with its 95 % interval.

    Attributes:
        least: S_min, or |G|^2; least_tokens: E_min in tokens, or tr(Sigma); batch: their ratio, in tokens.
        draws: of log ``batch``, [R]; those of several losses share the signs of their noise, batch by batch.
    """

    least: float
    least_tokens: float
    batch: float
    interval: tuple[float, float]
    draws: np.ndarray


def critical(batch: np.ndarray, value: np.ndarray, bootstrap: int = 1000, seed: int = 0) -> Critical:
    """B_crit from the steps to one loss, or B_noise from squares of gradient norms, with batches in tokens.

    Least squares of log S = log(S_min + E_min / B). The interval is that of :mod:`seqjax.laws.noise`; runs with one
    batch share their noise.

    Raises:
        UserError: fewer than three batches.
    """
    batch, value = np.asarray(batch, float), np.asarray(value, float)
    if (count := len(np.unique(batch))) < 3:
        raise UserError(f"the critical batch needs runs with at least three batches; there are {count}")
    middle, size = np.exp(np.log(batch).mean()), np.exp(np.log(value).mean())
    points = make_points(value / size, tokens=batch / middle)
    found = fit_constants(points, STEPS, objective="least-squares", bootstrap=bootstrap, seed=seed)
    least, tokens = np.exp(found.theta)
    draws = found.draws[:, 1] - found.draws[:, 0] + np.log(middle)
    low, high = np.exp(bounds_of(draws[:, None])[:, 0])
    scaled = float(least * size), float(tokens * size * middle)
    return Critical(*scaled, float(tokens / least * middle), (float(low), float(high)), draws)


def over_losses(losses: Sequence[float], found: Sequence[Critical], seed: int = 0) -> PowerLaw:
    """B_crit(L) = k L^p, p = -1 / alpha_B (Kaplan et al. 2020, eq. 1.4), through critical batches."""
    count = min(len(one.draws) for one in found)
    drawn = np.stack([one.draws[:count] for one in found], axis=1)
    return power_law(np.array(losses), np.array([one.batch for one in found]), drawn, np.random.default_rng(seed))


def steps_to(steps: Sequence[float], losses: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
    """The step at which a held-out curve first reaches each loss, linear between its points in log S; NaN if never."""
    found = np.full(len(wanted), np.nan)
    log_steps, losses = np.log(np.asarray(steps, float)), np.asarray(losses, float)
    for place, loss in enumerate(wanted):
        below = np.flatnonzero(losses <= loss)
        if len(below) and below[0] > 0:  # a curve that begins below it does not tell when it was there
            k = below[0]
            share = (losses[k - 1] - loss) / (losses[k - 1] - losses[k])
            found[place] = np.exp(log_steps[k - 1] + share * (log_steps[k] - log_steps[k - 1]))
    return found
