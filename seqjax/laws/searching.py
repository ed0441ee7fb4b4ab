"""The minimum of an objective over the constants of a law, from many starts.

    sum_i w_i rho(log L(x_i; theta) - log L_i),    rho the Huber loss of seqjax.laws.minimise

or, with errors in nats, of L(x_i; theta) - L_i. w_i is the weight of a row: 1, unless the points have others. With
delta = 1e-3 that is the objective of Hoffmann et al. 2022; with delta -> 0 it is least absolute deviations, with a
large one least squares. It is a sum, not a mean: with a mean, customary tolerances stop far from the minimum.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.laws.law import Law
from seqjax.laws.minimise import Minima, Residuals, minimise
from seqjax.laws.points import Points
from seqjax.laws.projected import solved

DELTAS = {"huber": 1e-3, "lad": 1e-6, "least-squares": 1e3}
"""The delta of each objective where none is given. Residuals of 1e3 do not occur."""
ERRORS = ("relative", "nats")
"""What an objective is of: log L, so that errors are relative, or L in nats."""
COARSE, SHARPER = 0.1, 10.0  # a small delta is reached from a large one in steps of such a factor
AGREE = 1e-6  # starts agree with the best when their values differ by less than this share
SAME = 4  # decimals of theta to which two copies are at the same point


@cache
def residuals_of(law: Law, errors: str = "relative") -> Residuals:
    """``residuals(theta, (logs, log loss))`` of log L, or of L; one function object for each law."""

    def residuals(theta: jax.Array, shared: Any) -> jax.Array:
        logs, log_loss = shared
        return law.log_loss(theta, logs) - log_loss

    def in_nats(theta: jax.Array, shared: Any) -> jax.Array:
        logs, log_loss = shared
        return jnp.exp(law.log_loss(theta, logs)) - jnp.exp(log_loss)

    return residuals if errors == "relative" else in_nats


def deltas_to(delta: float) -> list[float]:
    """The deltas through which ``delta`` is approached: first a smooth objective, then sharper ones."""
    found = [delta]
    while found[0] * SHARPER <= COARSE * (1 + 1e-9):
        found.insert(0, found[0] * SHARPER)
    return found


def refit(
    law: Law,
    points: Points,
    theta_SxP: np.ndarray,
    deltas: list[float],
    weights_Sxn: np.ndarray | None = None,
    free_SxP: np.ndarray | None = None,
    noise_Sxn: np.ndarray | None = None,
    errors: str = "relative",
) -> Minima:
    """Minima from each start through these deltas one after another, with weights and noise (of log L or L) of its own.

    The weights of the points multiply those given.
    """
    theta_SxP = np.array(theta_SxP, np.float64, ndmin=2)
    weights = np.ones((len(theta_SxP), len(points))) if weights_Sxn is None else weights_Sxn
    weights = weights if points.weight is None else weights * points.weight
    logs = {name: np.log(points.variables[name]) for name in law.variables}
    for delta in deltas:
        shared = (logs, np.log(points.loss))
        found = minimise(residuals_of(law, errors), theta_SxP, weights, shared, delta, free_SxP, noise_Sxn=noise_Sxn)
        theta_SxP = found.theta_SxP
    return found


def best_of_many(
    law: Law, points: Points, delta: float, theta_SxP: np.ndarray, errors: str = "relative"
) -> tuple[Minima, int, float]:
    """The lowest minimum that the starts reach, and how many starts of what share reached it.

    Linear constants of the starts are solved (:mod:`seqjax.laws.projected`); starts that are then the same go on as
    one, and so do those that rest at the same point of the smooth objective.
    """
    first, *sharper = deltas_to(delta)
    key = np.round(solved(law, points, theta_SxP), SAME)
    _, firsts, of_start = np.unique(key, axis=0, return_index=True, return_inverse=True)
    found = refit(law, points, key[firsts], [first], errors=errors)
    good = np.isfinite(found.value_S) & np.isfinite(found.theta_SxP).all(axis=1)
    if not good.any():
        raise UserError(f"{law.name}: no start leads anywhere; are the variables what the law says they are?")
    key = np.column_stack([np.round(found.theta_SxP, SAME), np.round(np.log(found.value_S + 1e-300), SAME)])
    _, firsts, inverse = np.unique(key[good], axis=0, return_index=True, return_inverse=True)
    places = np.flatnonzero(good)[firsts]
    ends = refit(law, points, found.theta_SxP[places], sharper or [first], errors=errors)
    best = np.nanargmin(ends.value_S)
    slack = AGREE * ends.value_S[best] + 1e-18 * len(points)  # points that lie on the law have a value of almost 0
    agree = ends.value_S - ends.value_S[best] <= slack
    one = Minima(*(getattr(ends, name)[best : best + 1] for name in Minima.__dataclass_fields__))
    reached = np.zeros(len(good), bool)
    reached[good] = agree[inverse.reshape(-1)]
    return one, len(theta_SxP), float(reached[of_start.reshape(-1)].mean())
