"""A fit in words: its table, and the checklist of Li et al. 2025 answered from the data."""

from __future__ import annotations

from collections import Counter

import numpy as np

from seqjax.host.wording import amount, readable
from seqjax.laws.doubts import held_out_words
from seqjax.laws.fitting import Fit, repeated_noise
from seqjax.laws.intervals import profile_ends
from seqjax.laws.law import LETTERS
from seqjax.laws.points import Points
from seqjax.laws.reference import at_reference, greek
from seqjax.laws.searching import DELTAS

NEAR_6ND = 0.1  # largest median of |log of FLOPs over 6 N D| that is not remarked


def interval(bounds: tuple[float, float] | None) -> str:
    """Two ends, or a dash if there is no interval."""
    return "-" if bounds is None else f"{readable(bounds[0])} to {readable(bounds[1])}"


def describe(fit: Fit) -> str:
    """The fit as a table with intervals, its points, and every reason to doubt it."""
    points, law = fit.points, fit.law
    lines = [f"{law.name}: {law.equation}   [{law.source}]", *_data_lines(fit), ""]
    rows = [("constant", "value", "95 % bootstrap", "95 % profile"), *constant_rows(fit)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
              for row in rows]  # fmt: skip
    lines += ["", *remarks(fit)]
    lines += [f"note: {note}" for note in points.notes if not any(flag.endswith(note) for flag in fit.flags)]
    lines += [f"FLAG {flag}" for flag in fit.flags] or ["no flags"]
    lines += [f"left out: {count} x {rule}" for rule, count in Counter(g.rule for g in points.left_out).most_common()]
    return "\n".join(lines)


def constant_rows(fit: Fit) -> list[tuple[str, str, str, str]]:
    """Name, value, bootstrap interval and profile interval of each constant; what is held is said so."""
    profiles = {name: profile_ends(ends) for name, ends in fit.details.get("profiles", {}).items()}
    rows = [
        (name, readable(value), interval(fit.intervals.get(name)), interval(profiles.get(name)))
        for name, value in fit.constants.items()
    ]
    rows += [(name, readable(value), "fixed", "") for name, value in fit.law.holds.fixed]
    return rows + [(name, f"= {other}", "tied", "") for name, other in fit.law.holds.tied]


def sentence(fit: Fit, group: str = "") -> str:
    """The result in one sentence: the law with its constants and intervals, how many points, how many doubts."""
    inside = ", ".join(
        f"{LETTERS.get(name, name)} {amount(name, values.min())} to {amount(name, values.max())}"
        for name, values in ((name, fit.points.variables[name]) for name in fit.law.variables)
    )
    constants = ", ".join(
        f"{name} = {readable(value)}" + (f" ({interval(fit.intervals[name])})" if name in fit.intervals else "")
        for name, value in fit.constants.items()
    )
    law = at_reference(fit) or f"{fit.law.equation} with {constants}"
    doubts = (
        f"{len(fit.flags)} reason{'s' * (len(fit.flags) != 1)} to doubt it" if fit.flags else "no reason to doubt it"
    )
    return f"{f'{group}: ' if group else ''}{greek(law)}, from {len(fit.points)} points of {inside}; {doubts}."


def remarks(fit: Fit) -> list[str]:
    """What follows from the constants, and how well the law holds, one line each."""
    lines = [line for line in (at_reference(fit), _split_line(fit)) if line]
    if "scatter" in fit.details:
        lines.append(f"residuals scatter by {fit.details['scatter']:.2%} of the loss")
    if noise := repeated_noise(fit.points):
        lines.append(f"repeated runs scatter by {noise:.2%}; the noise of refits is at least that large")
    if not len(fit.draws):
        lines.append("no refits, so no intervals; floor, exponents, correlations and influence were not examined")
    if held := fit.details.get("hold_out"):
        lines.append(
            f"hold-out: fitted without the {held_out_words(held)}, it misses them by {held['mean_error']:.2%} on "
            f"average, {held['largest_error']:+.2%} at most"
        )
    return lines


def _data_lines(fit: Fit) -> list[str]:
    points = fit.points
    counted = "; ".join(
        f"{LETTERS[name]}: {points.conventions[name]}" for name in fit.law.variables if name in points.conventions
    )
    rows = len(points) + len(points.left_out)
    return [
        f"{len(points)} points of {rows} rows, {points.variety}" + f"; {counted}" * bool(counted),
        f"{objective_words(fit)}: sum {fit.value:.6g}; {fit.agreeing:.0%} of {fit.starts:,} starts agree; largest "
        f"gradient {fit.gradient:.1g}; {len(fit.draws):,} refits",
    ]


def objective_words(fit: Fit) -> str:
    """The objective with its delta."""
    of = "log L" if fit.errors == "relative" else "L in nats"
    if fit.objective == "least-squares":
        return f"least squares of {of}"
    name = f"least absolute deviations of {of} (Huber, delta 1e-6)" if fit.objective == "lad" else f"Huber of {of}"
    return f"{name}, delta {fit.delta:g}" if fit.objective != "lad" or fit.delta != DELTAS["lad"] else name


