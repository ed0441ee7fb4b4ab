"""How compute is best spent: from a fitted law, from IsoFLOP profiles, and from the envelope of training curves.

These are the three approaches of Hoffmann et al. 2022 (arXiv 2203.15556), section 3: N_opt = k C^a and D_opt ~ C^b.
Everywhere C = 6 N D, with N counted as the points count it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from seqjax.errors import UserError
from seqjax.scaling.fitting import LEVEL, Fit
from seqjax.scaling.laws import Law
from seqjax.scaling.points import Points

SAME_BUDGET = 0.1  # two runs have the same budget when their log FLOPs differ by less
WIDEST = 30.0  # an optimum is looked for between C/6 times e^-30 and e^30 tokens for each parameter


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


def optimal(fit: Fit, flops: float | np.ndarray) -> Optimum:
    """N, D and loss of the compute-optimal run by a fitted law of N and D (approach 3).

    Raises:
        UserError: a law of something else.
    """
    budgets = np.atleast_1d(np.float64(flops))
    if not (np.isfinite(budgets) & (budgets > 0)).all():
        raise UserError("flops: must be positive numbers")
    params, loss = _best_split(fit.law, fit.theta[None], budgets)
    tokens = budgets / 6.0 / params[0]
    if not len(fit.draws):
        unknown = np.full((len(budgets), 2), np.nan)
        return Optimum(budgets, params[0], tokens, loss[0], unknown, unknown, unknown)
    of_draws, losses = _best_split(fit.law, fit.draws, budgets)
    bounds = [np.percentile(x, LEVEL, axis=0).T for x in (of_draws, budgets / 6.0 / of_draws, losses)]
    return Optimum(budgets, params[0], tokens, loss[0], *bounds)


def exponent(fit: Fit, flops: float) -> tuple[float, tuple[float, float]]:
    """a of N_opt ~ C^a at a budget, with its 95 % interval: beta / (alpha + beta) for chinchilla, at every budget."""
    nearby = flops * np.exp([-0.5, 0.5])

    def slopes(thetas: np.ndarray) -> np.ndarray:
        return np.diff(np.log(_best_split(fit.law, thetas, nearby)[0]), axis=1)[:, 0]

    if not len(fit.draws):
        return float(slopes(fit.theta[None])[0]), (np.nan, np.nan)
    low, high = np.percentile(slopes(fit.draws), LEVEL)
    return float(slopes(fit.theta[None])[0]), (float(low), float(high))


def _best_split(law: Law, thetas: np.ndarray, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N_opt and loss, each [S, n], by a grid over log N that closes in on the minimum of every theta and budget."""
    if not {"params", "tokens"} <= set(law.variables):
        raise UserError(f"{law.name} is no law of N and D, so it does not say how compute is best spent")
    if "unique_tokens" in law.variables:
        raise UserError(f"{law.name}: the best split depends on how many tokens there are; predict over sizes instead")
    center = np.broadcast_to(0.5 * np.log(budgets / 6.0), (len(thetas), len(budgets))).copy()
    width = np.full_like(center, WIDEST / 2)
    steps = np.linspace(-1.0, 1.0, 33)
    for _ in range(10):  # each closes in by a factor 16 / 1.5
        grid = center[..., None] + width[..., None] * steps
        loss = _losses(law, thetas, np.exp(grid), budgets)
        best = loss.argmin(axis=-1)
        center = np.take_along_axis(grid, best[..., None], axis=-1)[..., 0]
        width = width * (1.5 / 16)
    return np.exp(center), loss.min(axis=-1)


