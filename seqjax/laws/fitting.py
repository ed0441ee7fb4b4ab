"""From points to a law: its constants (:mod:`seqjax.laws.searching`), and refits that say how sure they are."""

from __future__ import annotations

import html
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from seqjax.errors import UserError
from seqjax.host.wording import readable, with_and
from seqjax.laws.intervals import LEAST_DRAWS, bounds_of, profile_ends
from seqjax.laws.law import Law
from seqjax.laws.noise import drawn_noise
from seqjax.laws.own import law_named
from seqjax.laws.points import Points
from seqjax.laws.predicting import Prediction, predict
from seqjax.laws.reference import at_reference, greek
from seqjax.laws.searching import DELTAS, ERRORS, best_of_many, deltas_to, refit
from seqjax.laws.selecting import in_brackets
from seqjax.laws.shared_noise import followed, note_of
from seqjax.laws.splitting import Optimum, best_split, split_exponent

UNDETERMINED = 1e12  # condition of the Hessian with a unit diagonal from which on the constants are not determined
NOTHING = 1e-9  # share of the lowest loss below which E is 0
STILL = 1e-9  # largest spread of theta over refits to points that lie on the law
LEAST_REPEATS = 3  # degrees of freedom of repeated runs that tell the size of noise


@dataclass(frozen=True)
class Fit:
    """A law with constants, and how sure they are.

    Attributes:
        law, objective, delta, errors: what was minimised; value: its minimum.
        theta: of the law, float64 [P]; draws: thetas of the bootstrap refits, [R, P] (R may be 0), as
            :func:`refits` says: 95 % of what is derived from them is its interval, without a further correction.
        points: what was fitted, with what was left out.
        starts: how many; agreeing: the share that reached the same minimum.
        gradient: largest entry at the minimum; condition: of the Hessian there, scaled to a unit diagonal; rests:
            whether the optimiser came to rest.
        failed_draws: how many refits did not come to rest.
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
    errors: str = "relative"

    @property
    def constants(self) -> dict[str, float]:
        """The constants of the law by name."""
        return dict(zip(self.law.names, self.law.constants_of(self.theta).tolist(), strict=True))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each constant, from ``draws``; empty with fewer than 40 refits.

        A constant without effect on the losses has none: it is the same in all draws, or a floor below `NOTHING` of
        the losses in all of them. Nor have constants of which points without noise determine a combination only. Where
        the likelihood has no end, neither has the interval: refits begin at the minimum and stay near it, however flat
        it is.
        """
        if len(self.draws) < LEAST_DRAWS:
            return {}
        bounds = bounds_of(self.law.constants_of(self.draws))
        spread = np.ptp(self.draws, axis=0)
        moves = (spread > 0) | ((spread.max() < STILL) & (self.condition < UNDETERMINED))
        if self.law.has_floor:
            moves[self.law.names.index("E")] &= bounds[1][self.law.names.index("E")] > NOTHING * self.points.loss.min()
        rows = zip(self.law.names, *bounds, moves, strict=True)
        found = {name: (float(low), float(high)) for name, low, high, varies in rows if varies}
        return found | {name: ends for name, ends in self.open_ends.items() if name in found}

    @property
    def open_ends(self) -> dict[str, tuple[float, float]]:
        """The profiles without an end on a side, within bounds, of constants that the points do not determine."""
        positive = {constant.name: constant.positive for constant in self.law.constants}
        bounds = {name: (low, high) for name, low, high in self.law.holds.bounds}
        found = {}
        for name, profile in self.details.get("profiles", {}).items():
            low, high = profile_ends(profile)
            if not (np.isfinite((low, high)).all() and (low > 0 or not positive[name])):
                least, most = bounds.get(name, (low, high))
                found[name] = (max(low, least), min(high, most))
        return found

    @property
    def residuals(self) -> np.ndarray:
        """log of measured over predicted loss, [n]."""
        return np.log(self.points.loss / self.law.loss(self.theta, self.points.variables))

    @property
    def misses(self) -> np.ndarray:
        """What the objective is of: the residuals, or measured less predicted loss in nats, [n]."""
        if self.errors == "relative":
            return self.residuals
        return self.points.loss - self.law.loss(self.theta, self.points.variables)

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

    def _repr_html_(self) -> str:
        """The law at a reference inside the data, its constants, and reasons for doubt, as a notebook shows them."""
        rows = []
        for name, value in self.constants.items():
            ends = self.intervals.get(name)
            told = "–" if ends is None else f"{readable(ends[0])} to {readable(ends[1])}"
            rows.append(f"<tr><td>{html.escape(greek(name))}</td><td>{readable(value)}</td><td>{told}</td></tr>")
        doubts = "".join(f"<li>{html.escape(flag)}</li>" for flag in self.flags)
        near = at_reference(self)
        law = f"{self.law.name}: {self.law.equation}"
        return (
            (f"<p><b>{html.escape(greek(near))}</b></p>" if near else "")
            + f"<p>{html.escape(greek(law))}; {len(self.points.loss)} points</p>"
            f"<table><tr><th>constant</th><th>value</th><th>95 % interval</th></tr>{''.join(rows)}</table>"
            + (f"<p>Reasons to doubt it:</p><ul>{doubts}</ul>" if doubts else "")
        )

    def exponent(self, flops: float) -> tuple[float, tuple[float, float]]:
        """a of N_opt ~ C^a at a budget: see :func:`seqjax.laws.splitting.split_exponent`."""
        return split_exponent(self.law, self.theta, self.draws, flops)


