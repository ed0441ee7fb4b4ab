"""From points to a law: the minimum of a robust objective from many starts, and refits that say how sure it is.

    sum_i w_i rho(log L(x_i; theta) - log L_i),    rho the Huber loss of seqjax.laws.minimise

With delta = 1e-3 that is the objective of Hoffmann et al. 2022; with delta -> 0 it is least absolute deviations, with a
large one least squares of log L. It is a sum, not a mean: with a mean, customary tolerances stop far from the minimum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.laws.checkpoints import followed, note_of
from seqjax.laws.forms import Law
from seqjax.laws.intervals import LEAST_DRAWS, bounds_of
from seqjax.laws.minimise import Minima, Residuals, minimise
from seqjax.laws.noise import drawn_noise
from seqjax.laws.own import law_named
from seqjax.laws.points import Points
from seqjax.laws.splitting import Optimum, best_split, split_exponent

DELTAS = {"huber": 1e-3, "lad": 1e-6, "least-squares": 1e3}
"""The delta of each objective where none is given. In log L, residuals of 1e3 do not occur."""
COARSE, SHARPER = 0.1, 10.0  # a small delta is reached from a large one in steps of such a factor
AGREE = 1e-6  # starts agree with the best when their values differ by less than this share
STILL = 1e-9  # largest spread of theta over refits to points that lie on the law
SAME = 4  # decimals of theta to which two copies are at the same point


@dataclass(frozen=True)
class Fit:
    """A law with constants, and how sure they are.

    Attributes:
        law, objective, delta: what was minimised; value: its minimum.
        theta: of the law, float64 [P]; draws: thetas of the bootstrap refits, [R, P] (R may be 0), as
            :func:`refits` says: 95 % of what is derived from them is its interval, without a further correction.
        points: what was fitted, with what was left out.
        starts: how many; agreeing: the share that reached the same minimum.
        gradient: largest entry at the minimum; condition: of the Hessian there, scaled to a unit diagonal; rests:
            whether the optimiser came to rest.
        failed_draws: refits that did not come to rest, and are not in ``draws``.
        flags: reasons for doubt, in words (see :mod:`seqjax.laws.diagnostics`).
        details: what the flags were decided on: correlations, profiles, hold-out, influence.
    """

    law: Law
    objective: str
    delta: float
    theta: np.ndarray
    value: float
    points: Points
    draws: np.ndarray
    starts: int
    agreeing: float
    gradient: float
    condition: float
    rests: bool = True
    failed_draws: int = 0
    flags: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def constants(self) -> dict[str, float]:
        """The constants of the law by name."""
        return dict(zip(self.law.names, self.law.constants_of(self.theta).tolist(), strict=True))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each constant (percentiles of ``draws``); empty with fewer than 40 refits.

        A constant without effect on the losses has none: it is the same in all draws.
        """
        if len(self.draws) < LEAST_DRAWS:
            return {}
        bounds = bounds_of(self.law.constants_of(self.draws))
        spread = np.ptp(self.draws, axis=0)
        moves = (spread > 0) | (spread.max() < STILL)
        found = zip(self.law.names, *bounds, moves, strict=True)
        return {name: (float(low), float(high)) for name, low, high, varies in found if varies}

    @property
    def residuals(self) -> np.ndarray:
        """log of measured over predicted loss, [n]."""
        return np.log(self.points.loss / self.law.loss(self.theta, self.points.variables))

    def predict(self, **variables: Any) -> Prediction:
        """Loss where the variables of the law have these values: ``fit.predict(params=1e9, tokens=2e10)``.

        Raises:
            UserError: a variable is missing, unknown, or not positive.
        """
        return predict(self.law, self.theta, self.draws, variables)

    def optimal(self, flops: float | np.ndarray) -> Optimum:
        """The best N and D for budgets of C = 6 N D FLOPs (approach 3 of Hoffmann et al. 2022).

        Raises:
            UserError: a law of something else than N and D.
        """
        return best_split(self.law, self.theta, self.draws, flops)

    def exponent(self, flops: float) -> tuple[float, tuple[float, float]]:
        """a of N_opt ~ C^a at a budget: see :func:`seqjax.laws.splitting.split_exponent`."""
        return split_exponent(self.law, self.theta, self.draws, flops)