def _losses(law: Law, thetas: np.ndarray, params: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        logs = {"params": jnp.log(params), "tokens": jnp.log(budgets[None, :, None] / 6.0 / params)}
        flat = {name: values.reshape(len(thetas), -1) for name, values in logs.items()}
        found = jax.vmap(law.log_loss)(jnp.asarray(thetas), flat)
        return np.exp(np.asarray(found)).reshape(params.shape)


@dataclass(frozen=True)
class Profile:
    """One IsoFLOP profile: runs of one budget, and the size at which their loss is lowest.

    Attributes:
        flops: geometric mean of the runs' compute; params, loss: of the runs, by rising size.
        best_params, best_loss: of the parabola in log N (NaN where there is no minimum among the runs).
        akima_params: of an Akima spline through the runs: how much the kind of curve decides.
        parabola: coefficients, highest power first, in log N.
        problem: why the profile has no minimum, or "".
    """

    flops: float
    params: np.ndarray
    loss: np.ndarray
    best_params: float
    best_loss: float
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
    """Approach 2: the profiles, N_opt = k C^a and D_opt ~ C^b through their minima, and what to doubt."""

    profiles: tuple[Profile, ...]
    params: PowerLaw
    tokens: PowerLaw
    akima_exponent: float
    flags: tuple[str, ...]


def isoflops(points: Points, bootstrap: int = 1000, seed: int = 0) -> IsoFlops:
    """N_opt and D_opt from the minima of parabolas through runs of equal compute (approach 2).

    Each refit puts residuals, drawn from those of all profiles, on the parabolas. Even without noise a parabola is
    biased where the sizes lie far apart or off the minimum, or alpha and beta differ (Xu et al. 2026, arXiv
    2603.22339): the exponent by an Akima spline instead is given beside it.

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
    slopes = _refitted_slopes(whole, bootstrap, np.random.default_rng(seed))
    if len(slopes) < 0.9 * bootstrap:
        flags.append(f"isoflop: {bootstrap - len(slopes)} of {bootstrap} refits had no minimum, and are left out")
    low, high = np.percentile(slopes, LEVEL) if len(slopes) > 1 else (np.nan, np.nan)
    params = _power_law(flops, best, (low, high))
    tokens = _power_law(flops, flops / 6.0 / best, (1.0 - high, 1.0 - low))
    akima = _power_law(flops, np.array([p.akima_params for p in whole]), (np.nan, np.nan)).exponent
    return IsoFlops(tuple(profiles), params, tokens, akima, tuple(flags))


def _budgets(flops: np.ndarray) -> np.ndarray:
    """A label for each run; runs whose compute differs by less than `SAME_BUDGET` in the logarithm share one."""
    order = np.argsort(flops)
    steps = np.diff(np.log(flops[order])) > SAME_BUDGET
    labels = np.empty(len(flops), int)
    labels[order] = np.concatenate([[0], np.cumsum(steps)])
    return labels


def _profile(points: Points, chosen: np.ndarray) -> Profile:
    order = chosen[np.argsort(points.variables["params"][chosen], kind="stable")]
    params, loss = points.variables["params"][order], points.loss[order]
    flops = float(np.exp(np.log(points.variables["flops"][order]).mean()))
    nothing = Profile(flops, params, loss, np.nan, np.nan, np.nan, np.full(3, np.nan))
    sizes = len(np.unique(params))
    if sizes < 3:
        return replace(nothing, problem=f"{sizes} size(s), three are needed")
    best, best_loss, parabola = _vertex(params, loss)
    if not parabola[0] > 0:
        return replace(nothing, parabola=parabola, problem="the parabola has no minimum (it bends the other way)")
    if not np.isfinite(best):
        side = "smallest" if loss.argmin() < len(loss) / 2 else "largest"
        return replace(nothing, parabola=parabola, problem=f"the minimum lies beyond the {side} size")
    if loss.argmin() in (0, len(loss) - 1):
        side = "smallest" if loss.argmin() == 0 else "largest"
        return replace(nothing, parabola=parabola, problem=f"the {side} size is the best: the optimum is at the edge")
    return replace(nothing, best_params=best, best_loss=best_loss, akima_params=_akima(params, loss), parabola=parabola)


def _vertex(params: np.ndarray, loss: np.ndarray) -> tuple[float, float, np.ndarray]:
    """N and loss at the minimum of a parabola in log N (NaN where it is not among the sizes), and its coefficients."""
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


def _refitted_slopes(profiles: Sequence[Profile], count: int, rng: np.random.Generator) -> list[float]:
    """Exponents of N_opt after residuals, drawn from those of all profiles, are put on the parabolas; residuals of a
    parabola through k runs are too small by sqrt((k - 3) / k), which is made good."""
    fitted = [np.polyval(p.parabola, np.log(p.params)) for p in profiles]
    pairs = list(zip(profiles, fitted, strict=True))
    pool = [(p.loss - f) * np.sqrt(len(f) / (len(f) - 3)) for p, f in pairs if len(f) > 3]
    if not pool:
        return []
    residuals = np.concatenate(pool)
    slopes = []
    for _ in range(count):
        best = [_vertex(p.params, f + rng.choice(residuals, len(f)))[0] for p, f in pairs]
        if np.isfinite(best).all():
            slopes.append(float(np.polyfit(np.log([p.flops for p in profiles]), np.log(best), 1)[0]))
    return slopes


def _power_law(x: np.ndarray, y: np.ndarray, interval: tuple[float, float]) -> PowerLaw:
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(float(np.exp(intercept)), float(slope), (float(interval[0]), float(interval[1])), x, y)


def envelope(
    curves: Mapping[float, tuple[np.ndarray, np.ndarray]], budgets: int = 50, bootstrap: int = 1000, seed: int = 0
) -> PowerLaw:
    """N_opt = k C^a from training curves: at each compute, the size of the run with the lowest loss (approach 1).

    Budgets at which the smallest or the largest run is the best are left out: there the envelope is not seen.

    Args:
        curves: size N -> (FLOPs, loss) along its training, rising FLOPs.
        budgets: how many, equally spaced in log FLOPs over the range in which at least two curves run.
    Raises:
        UserError: fewer than three curves, or none of the sizes between is ever the best.
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
    low, high = np.percentile(slopes, LEVEL) if len(slopes) > 1 else (np.nan, np.nan)
    return _power_law(x, y, (low, high))


def _along(flops: np.ndarray, loss: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The curve at these budgets, linear in log FLOPs; infinite beyond its ends."""
    found = np.interp(np.log(at), np.log(flops), loss)
    return np.where((at < flops[0]) | (at > flops[-1]), np.inf, found)
