"""Reasons to doubt a fit, in words. Every fit is checked for all of them.

Each flag is a line that begins with its kind:

    starts      few starts reach the minimum, or the minimiser did not converge
    points      few different points for the number of constants
    range       a variable hardly varies
    collinear   two variables vary together, so their exponents cannot be separated
    floor       E is not determined: its interval reaches 0, or it is above measured losses
    exponent    the interval of an exponent includes 0
    rises       by the law the loss rises with a variable
    bound       a constant is at the end that it was given
    undetermined  a constant has no effect, no end to its likelihood, or an interval over many decades
    correlated  two constants are strongly correlated over the refits
    trend       the residuals rise, fall or bend with a variable of the law or with C
    split       there is no compute-optimal split, or not in all refits
    influence   one cluster of points moves a constant by more than two standard errors
    hold-out    fitted to the rest, the law misses the runs with the most compute
    rates       a best learning rate is at the edge of its sweep
    families    one law is fitted to points of several families
    mixed       points differ in a context length, a depth, or an N or D, that the law does not know
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from seqjax.host.wording import amount, counted, readable
from seqjax.laws import mixed
from seqjax.laws.fitting import UNDETERMINED, Fit
from seqjax.laws.intervals import LEAST_DRAWS
from seqjax.laws.law import LETTERS, Law
from seqjax.laws.points import Points

FEW_AGREE = 0.05
LEAST_RANGE = 10.0  # largest over smallest value of a variable
COLLINEAR = 0.95  # correlation of two variables' logarithms
CORRELATED = 0.99  # rank correlation of two constants
TREND_P = 0.01
DECADES = 6.0  # of the interval of a positive constant; above it, it is not determined
RISES = 1e-9  # of the loss
LEAST_MISS = 0.005  # of the loss: held-out points that are missed by less are no reason for doubt
AT_BOUND = 1e-3  # share of the width between bounds within which a constant is at one of them


def flags_of(fit: Fit) -> list[str]:
    """The reasons for doubt, in words. ``fit.details`` holds the numbers of :mod:`seqjax.laws.diagnostics`."""
    return [
        *_of_the_minimum(fit),
        *_of_the_data(fit.points, fit.law),
        *_of_the_constants(fit),
        *_of_the_direction(fit),
        *_of_the_residuals(fit),
        *_of_the_split(fit),
        *(f"rates: {note}" for note in fit.points.notes if "learning rate" in note),
        *(f"families: {note}" for note in fit.points.notes if "several families" in note),
        *(f"mixed: {note}" for note in fit.points.notes if "several contexts" in note or "layers in one fit" in note),
        *mixed.of_other_variables(fit.points, fit.law),
    ]


def _of_the_minimum(fit: Fit) -> list[str]:
    found = []
    if not fit.rests:
        found.append("starts: the best point is no point of rest; the constants are not determined, or the data exact")
    if fit.agreeing < FEW_AGREE:
        found.append(f"starts: only {fit.agreeing:.1%} of {fit.starts} starts reach this minimum")
    if fit.failed_draws > 0.01 * len(fit.draws):
        share = fit.failed_draws / max(1, len(fit.draws))
        found.append(
            f"starts: {share:.1%} of the bootstrap refits came to no rest: constants that go on for ever fit too"
        )
    return found


def _of_the_split(fit: Fit) -> list[str]:
    if not fit.law.of_loss or {"params", "tokens"} != set(fit.law.variables) or "flops" not in fit.points.variables:
        return []
    slope, (low, _) = fit.exponent(float(np.exp(np.log(fit.points.variables["flops"]).mean())))
    if np.isnan(slope):
        return ["split: the law falls for ever towards one side of N / D: there is no compute-optimal split"]
    if np.isnan(low) and len(fit.draws) >= LEAST_DRAWS:
        return ["split: more than 2.5% of the refits have no compute-optimal split"]
    return []


def held_out_words(held: Mapping[str, Any]) -> str:
    """Which points were held out: "2 points of C >= 1e12"; if others reach it, of how many clusters.

    Args:
        held: as `seqjax.laws.diagnostics.hold_out` returns it; records of earlier versions lack ``all_above``.
    """
    number, letter = counted(held["points"], "point"), LETTERS[held["variable"]]
    if held.get("all_above", True):
        return f"{number} of {letter} >= {amount(held['variable'], held['from'])}"
    return f"{number} of the {counted(held['clusters'], 'cluster')} with the most {letter}"


def _of_the_data(points: Points, law: Law) -> list[str]:
    found = []
    clusters = len(np.unique(points.cluster))
    if clusters < 3 * len(law.constants):
        of = f"{points.variety} of points" if points.clusters else f"{points.variety} points"
        found.append(f"points: {of} for {len(law.constants)} constants; the intervals are rough")
    for name in law.variables:
        values = points.variables[name]
        if name != "other_loss" and (ratio := values.max() / values.min()) < LEAST_RANGE:
            found.append(f"range: {LETTERS[name]} varies by a factor {ratio:.3g} only")
    for a, b in combinations(law.variables, 2):
        x, y = np.log(points.variables[a]), np.log(points.variables[b])
        if np.ptp(x) > 0 and np.ptp(y) > 0 and abs(r := np.corrcoef(x, y)[0, 1]) > COLLINEAR:
            found.append(
                f"collinear: {LETTERS[a]} and {LETTERS[b]} vary together (correlation {r:.3f}): what is due to which "
                "cannot be told"
            )
    return found


def _of_the_constants(fit: Fit) -> list[str]:
    found = []
    intervals, constants = fit.intervals, fit.constants
    if fit.law.has_floor:
        if constants["E"] >= fit.points.loss.min():
            found.append(f"floor: E = {constants['E']:.4g} lies above the lowest loss, {fit.points.loss.min():.4g}")
        elif ("E" in intervals and intervals["E"][0] < 0.01 * constants["E"]) or constants["E"] < 1e-3:
            reaches = "its interval reaches 0" if "E" in intervals else "it is near 0"
            found.append(f"floor: E is not determined by these data; {reaches}")
    for constant in fit.law.constants:
        low, high = intervals.get(constant.name, (1.0, 1.0))
        if not constant.positive and low <= 0 <= high:
            found.append(f"exponent: the interval of {constant.name} includes 0")
    at_bounds = _at_bounds(fit)
    found += _undetermined(fit, set(at_bounds)) + list(at_bounds.values())
    if fit.condition > UNDETERMINED and not at_bounds:
        found.append(
            f"correlated: a combination of constants is not determined (condition {readable(fit.condition, 1)})"
        )
    strong = [f"{pair} ({r:+.3f})" for pair, r in fit.details["correlations"].items() if abs(r) > CORRELATED]
    if strong:
        found.append(f"correlated: known only together: {'; '.join(strong)}")
    return found


def _of_the_direction(fit: Fit) -> list[str]:
    """By a law of the loss it falls with all variables, over the range of each with the others at their middle."""
    if not fit.law.of_loss:
        return []
    values = {name: fit.points.variables[name] for name in fit.law.variables}
    middle = {name: np.full(len(fit.points), np.exp(np.log(x).mean())) for name, x in values.items()}
    found = []
    for name, x in values.items():
        line = np.geomspace(x.min(), x.max(), len(x))  # of as many points as the fit: compiled already
        first, last = fit.law.loss(fit.theta, middle | {name: line})[[0, -1]]
        if name != "other_loss" and last > first * (1 + RISES):
            found.append(f"rises: by this law the loss rises with {LETTERS[name]}, from {first:.4g} to {last:.4g}")
    return found


def _undetermined(fit: Fit, at_bounds: set[str]) -> list[str]:
    found = []
    for constant in fit.law.constants:
        name = constant.name
        if name in at_bounds:
            continue
        low, high = fit.intervals.get(name, (1.0, 1.0))
        if name == "E" and fit.constants[name] < 1e-3:
            continue  # see floor
        elif fit.intervals and name not in fit.intervals:
            found.append(
                f"undetermined: {name} has no effect on these losses: {readable(fit.constants[name])} is where the fit "
                "began"
            )
        elif constant.name == "E":
            continue  # see floor
        elif name in fit.open_ends:
            first, last = fit.open_ends[name]
            found.append(f"undetermined: {name}: the likelihood allows {readable(first, 3)} to {readable(last, 3)}")
        elif constant.positive and not high < low * 10**DECADES:
            found.append(
                f"undetermined: {name}: its interval, {readable(low, 3)} to {readable(high, 3)}, spans many decades"
            )
    return found


def _at_bounds(fit: Fit) -> dict[str, str]:
    """Flags of the constants at a bound, by name."""
    found = {}
    for name, low, high in fit.law.holds.bounds:
        value, width = fit.constants[name], (high - low if np.isfinite(high - low) else 1.0)
        for end in (low, high):
            if abs(value - end) < AT_BOUND * width:
                found[name] = (
                    f"bound: {name} = {readable(value)} is at its bound {readable(end)}; beyond it the law fits better"
                )
    return found


def _of_the_residuals(fit: Fit) -> list[str]:
    found = []
    for name, trend in fit.details["trends"].items():
        if min(trend["p"], trend["p_bend"]) >= TREND_P:
            continue
        if trend["p_bend"] < trend["p"]:
            found.append(f"trend: the residuals bend with {LETTERS[name]} (p = {trend['p_bend']:.1g})")
        else:
            verb = "rise" if trend["correlation"] > 0 else "fall"
            found.append(
                f"trend: the residuals {verb} with {LETTERS[name]} (Spearman {trend['correlation']:+.2f}, "
                f"p = {trend['p']:.1g})"
            )
    for top in fit.details["influence"][:1]:
        if top["standard_errors"] > 2:
            found.append(
                f"influence: without {top['points']}, {top['constant']} moves by {top['standard_errors']:.1f} "
                "standard errors"
            )
    held = fit.details["hold_out"]
    if held and held["mean_error"] > max(held["noise"], LEAST_MISS):
        found.append(
            f"hold-out: fitted without the {held_out_words(held)}, the law misses them by {held['mean_error']:.1%} on "
            f"average; noise explains {held['noise']:.1%}"
        )
    return found