@dataclass(frozen=True)
class Prediction:
    """Loss in nats with its 95 % interval, that of the law: single runs scatter around it. Each [n]."""

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def predict(law: Law, theta: np.ndarray, draws: np.ndarray, variables: Mapping[str, Any]) -> Prediction:
    """As :meth:`Fit.predict`; without draws the interval is not a number."""
    for name in variables:
        if name not in law.variables:
            raise UserError(f"{law.name} has no variable '{name}'; it has {', '.join(law.variables)}")
    if missing := [name for name in law.variables if name not in variables]:
        raise UserError(f"{law.name} needs {' and '.join(law.variables)}: {' and '.join(missing)} is missing")
    arrays = dict(
        zip(variables, np.broadcast_arrays(*(np.atleast_1d(np.float64(v)) for v in variables.values())), strict=True)
    )
    for name, values in arrays.items():
        if not (good := np.isfinite(values) & (values > 0)).all():
            raise UserError(f"{name}: {values[~good][0]} is not a positive number")
    loss = law.loss(theta, arrays)
    return Prediction(loss, *bounds_of(law.loss(draws, arrays) if len(draws) else np.empty((0, len(loss)))))


@cache
def residuals_of(law: Law) -> Residuals:
    """``residuals(theta, (logs, log loss))`` of log L; one function object for each law."""

    def residuals(theta: jax.Array, shared: Any) -> jax.Array:
        logs, log_loss = shared
        return law.log_loss(theta, logs) - log_loss

    return residuals


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
) -> Minima:
    """Minima from each start through these deltas one after another, with weights and noise in log L of its own."""
    theta_SxP = np.array(theta_SxP, np.float64, ndmin=2)
    weights = np.ones((len(theta_SxP), len(points))) if weights_Sxn is None else weights_Sxn
    logs = {name: np.log(points.variables[name]) for name in law.variables}
    for delta in deltas:
        shared = (logs, np.log(points.loss))
        found = minimise(residuals_of(law), theta_SxP, weights, shared, delta, free_SxP, noise_Sxn=noise_Sxn)
        theta_SxP = found.theta_SxP
    return found


def best_of_many(law: Law, points: Points, delta: float, theta_SxP: np.ndarray) -> tuple[Minima, int, float]:
    """The lowest minimum that the starts reach, and how many starts of what share reached it.

    Starts that rest at the same point of the smooth objective go on as one to the sharper ones.
    """
    first, *sharper = deltas_to(delta)
    found = refit(law, points, theta_SxP, [first])
    good = np.isfinite(found.value_S) & np.isfinite(found.theta_SxP).all(axis=1)
    if not good.any():
        raise UserError(f"{law.name}: no start leads anywhere; are the variables what the law says they are?")
    key = np.column_stack([np.round(found.theta_SxP, SAME), np.round(np.log(found.value_S + 1e-300), SAME)])
    _, firsts, inverse = np.unique(key[good], axis=0, return_index=True, return_inverse=True)
    places = np.flatnonzero(good)[firsts]
    ends = refit(law, points, found.theta_SxP[places], sharper or [first])
    best = np.nanargmin(ends.value_S)
    slack = AGREE * ends.value_S[best] + 1e-18 * len(points)  # points that lie on the law have a value of almost 0
    agree = ends.value_S - ends.value_S[best] <= slack
    one = Minima(*(getattr(ends, name)[best : best + 1] for name in Minima.__dataclass_fields__))
    return one, len(theta_SxP), float(agree[inverse.reshape(-1)].sum() / len(theta_SxP))


