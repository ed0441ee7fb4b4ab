"""Compute-optimal sizes from IsoFLOP profiles, and from the envelope of training curves.

These are approaches 2 and 1 of Hoffmann et al. 2022 (arXiv 2203.15556), section 3: N_opt = k C^a and D_opt = k C^b,
with the C of the points. Approach 3, by a fitted law, is :meth:`seqjax.laws.fitting.Fit.optimal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from seqjax.errors import UserError
from seqjax.laws.intervals import bounds_of
from seqjax.laws.points import Points

SAME_BUDGET = 0.1  # largest difference in log FLOPs of runs with the same budget
APART = 1.5  # largest trusted factor between the minima of a parabola and of a spline


@dataclass(frozen=True)
class Profile:
    """One IsoFLOP profile: runs of one budget, and the size with the lowest loss.

    Attributes:
        flops: geometric mean of the runs' compute; params, tokens, loss: of the runs, by rising size.
        best_params, best_loss: minimum of the parabola in log N (NaN if it is not within the sizes); best_tokens: at
            that size, interpolated between the runs beside it.
        akima_params: minimum of an Akima spline, to see how much the kind of curve matters.
        parabola: coefficients, highest power first, in log N.
        problem: why the profile has no minimum, or "".
    """

    flops: float
    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    best_params: float
    best_loss: float
    best_tokens: float
    akima_params: float
    parabola: np.ndarray
    problem: str = ""


@dataclass(frozen=True)
class PowerLaw:
    """y = scale x^exponent, least squares in logarithms, with the 95 % bootstrap interval of the exponent."""

    scale: float
    exponent: float
    interval: tuple[float, float]
    x: np.ndarray
    y: np.ndarray

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        return self.scale * np.asarray(x, np.float64) ** self.exponent


@dataclass(frozen=True)
class IsoFlops:
    """Approach 2: the profiles, N_opt = k C^a and D_opt = k C^b through their minima, and reasons to doubt."""

    profiles: tuple[Profile, ...]
    params: PowerLaw
    tokens: PowerLaw
    akima_exponent: float
    flags: tuple[str, ...]


def isoflops(points: Points, bootstrap: int = 1000, seed: int = 0) -> IsoFlops:
    """N_opt and D_opt from the minima of parabolas through runs of equal compute (approach 2).

    Each refit adds residuals, drawn from all profiles, to the parabolas. Even without noise a parabola is biased if the
    sizes are far apart or off the minimum, or if alpha and beta differ (Xu et al. 2026, arXiv 2603.22339). So the
    exponent by an Akima spline is given too.

    Raises:
        UserError: fewer than two budgets with a minimum among at least three sizes.
    """
    budgets = _budgets(points.variables["flops"])
    profiles = [_profile(points, np.flatnonzero(budgets == b)) for b in np.unique(budgets)]
    whole = [p for p in profiles if not p.problem]
    flags = [f"isoflop: {p.flops:.3g} FLOPs: {p.problem}" for p in profiles if p.problem]
    if len(whole) < 2:
        raise UserError(
            "approach 2 needs at least two budgets with a minimum among three sizes or more; "
            + ("; ".join(flags) if flags else f"there is {len(whole)}")
        )
    flops = np.array([p.flops for p in whole])
    best = np.array([p.best_params for p in whole])
    flags += [
        f"isoflop: {p.flops:.3g} FLOPs: the minimum of a parabola, N = {p.best_params:.3g}, is far from that of a "
        f"spline, {p.akima_params:.3g}"
        for p in whole
        if not 1 / APART < p.best_params / p.akima_params < APART
    ]
    slopes = _refitted_slopes(whole, bootstrap, np.random.default_rng(seed))
    if slopes is None:
        flags.append("isoflop: no profile has more than three runs, so there is no interval")
    elif len(slopes) < 0.9 * bootstrap:
        flags.append(f"isoflop: {bootstrap - len(slopes)} of {bootstrap} refits had no minimum, and are left out")
    bounds = bounds_of(np.reshape(slopes or [], (-1, 2)))
    params = _power_law(flops, best, tuple(bounds[:, 0]))
    tokens = _power_law(flops, np.array([p.best_tokens for p in whole]), tuple(bounds[:, 1]))
    akima = _power_law(flops, np.array([p.akima_params for p in whole]), (np.nan, np.nan)).exponent
    return IsoFlops(tuple(profiles), params, tokens, akima, tuple(flags))


def _budgets(flops: np.ndarray) -> np.ndarray:
    """A label for each run; runs whose log compute is within `SAME_BUDGET` of their lowest share one."""
    labels = np.empty(len(flops), int)
    label, least = -1, -np.inf
    for run in np.argsort(flops, kind="stable"):
        if np.log(flops[run]) > least + SAME_BUDGET:
            label, least = label + 1, np.log(flops[run])
        labels[run] = label
    return labels


def _profile(points: Points, chosen: np.ndarray) -> Profile:
    order = chosen[np.argsort(points.variables["params"][chosen], kind="stable")]
    params, tokens, loss = points.variables["params"][order], points.variables["tokens"][order], points.loss[order]
    flops = float(np.exp(np.log(points.variables["flops"][order]).mean()))
    nothing = Profile(flops, params, tokens, loss, np.nan, np.nan, np.nan, np.nan, np.full(3, np.nan))
    sizes = len(np.unique(params))
    if sizes < 3:
        return replace(nothing, problem=f"{sizes} size(s), three are needed")
    best, best_loss, parabola = _vertex(params, loss)
    if not parabola[0] > 0:
        return replace(nothing, parabola=parabola, problem="the parabola has no minimum (it bends the other way)")
    if not np.isfinite(best):
        side = "smallest" if loss.argmin() < len(loss) / 2 else "largest"
        return replace(nothing, parabola=parabola, problem=f"the minimum lies beyond the {side} size")
    if (lowest := params[loss.argmin()]) in (params[0], params[-1]):
        side = "smallest" if lowest == params[0] else "largest"
        return replace(nothing, parabola=parabola, problem=f"the {side} size is the best: the optimum is at the edge")
    tokens = _between(best, params, tokens)
    found = replace(nothing, best_params=best, best_loss=best_loss, best_tokens=tokens, parabola=parabola)
    return replace(found, akima_params=_akima(params, loss))


def _between(size: float, params: np.ndarray, tokens: np.ndarray) -> float:
    """Tokens for this size at the budget of these runs, by linear interpolation of log D over log N."""
    return float(np.exp(np.interp(np.log(size), np.log(params), np.log(tokens))))


def _vertex(params: np.ndarray, loss: np.ndarray) -> tuple[float, float, np.ndarray]:
    """N and loss at the minimum of a parabola in log N (NaN if it is not within the sizes), and its coefficients."""
    x = np.log(params)
    if len(np.unique(x)) < 3:
        return np.nan, np.nan, np.full(3, np.nan)
    center = x.mean()
    a, b, c = np.polyfit(x - center, loss, 2)
    parabola = np.array([a, b - 2 * a * center, c - b * center + a * center**2])
    vertex = center - b / (2 * a) if a > 0 else np.nan
    if not x.min() <= vertex <= x.max():
        return np.nan, np.nan, parabola
    return float(np.exp(vertex)), float(np.polyval([a, b, c], vertex - center)), parabola


def _akima(params: np.ndarray, loss: np.ndarray) -> float:
    sizes = np.unique(params)
    means = np.array([loss[params == size].mean() for size in sizes])
    fine = np.linspace(np.log(sizes[0]), np.log(sizes[-1]), 2001)
    return float(np.exp(fine[Akima1DInterpolator(np.log(sizes), means)(fine).argmin()]))


def _refitted_slopes(
    profiles: Sequence[Profile], count: int, rng: np.random.Generator
) -> list[tuple[float, float]] | None:
    """Exponents of N_opt and D_opt after adding residuals, drawn from all profiles, to the parabolas.

    Residuals of a parabola through k runs are too small by sqrt((k - 3) / k); this is corrected. None if no profile has
    residuals.
    """
    fitted = [np.polyval(p.parabola, np.log(p.params)) for p in profiles]
    pairs = list(zip(profiles, fitted, strict=True))
    pool = [(p.loss - f) * np.sqrt(len(f) / (len(f) - 3)) for p, f in pairs if len(f) > 3]
    if not pool:
        return None
    residuals = np.concatenate(pool)
    slopes = []
    for _ in range(count):
        best = [_vertex(p.params, f + rng.choice(residuals, len(f)))[0] for p, f in pairs]
        if np.isfinite(best).all():
            tokens = [_between(n, p.params, p.tokens) for n, p in zip(best, profiles, strict=True)]
            log_flops = np.log([p.flops for p in profiles])
            slopes.append(tuple(np.polyfit(log_flops, np.log(np.column_stack([best, tokens])), 1)[0].tolist()))
    return slopes


def _power_law(x: np.ndarray, y: np.ndarray, interval: tuple[float, float]) -> PowerLaw:
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(float(np.exp(intercept)), float(slope), (float(interval[0]), float(interval[1])), x, y)


def envelope(
    curves: Mapping[float, tuple[np.ndarray, np.ndarray]], budgets: int = 50, bootstrap: int = 1000, seed: int = 0
) -> PowerLaw:
    """N_opt = k C^a from training curves: at each compute, the size of the run with the lowest loss (approach 1).

    Budgets at which the smallest or the largest run is the best are left out: there the envelope is unknown.

    Args:
        curves: size N -> (FLOPs, loss) along training, rising FLOPs.
        budgets: number of budgets, equally spaced in log FLOPs over the range of at least two curves.
    Raises:
        UserError: fewer than three curves, or fewer than two inner sizes are ever the best.
    """
    sizes = np.array(sorted(curves))
    if len(sizes) < 3:
        raise UserError(f"approach 1 needs the training curves of at least three sizes, not {len(sizes)}")
    ends = np.array([[curves[n][0][0], curves[n][0][-1]] for n in sizes])
    grid = np.geomspace(np.sort(ends[:, 0])[1], np.sort(ends[:, 1])[-2], budgets)
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
        if len(np.unique(ys)) >= 2:
            slopes.append(np.polyfit(np.log(xs), np.log(ys), 1)[0])
    return _power_law(x, y, tuple(bounds_of(np.reshape(slopes, (-1, 1)))[:, 0]))


def _along(flops: np.ndarray, loss: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The loss of a curve at these budgets, linear in log FLOPs; infinite beyond its ends."""
    found = np.interp(np.log(at), np.log(flops), loss)
    return np.where((at < flops[0]) | (at > flops[-1]), np.inf, found)
