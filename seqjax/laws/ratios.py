"""Comparison of two families by their laws: the ratio of their needs for the same loss, and their crossing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqjax.errors import UserError
from seqjax.host.wording import amount
from seqjax.laws.crossing import place_of
from seqjax.laws.differences import difference
from seqjax.laws.fitting import Fit
from seqjax.laws.intervals import LOST, bounds_of
from seqjax.laws.points import Points

BEYOND = np.log(1e6)  # search range of a crossing beyond the data of both families, in log x
GRID = 4001


@dataclass(frozen=True)
class Ratio:
    """x of one family over x of another at the same loss, each [n]; NaN if one of them never reaches the loss.

    Attributes:
        low, high: 95 % interval; an end is infinite if that share of the refits never reaches the loss.
        within: whether the loss is in the measured range of both families.
    """

    loss: np.ndarray
    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    within: np.ndarray


@dataclass(frozen=True)
class Crossing:
    """The point where the laws of two families give the same loss.

    Attributes:
        x: parameters, FLOPs or tokens at the crossing; None if the laws do not cross.
        low, high: 95 % interval over all refits; 0 or infinite where some do not cross (NaN: no refits).
        crossing: share of the refits that cross.
        beyond: whether the crossing is outside the range measured in both families.
        verdict: the result in words.
    """

    x: float | None
    low: float
    high: float
    crossing: float
    beyond: bool
    verdict: str


def frontier(points: Points) -> Points:
    """The points on the frontier: no run with the same or less compute has a lower loss.

    The other runs are left out. A law of the frontier is L(C) at the best trained size for each compute.
    """
    order = np.lexsort((points.loss, points.variables["flops"]))
    lowest = np.minimum.accumulate(points.loss[order])
    on_it = np.zeros(len(points), bool)
    on_it[order] = points.loss[order] <= lowest
    return points.chosen(on_it, "another run has a lower loss for no more compute")


def _variable(a: Fit, b: Fit) -> str:
    if a.law.variables != b.law.variables or len(a.law.variables) != 1:
        raise UserError(
            f"{a.law.name} and {b.law.name} cannot be compared along a line: fit laws of one and the same variable"
        )
    return a.law.variables[0]


def _inverse(fit: Fit, thetas: np.ndarray, loss: np.ndarray, log_x: np.ndarray) -> np.ndarray:
    """log x at which each theta's law reaches the loss, [S, n]; inf if it never does, -inf if it is always lower."""
    curves = np.log(fit.law.loss(thetas, {fit.law.variables[0]: np.exp(log_x)}))
    wanted = np.log(loss)
    found = np.empty((len(thetas), len(loss)))
    for curve, row in zip(curves, found, strict=True):
        if (np.diff(curve) <= 0).all() and curve[0] > curve[-1]:  # far out a floor is flat to the last digit
            row[:] = np.interp(-wanted, -curve, log_x, left=-np.inf, right=np.inf)
        else:  # a law that does not fall never reaches a lower loss
            row[:] = np.inf
    return found


def matched_ratio(a: Fit, b: Fit, loss: Sequence[float] | np.ndarray | None = None) -> Ratio:
    """Parameters (or FLOPs) of family ``a`` over those of ``b`` for the same loss.

    Args:
        a, b: laws of one variable, fitted to each family.
        loss: nats; None: 25 values over the range measured in both families.
    Raises:
        UserError: laws of different variables, or no common range of losses.
    """
    name = _variable(a, b)
    low, high = max(a.points.loss.min(), b.points.loss.min()), min(a.points.loss.max(), b.points.loss.max())
    if loss is None:
        if low >= high:
            raise UserError("the two families have no loss in common: name losses to compare at (--losses)")
        loss = np.linspace(low, high, 25)
    loss = np.atleast_1d(np.float64(loss))
    log_x = _line(a, b, name)
    best, *drawn = difference(*(_inverse(fit, thetas, loss, log_x) for fit, thetas in _together(a, b)), _left(a, b))
    drawn = np.reshape(drawn, (-1, len(loss)))
    bounds = bounds_of(np.where(np.isnan(drawn), np.inf, drawn))
    with np.errstate(over="ignore"):
        ratio = np.where(np.isfinite(best), np.exp(best), np.nan)
        return Ratio(loss, ratio, np.exp(bounds[0]), np.exp(bounds[1]), (loss >= low) & (loss <= high))


