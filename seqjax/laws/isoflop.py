"""Compute-optimal sizes from IsoFLOP profiles: approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556), section 3.2.

    L = parabola in log N, at one C;   N_opt = its minimum;   N_opt = k C^a, D_opt = k' C^b over the budgets

The parabola is fitted to the sizes around the lowest loss: far from it, losses are no parabola. The runs of one size
count once, with their mean loss. D_opt is the minimum of a parabola in log D through the same runs.

Uncertainty: refits to the parabolas with normal noise. Its size is that of the residuals of each budget, shrunk towards
the other budgets by as much as their residuals are alike (:func:`seqjax.laws.weighing.noise_sizes`), and widened by
Student's t. The power laws weigh each budget by the uncertainty of its minimum: see :mod:`seqjax.laws.weighing`.

Even without noise a parabola is biased if the sizes are far apart or off the minimum, or if alpha and beta differ (Xu
et al. 2026, arXiv 2603.22339). So there is an Akima spline through all sizes beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from seqjax.errors import UserError
from seqjax.host.wording import amount, power
from seqjax.laws.intervals import LEAST_DRAWS
from seqjax.laws.noise import students_factor
from seqjax.laws.points import Points
from seqjax.laws.weighing import PowerLaw, noise_sizes, power_law

SAME_BUDGET = 0.1  # largest difference in log FLOPs of runs with the same budget
WINDOW = 4.0  # the parabola is fitted to sizes within this factor of the best, where the sizes are farther apart
LEAST_SIZES = 4  # in a window: three determine a parabola, and the fourth says how far losses scatter
APART = 1.5  # largest trusted factor between the minima of a parabola and of a spline
OFTEN = 0.025  # share of refits without a minimum that is remarked
FINE = 1001  # sizes at which a spline is read


@dataclass(frozen=True)
class Profile:
    """One IsoFLOP profile: runs of one budget, and the size with the lowest loss.

    Attributes:
        flops: geometric mean of the runs' compute; params, tokens, loss: of each size, by rising N.
        window: which sizes the parabola is fitted to.
        parabola: coefficients, highest power first, in log N. In log D: ``parabola_tokens``.
        best_params, best_tokens, best_loss: minimum of the parabolas; NaN if there is none.
        akima_params: minimum of an Akima spline through all sizes; NaN if there is none.
        problem: why the parabola has no minimum, or "".
        noise: standard deviation of the noise of a loss, nats; left: its degrees of freedom (see :func:`noise_sizes`).
    """

    flops: float
    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    window: np.ndarray
    parabola: np.ndarray
    parabola_tokens: np.ndarray
    best_params: float = np.nan
    best_tokens: float = np.nan
    best_loss: float = np.nan
    akima_params: float = np.nan
    problem: str = ""
    noise: float = np.nan
    left: float = 0.0


@dataclass(frozen=True)
class IsoFlops:
    """Approach 2: the profiles, N_opt = k C^a and D_opt = k' C^b through their minima, and reasons to doubt.

    Attributes:
        akima: N_opt = k C^a through the minima of splines; None if fewer than two budgets have one.
        unweighted: a with all budgets of the same weight, as most publications have it.
    """

    profiles: tuple[Profile, ...]
    params: PowerLaw
    tokens: PowerLaw
    akima: PowerLaw | None
    unweighted: float
    flags: tuple[str, ...]

    @property
    def akima_exponent(self) -> float:
        """a by Akima splines; NaN if there is none."""
        return self.akima.exponent if self.akima else np.nan


def isoflops(points: Points, bootstrap: int = 1000, seed: int = 0, window: float = WINDOW) -> IsoFlops:
    """N_opt and D_opt from the minima of parabolas through runs of equal compute (approach 2).

    Args:
        window: largest factor between the size with the lowest loss and those that the parabola is fitted to. It is
            used where the sizes of a budget span more than its square.
    Raises:
        UserError: fewer than two budgets with a minimum among at least three sizes.
    """
    budgets = _budgets(points.variables["flops"])
    profiles = [_profile(points, np.flatnonzero(budgets == b), window) for b in np.unique(budgets)]
    flags = [f"isoflop: {power(p.flops)} FLOPs: {p.problem}" for p in profiles if p.problem]
    whole = [p for p in profiles if not p.problem]
    if len(whole) < 2:
        more = f"; and {len(flags) - 2} more without one" if len(flags) > 2 else ""
        raise UserError(
            "approach 2 needs at least two budgets with a minimum among three sizes or more; "
            + ("; ".join(flags[:2]) + more if flags else f"there is {len(whole)}")
        )
    profiles = _with_noise(profiles)
    whole = [p for p in profiles if not p.problem]
    splined = [p for p in profiles if np.isfinite(p.akima_params)]
    flags += [
        f"isoflop: {power(p.flops)} FLOPs: the minimum of a parabola, N = {_n(p.best_params)}, is far from that of a "
        f"spline, {_n(p.akima_params)}"
        for p in whole
        if not 1 / APART < p.best_params / p.akima_params < APART
    ]
    rng = np.random.default_rng(seed)
    drawn, lost = _refits(whole, bootstrap, rng)
    if np.isnan([p.noise for p in whole]).all():
        flags.append(f"isoflop: no parabola is fitted to more than three sizes, so there is no interval: {_WIDER}")
    if max(lost) > OFTEN:
        often = [(share, p.flops) for share, p in zip(lost, whole, strict=True) if share > OFTEN]
        flags.append(
            f"isoflop: at {len(often)} of {len(whole)} budgets refits have no minimum within the sizes, most at "
            f"{power(max(often)[1])} FLOPs, {max(often)[0]:.0%}; they count as one at the edge: intervals are too "
            "narrow"
        )
    best = [np.array([getattr(p, name) for p in whole]) for name in ("best_params", "best_tokens")]
    params, tokens = (power_law(_flops(whole), at, of_draws, rng) for at, of_draws in zip(best, drawn, strict=True))
    akima = None
    if len(splined) > 1:
        akima = power_law(
            _flops(splined), np.array([p.akima_params for p in splined]), _akima_refits(splined, bootstrap, rng), rng
        )
    unweighted = float(np.polyfit(np.log(params.x), np.log(params.y), 1)[0])
    return IsoFlops(tuple(profiles), params, tokens, akima, unweighted, tuple(flags))


def _n(params: float) -> str:
    """A size in words."""
    return amount("params", params)


_WIDER = "give --window a larger factor, or train more sizes"


def _flops(profiles: Sequence[Profile]) -> np.ndarray:
    return np.array([p.flops for p in profiles])


def _budgets(flops: np.ndarray) -> np.ndarray:
    """A label for each run; runs whose log compute is within `SAME_BUDGET` of their lowest share one."""
    labels = np.empty(len(flops), int)
    label, least = -1, -np.inf
    for run in np.argsort(flops, kind="stable"):
        if np.log(flops[run]) > least + SAME_BUDGET:
            label, least = label + 1, np.log(flops[run])
        labels[run] = label
    return labels


def _profile(points: Points, chosen: np.ndarray, window: float) -> Profile:
    flops = float(np.exp(np.log(points.variables["flops"][chosen]).mean()))
    params, size = np.unique(points.variables["params"][chosen], return_inverse=True)
    runs = np.bincount(size)
    loss = np.bincount(size, points.loss[chosen]) / runs
    tokens = np.exp(np.bincount(size, np.log(points.variables["tokens"][chosen])) / runs)
    nothing = np.full(3, np.nan)
    found = Profile(flops, params, tokens, loss, np.ones(len(params), bool), nothing, nothing)
    if len(params) < 3:
        return replace(found, problem=f"{len(params)} size(s), three are needed")
    if (lowest := int(loss.argmin())) in (0, len(params) - 1):
        side = "smallest" if lowest == 0 else "largest"
        edge = f"the {side} size, N = {_n(params[lowest])}, has the lowest loss: the optimum may lie beyond it"
        parabola = np.polyfit(np.log(params), loss, 2)
        return replace(found, parabola=parabola, problem=edge)
    near = _window(np.log(params), lowest, np.log(window))
    parabolas = [np.polyfit(np.log(x[near]), loss[near], 2) for x in (params, tokens)]
    at = [_vertex(parabola, np.log(x[near])) for parabola, x in zip(parabolas, (params, tokens), strict=True)]
    spline = float(np.exp(_spline_minima(np.log(params), loss[:, None])[0]))
    found = replace(found, window=near, parabola=parabolas[0], parabola_tokens=parabolas[1], akima_params=spline)
    if all(map(np.isfinite, at)):
        n, d = map(float, np.exp(at))
        return replace(found, best_params=n, best_tokens=d, best_loss=float(np.polyval(parabolas[0], at[0])))
    first, last = params[near][[0, -1]]
    why = "has its minimum outside of these sizes" if parabolas[0][0] > 0 else "bends the other way"
    return replace(
        found,
        problem=f"the lowest loss is at N = {_n(params[lowest])}, but the parabola through N = {_n(first)} to "
        f"{_n(last)} {why}",
    )


def _window(log_n: np.ndarray, lowest: int, width: float) -> np.ndarray:
    """The sizes within ``width`` of the lowest, and the nearest others up to `LEAST_SIZES`."""
    if np.ptp(log_n) <= 2 * width + 1e-9:
        return np.ones(len(log_n), bool)
    away = np.abs(log_n - log_n[lowest])
    near = away <= width + 1e-9
    near[np.argsort(away, kind="stable")[:LEAST_SIZES]] = True
    near[lowest - 1 : lowest + 2] = True
    return near


def _vertex(parabola: np.ndarray, x: np.ndarray) -> float:
    """x at the minimum, NaN if there is none between the outer values of x."""
    a, b, _ = parabola
    at = -b / (2 * a) if a > 0 else np.nan
    return float(at) if x.min() <= at <= x.max() else np.nan


def _spline_minima(log_n: np.ndarray, loss_kxR: np.ndarray) -> np.ndarray:
    """log N at the minimum of an Akima spline through each column, [R]."""
    fine = np.linspace(log_n[0], log_n[-1], FINE)
    return fine[Akima1DInterpolator(log_n, loss_kxR)(fine).argmin(axis=0)]


def _with_noise(profiles: Sequence[Profile]) -> list[Profile]:
    """The profiles with the size of their noise."""
    fitted = [p for p in profiles if np.isfinite(p.parabola_tokens).all()]
    squares = [((p.loss - np.polyval(p.parabola, np.log(p.params)))[p.window] ** 2).sum() for p in fitted]
    sizes = iter(zip(*noise_sizes(np.array(squares), np.array([p.window.sum() - 3 for p in fitted])), strict=True))
    found = []
    for profile in profiles:
        if np.isfinite(profile.parabola_tokens).all():
            noise, left = next(sizes)
            profile = replace(profile, noise=float(noise), left=float(left))
        found.append(profile)
    return found


def _noise(p: Profile, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of the noise of each size, [k, R], widened for the few residuals that its size comes from."""
    return students_factor(max(1.0, p.left)) * p.noise * rng.standard_normal((len(p.params), count))