def fit_constants(
    points: Points,
    law: Law | str,
    *,
    objective: str = "huber",
    delta: float | None = None,
    errors: str = "relative",
    bootstrap: int = 1000,
    seed: int = 0,
    starts_SxP: np.ndarray | None = None,
) -> Fit:
    """Fit a law to points, without looking for doubts: see :func:`seqjax.laws.fits.fit` for the whole.

    Args:
        law: one of :data:`seqjax.laws.forms.LAWS`, or its name.
        objective: ``huber``, ``lad`` or ``least-squares``.
        delta: of Huber, in log L or nats; None: that of `DELTAS`.
        errors: ``relative``: the objective is of log L; ``nats``: of L.
        bootstrap: refits to drawn noise, from the best fit (see :func:`refits`); 0: none, and no intervals.
        seed: of the noise.
        starts_SxP: thetas to start from; None: the law's own grid.
    Raises:
        UserError: an unknown law or objective, a variable that the points lack, fewer points than constants.
    """
    law = law_named(law) if isinstance(law, str) else law
    if objective not in DELTAS:
        raise UserError(f"there is no objective '{objective}'; there are {', '.join(DELTAS)}")
    if errors not in ERRORS:
        raise UserError(f"errors: '{errors}' is not allowed; allowed: {', '.join(ERRORS)}")
    delta = DELTAS[objective] if delta is None else delta
    if not delta > 0:
        raise UserError(f"delta: {delta} is not a positive number")
    if missing := [name for name in law.variables if name not in points.variables]:
        raise UserError(f"{law.name} is a law of {with_and(law.variables)}: the points have no {missing[0]}")
    if bootstrap and bootstrap < LEAST_DRAWS:
        raise UserError(f"bootstrap: {bootstrap} refits have no 95 % interval; ask for {LEAST_DRAWS} or more, or none")
    places = np.unique(np.column_stack([points.variables[name] for name in law.variables]), axis=0)
    if len(places) <= len(law.constants):
        raise UserError(
            f"{law.name} has {len(law.constants)} constants ({', '.join(law.names)}): {len(places)} different points of"
            f" {with_and(law.variables)} are too few for a fit" + in_brackets(points.left_out)
        )
    best, starts, agreeing = best_of_many(
        law, points, delta, law.starts_SxP() if starts_SxP is None else np.asarray(starts_SxP), errors
    )
    points = _clustered(points, law, best.theta_SxP[0])
    if len(np.unique(points.cluster)) <= len(law.constants):
        bootstrap = 0
    draws, failed = refits(law, points, best.theta_SxP[0], delta, bootstrap, seed, errors)
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
        errors=errors,
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
        runs = "run does" if count == 1 else "runs do"
        note = f"{count} independent {runs} not say how sure {len(law.constants)} constants are: there are no intervals"
        points = replace(points, notes=(*points.notes, note))
    return points