def crossing(a: Fit, b: Fit, names: tuple[str, str] = ("a", "b")) -> Crossing:
    """The crossing of two fitted laws of one variable, searched up to a factor 1e6 beyond the data.

    Of several crossings it is the one nearest to the middle of the common measured range. Pairs of refits give its
    interval, as :func:`seqjax.laws.crossing.place_of` says; the noise of the families is independent.
    """
    name = _variable(a, b)
    log_x = _line(a, b, name)
    inner = _common(a, b, name)
    near = inner if inner[0] < inner[1] else (float(log_x[0]), float(log_x[-1]))
    at = {name: np.exp(log_x)}
    gap_SxM = difference(*(np.log(fit.law.loss(thetas, at)) for fit, thetas in _together(a, b)), _left(a, b))
    place = place_of(np.nan, gap_SxM, log_x, (float(np.exp(near[0])), float(np.exp(near[1]))), names)
    share = float(_crosses(gap_SxM[1:], turned=place.order != names).mean()) if len(gap_SxM) > 1 else np.nan
    letter = {"params": "N", "flops": "C", "tokens": "D"}.get(name, name)
    if not 0 < place.x < np.inf:
        often = f"; {share:.0%} of the refits cross" if share > LOST else ""
        leads = f"{place.order[0 if place.x else 1]} has the lower loss"
        low, high = bounds_of(gap_SxM[1:, np.abs(log_x - np.mean(near)).argmin()])
        if low <= 0 <= high:
            leads = "in the middle of the data the two are equal within their intervals"
        return Crossing(None, place.low, place.high, share, False, f"no crossing found: {leads}{often}")
    beyond = not inner[0] <= np.log(place.x) <= inner[1]
    verdict = (
        f"cross at {letter} = {amount(name, place.x)}{_sure(name, place.low, place.high)}, beyond which "
        f"{place.order[1]} is better"
    )
    if beyond:
        verdict += "; that lies outside of what both measured, and is extrapolated"
    if share < 1 - LOST:
        verdict += f"; only {share:.0%} of the refits cross at all"
    return Crossing(place.x, place.low, place.high, share, beyond, verdict)


def _sure(name: str, low: float, high: float) -> str:
    """The interval in words; an end that is not reached is open."""
    if np.isnan(low) or low == np.inf or high == 0:  # no refit crosses
        return ""
    if low == 0 and np.isinf(high):
        return " (95 %: anywhere)"
    if low == 0 or np.isinf(high):
        return f" (95 %: {f'below {amount(name, high)}' if low == 0 else f'above {amount(name, low)}'})"
    return f" (95 %: {amount(name, low)} to {amount(name, high)})"


def _crosses(gap_RxM: np.ndarray, turned: bool) -> np.ndarray:
    """Whether each gap rises through 0 somewhere (falls, if ``turned``)."""
    gap_RxM = -gap_RxM if turned else gap_RxM
    return ((gap_RxM[:, :-1] < 0) & (gap_RxM[:, 1:] >= 0)).any(axis=1)


def _common(a: Fit, b: Fit, name: str) -> tuple[float, float]:
    """The range of log x that both families measured."""
    xs = [np.log(f.points.variables[name]) for f in (a, b)]
    return max(x.min() for x in xs), min(x.max() for x in xs)


def _line(a: Fit, b: Fit, name: str) -> np.ndarray:
    xs = np.log(np.concatenate([f.points.variables[name] for f in (a, b)]))
    return np.linspace(xs.min() - BEYOND, xs.max() + BEYOND, GRID)


def _together(a: Fit, b: Fit) -> list[tuple[Fit, np.ndarray]]:
    """Each fit with its theta and as many draws below it as both have, [1 + R, P]."""
    count = min(len(a.draws), len(b.draws))
    return [(fit, np.concatenate([fit.theta[None], fit.draws[:count]])) for fit in (a, b)]


def _left(a: Fit, b: Fit) -> tuple[int, int]:
    """Degrees of freedom of each fit: clusters less constants."""
    one, other = (len(np.unique(fit.points.cluster)) - len(fit.law.constants) for fit in (a, b))
    return one, other