def _split_line(fit: Fit) -> str:
    if not {"params", "tokens"} == set(fit.law.variables) or "flops" not in fit.points.variables:
        return ""
    slope, (low, high) = fit.exponent(float(np.exp(np.log(fit.points.variables["flops"]).mean())))
    if np.isnan(slope):
        return ""
    if unknown := _undetermined(fit, "alpha", "beta"):
        return f"compute-optimal: not determined, since {unknown} not"
    sure = f" (95 %: {low:.3f} to {high:.3f})" if np.isfinite(low) else ""
    if dict(fit.law.holds.tied).keys() & {"alpha", "beta"} and high - low < 1e-6:
        sure = " by the tie"
    split = f"compute-optimal: N ~ C^a with a = {slope:.3f}{sure}, D ~ C^{1 - slope:.3f}"
    return f"{split}, for C = 6 N D{other_flops(fit.points)}"


def too_narrow(fit: Fit) -> str:
    """That constants other than E are not determined, and what follows for all that rests on them; else ""."""
    unknown = _undetermined(fit, *(name for name in fit.law.names if name != "E"))
    return f"intervals are too narrow: {unknown} not determined by the points" if unknown else ""


def _undetermined(fit: Fit, *of: str) -> str:
    """Those of the constants that the points do not determine, with the verb: "alpha is", "A, alpha are"; else ""."""
    names = [name for name in of if name in fit.open_ends]
    return f"{', '.join(names)} {'are' if len(names) > 1 else 'is'}" if names else ""


def other_flops(points: Points) -> str:
    """A remark where the FLOPs of the points are not about 6 N D, else ""."""
    if not {"params", "tokens", "flops"} <= set(points.variables):
        return ""
    over = points.variables["flops"] / (6.0 * points.variables["params"] * points.variables["tokens"])
    if np.abs(np.log(np.median(over))) < NEAR_6ND:
        return ""
    ends = dict.fromkeys((readable(over.min(), 3), readable(over.max(), 3)))
    return f" (the FLOPs of these points are {' to '.join(ends)} times that)"


def checklist(fit: Fit) -> str:
    """The questions and answers of :func:`answers`, as text."""
    return "\n".join(f"- {question}\n  {answer}" for question, answer in answers(fit))


def answers(fit: Fit) -> list[tuple[str, str]]:
    """Answers to questions of Li et al. 2025 ((Mis)Fitting, arXiv 2502.18969) that the data can answer."""
    points, details = fit.points, fit.details
    counts = {name: len(np.unique(values)) for name, values in points.variables.items()}
    spans = ", ".join(
        f"{LETTERS[name]} {amount(name, values.min())} to {amount(name, values.max())} ({counts[name]} values)"
        for name, values in points.variables.items()
        if name in LETTERS
    )
    rules = "; ".join(f"{n} x {rule}" for rule, n in Counter(g.rule for g in points.left_out).items()) or "none"
    held = details.get("hold_out") or {}
    return [
        ("Which form is fitted?", f"{fit.law.equation} ({fit.law.source})"),
        ("What is the dependent variable?", "the loss column, taken as held-out loss in nats per token"),
        ("How are N, D and C counted?",
         "; ".join(f"{LETTERS.get(k, k)}: {v}" for k, v in points.conventions.items()) or "as given"),
        ("How many models, over what range?",
         f"{len(points)} points, {points.variety}; {spans}"),
        ("Are N and D varied independently?", _independence(fit)),
        ("Are checkpoints of one run used?",
         f"{points.clusters or 'points with equal variables'} share their noise: "
         f"{len(points) - len(np.unique(points.cluster))} such repetitions"),
        ("Which points are left out, by which rule?", rules),
        ("How were learning rates chosen?",
         "; ".join(note for note in points.notes if "rate" in note) or "the table does not say of every model"),
        ("What is minimised, by which optimiser?", f"{objective_words(fit)}; damped Newton with exact derivatives"),
        ("How is it initialised?", f"a grid of {fit.starts:,} starts, {fit.agreeing:.1%} of which agree with the best"),
        ("How certain are the constants?",
         f"{len(fit.draws):,} bootstrap refits to noise drawn from the residuals of whole clusters, widened for few "
         "clusters; and profile likelihood" if fit.intervals
         else "they are not: there are no refits"),
        ("Is the fit validated on runs it has not seen?",
         f"{held_out_words(held)}: {held['mean_error']:.2%} mean error"
         if held else "no: too few points"),
        ("Do the residuals show misfit?",
         "; ".join(flag for flag in fit.flags if flag.startswith("trend"))
         or (f"no trend or bend with {', '.join(LETTERS[name] for name in details['trends'])}"
             if details.get("trends") else "not examined: too few points")),
    ]  # fmt: skip


def _independence(fit: Fit) -> str:
    variables = fit.points.variables
    if not {"params", "tokens"} <= set(variables):
        return "not asked: the law is of one of them"
    x, y = np.log(variables["params"]), np.log(variables["tokens"])
    if not (np.ptp(x) and np.ptp(y)):
        return "no: one of them is the same everywhere"
    return f"correlation of log N and log D: {np.corrcoef(x, y)[0, 1]:.2f}"