def _refits(profiles: Sequence[Profile], count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """log N_opt and log D_opt of refits, [2, R, B], and the share of each budget's without a minimum.

    Where a refit has no minimum within the sizes, it is at the edge that the refitted parabola falls to.
    R is 0 if the noise is unknown.
    """
    if not all(np.isfinite(p.noise) for p in profiles) or count < LEAST_DRAWS:
        return np.empty((2, 0, len(profiles))), [0.0] * len(profiles)
    drawn, lost = np.empty((2, count, len(profiles))), []
    for place, p in enumerate(profiles):
        noise = _noise(p, count, rng)[p.window]
        without = np.zeros(count, bool)
        for row, (values, parabola) in enumerate(((p.params, p.parabola), (p.tokens, p.parabola_tokens))):
            x = np.log(values[p.window])
            a, b, _ = parabola[:, None] + np.polyfit(x, noise, 2)
            ends = np.sort(x)[[0, -1]]
            with np.errstate(divide="ignore"):
                at = np.where(a > 0, -b / (2 * a), np.where(a * ends.sum() + b > 0, ends[0], ends[1]))
            without |= ~((a > 0) & (at >= ends[0]) & (at <= ends[1]))
            drawn[row, :, place] = np.clip(at, *ends)
        lost.append(float(without.mean()))
    return drawn, lost


def _akima_refits(profiles: Sequence[Profile], count: int, rng: np.random.Generator) -> np.ndarray:
    """log N at the minima of splines through curves with noise, moved to those of the measured curves, [R, B].

    The curve without noise is the parabola within its window; where it has no minimum, the measured losses.
    """
    if not all(np.isfinite(p.noise) for p in profiles) or count < LEAST_DRAWS:
        return np.empty((0, len(profiles)))
    columns = []
    for p in profiles:
        x = np.log(p.params)
        curve = p.loss if p.problem else np.where(p.window, np.polyval(p.parabola, x), p.loss)
        minima = _spline_minima(x, curve[:, None] + np.column_stack([np.zeros(len(x)), _noise(p, count, rng)]))
        columns.append(minima[1:] - minima[0] + np.log(p.akima_params))
    return np.column_stack(columns)