def fit_constants(
    points: Points,
    law: Law | str,
    *,
    objective: str = "huber",
    delta: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    starts_SxP: np.ndarray | None = None,
) -> Fit:
    """Fit a law to points, without looking for doubts: see :func:`seqjax.laws.fits.fit` for the whole.

    Args:
        law: one of :data:`seqjax.laws.forms.LAWS`, or its name.
        objective: ``huber``, ``lad`` or ``least-squares``, all of log L.
        delta: of Huber, in log L; None: that of `DELTAS`.
        bootstrap: refits to drawn noise, from the best fit (see :func:`refits`); 0: none, and no intervals.
        seed: of the noise.
        starts_SxP: thetas to start from; None: the law's own grid.
    Raises:
        UserError: an unknown law or objective, a variable that the points lack, fewer points than constants.
    """
    law = law_named(law) if isinstance(law, str) else law
    if objective not in DELTAS:
        raise UserError(f"there is no objective '{objective}'; there are {', '.join(DELTAS)}")
    delta = DELTAS[objective] if delta is None else delta
    if not delta > 0:
        raise UserError(f"delta: {delta} is not a positive number")
    if missing := [name for name in law.variables if name not in points.variables]:
        raise UserError(f"{law.name} is a law of {' and '.join(law.variables)}: the points have no {missing[0]}")
    if bootstrap and bootstrap < LEAST_DRAWS:
        raise UserError(f"bootstrap: {bootstrap} refits have no 95 % interval; ask for {LEAST_DRAWS} or more, or none")
    places = np.unique(np.column_stack([points.variables[name] for name in law.variables]), axis=0)
    if len(places) <= len(law.constants):
        raise UserError(
            f"{law.name} has {len(law.constants)} constants ({', '.join(law.names)}): {len(places)} different points of"
            f" {' and '.join(law.variables)} are too few for a fit" + _why_few(points)
        )
    best, starts, agreeing = best_of_many(
        law, points, delta, law.starts_SxP() if starts_SxP is None else np.asarray(starts_SxP)
    )
    points = _clustered(points, law, best.theta_SxP[0])
    if len(np.unique(points.cluster)) <= len(law.constants):
        bootstrap = 0
    draws, failed = refits(law, points, best.theta_SxP[0], delta, bootstrap, seed)
    return Fit(
        law=law,
        objective=objective,
        delta=delta,
        theta=best.theta_SxP[0],
        value=float(best.value_S[0]),
        points=points,
        draws=draws,
        starts=starts,
        agreeing=agreeing,
        gradient=float(best.gradient_S[0]),
        condition=_condition(best.hessian_SxPxP[0]),
        rests=bool(best.rests_S[0]),
        failed_draws=failed,
    )


def _clustered(points: Points, law: Law, theta: np.ndarray) -> Points:
    """The points, with those of one N as one cluster where they look like checkpoints; a note if clusters are few."""
    if not points.clusters and {"params", "tokens"} <= set(points.variables):
        residuals = np.log(points.loss / law.loss(theta, points.variables))
        if rho := followed(points.variables["params"], points.variables["tokens"], residuals):
            cluster = np.unique(points.variables["params"], return_inverse=True)[1]
            words = "checkpoints of one run"
            points = replace(points, cluster=cluster, clusters=words, notes=(*points.notes, note_of(rho)))
    if (count := len(np.unique(points.cluster))) <= len(law.constants):
        note = (
            f"{count} independent runs do not say how sure {len(law.constants)} constants are: there are no intervals"
        )
        points = replace(points, notes=(*points.notes, note))
    return points


def _why_few(points: Points) -> str:
    rules = Counter(gone.rule for gone in points.left_out)
    return f" (left out: {'; '.join(f'{count} x {rule}' for rule, count in rules.most_common(4))})" if rules else ""


def refits(law: Law, points: Points, theta: np.ndarray, delta: float, count: int, seed: int) -> tuple[np.ndarray, int]:
    """Thetas of refits to the law with noise as in :mod:`seqjax.laws.noise`, [R, P], and how many came to no rest.

    The residuals are those of least squares: a small delta goes through P points exactly, and hides their noise.
    """
    if count == 0:
        return np.empty((0, len(theta))), 0
    predicted = np.log(law.loss(theta, points.variables))
    squares = refit(law, points, theta, [DELTAS["least-squares"]]).theta_SxP[0]
    residuals = np.log(points.loss / law.loss(squares, points.variables))
    _, cluster = np.unique(points.cluster, return_inverse=True)
    noise_Rxn = drawn_noise(residuals, predicted, cluster, _jacobian(law, points, squares), count, seed)
    targets = predicted - np.log(points.loss) + noise_Rxn
    found = refit(law, points, np.tile(theta, (count, 1)), deltas_to(delta)[-4:], noise_Sxn=targets)
    whole = found.rests_S & np.isfinite(found.theta_SxP).all(axis=1)
    return found.theta_SxP[whole], int((~whole).sum())


def _jacobian(law: Law, points: Points, theta: np.ndarray) -> np.ndarray:
    """Derivatives of log L by the constants, by central differences, [n, P]."""
    steps_PxP = 1e-6 * np.eye(len(theta))
    columns = [
        np.log(law.loss(theta + step, points.variables)) - np.log(law.loss(theta - step, points.variables))
        for step in steps_PxP
    ]
    return np.stack(columns, axis=1) / 2e-6


def _condition(hessian: np.ndarray) -> float:
    """Condition number of the Hessian scaled to a unit diagonal; infinite where a constant is not determined."""
    diagonal = np.diag(hessian)
    if not (np.isfinite(hessian).all() and (diagonal > 0).all()):
        return float("inf")
    return float(np.linalg.cond(hessian / np.sqrt(np.outer(diagonal, diagonal))))