def refits(
    law: Law, points: Points, theta: np.ndarray, delta: float, count: int, seed: int, errors: str = "relative"
) -> tuple[np.ndarray, int]:
    """Thetas of refits to the law with noise as in :mod:`seqjax.laws.noise`, [R, P], and how many came to no rest.

    Those are on their way along a valley whose end is far or nowhere. They count where they have got to: intervals
    without them would be too narrow.
    """
    if count == 0:
        return np.empty((0, len(theta))), 0
    squares = refit(law, points, theta, [DELTAS["least-squares"]], errors=errors).theta_SxP[0]
    noise_Rxn = noise_to_refit(law, points, theta, squares, count, seed, errors)
    found = refit(law, points, np.tile(theta, (count, 1)), deltas_to(delta)[-4:], noise_Sxn=noise_Rxn, errors=errors)
    return found.theta_SxP[np.isfinite(found.theta_SxP).all(axis=1)], int((~found.rests_S).sum())


def noise_to_refit(
    law: Law, points: Points, theta: np.ndarray, squares: np.ndarray, count: int, seed: int, errors: str = "relative"
) -> np.ndarray:
    """What the law with ``theta`` and drawn noise has more than the points, in log L or L, [R, n]: to refit the law to.

    The residuals are those of least squares: a small delta goes through P points exactly, and hides their noise. A
    point of weight w has noise of the variance 1 / w. Repeated runs say how large noise is at least.

    Args:
        squares: theta by least squares.
    """

    def value(theta: np.ndarray) -> np.ndarray:
        loss = law.loss(theta, points.variables)
        return np.log(loss) if errors == "relative" else loss

    measured = np.log(points.loss) if errors == "relative" else points.loss
    root = np.ones(len(points)) if points.weight is None else np.sqrt(points.weight)
    predicted = value(theta)
    steps = 1e-6 * np.eye(len(theta))
    jacobian_nxP = (value(squares + steps) - value(squares - steps)).T / 2e-6
    _, cluster = np.unique(points.cluster, return_inverse=True)
    noise_Rxn = drawn_noise(
        root * (measured - value(squares)), predicted, cluster, root[:, None] * jacobian_nxP, count, seed,
        repeated_noise(points, root * measured),
    )  # fmt: skip
    return predicted - measured + noise_Rxn / root


def repeated_noise(points: Points, values: np.ndarray | None = None) -> float:
    """Standard deviation of log L (or of ``values``) between points with equal variables; 0 if they are too few."""
    table = np.column_stack(list(points.variables.values()))
    _, same = np.unique(table, axis=0, return_inverse=True)
    same, values = same.reshape(-1), np.log(points.loss) if values is None else values
    count = np.bincount(same)
    left = int((count - 1).sum())
    means = np.bincount(same, values) / count
    return float(np.sqrt(((values - means[same]) ** 2).sum() / left)) if left >= LEAST_REPEATS else 0.0


def _condition(hessian: np.ndarray) -> float:
    """Condition number of the Hessian scaled to a unit diagonal; infinite where a constant is not determined."""
    diagonal = np.diag(hessian)
    if not (np.isfinite(hessian).all() and (diagonal > 0).all()):
        return float("inf")
    return float(np.linalg.cond(hessian / np.sqrt(np.outer(diagonal, diagonal))))
