"""Figures of fits: points, law, 95 % band, equation with intervals, rows left out, and residuals."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from seqjax.errors import UserError
from seqjax.families import FAMILIES, parts_of
from seqjax.host.wording import power, readable
from seqjax.laws.fitting import NOTHING, Fit
from seqjax.laws.isoflop import IsoFlops
from seqjax.laws.ratios import Crossing, Ratio
from seqjax.laws.reference import at_reference, greek, reference
from seqjax.laws.weighing import PowerLaw
from seqjax.plots.labels import looks_of, named
from seqjax.plots.style import (
    MARKERS,
    NAMES,
    add_note,
    amount,
    check_name,
    figure,
    log_axis,
    save,
    shown,
    styled,
    ticks_between,
    widened,
)

MANY = 8  # groups whose legend is beside the axes, not above them
LETTER = 0.065  # inches that a letter of a legend takes
HALF = 48  # letters of a legend that fit half of a figure
WHOLE = 1000  # characters: more than a remark has
FAR = 10.0  # a crossing within this factor of the data is inside the axes

__all__ = ["check_name", "draw_envelope", "draw_fits", "draw_isoflops", "draw_ratio", "save"]


@styled
def draw_fits(fits: Mapping[str, Fit], crossing: Crossing | None = None, by: str | None = None) -> Figure:
    """Laws of one variable on shared axes, one per group; or one law of N and D with its contours.

    Args:
        by: the column whose values are the groups; the legend names it.
    """
    first = next(iter(fits.values()))
    if len(first.law.variables) == 1:
        return _draw_lines(fits, crossing, by)
    if len(fits) == 1:
        return _draw_surface(first)
    return _draw_measured_against_predicted(fits, by)


def label_of(fit: Fit, group: str = "", at: float | None = None) -> str:
    """Group, number of points, and the law at a reference inside the data, or its constants with their intervals."""
    name = shown(named(group))
    return f"{name + ': ' if group else ''}{len(fit.points)} points\n{at_reference(fit, at) or constants_of(fit)}"


def constants_of(fit: Fit) -> str:
    """The constants with their intervals, three per line."""
    nothing = NOTHING * fit.points.loss.min()

    def said(name: str, value: float) -> str:
        return "0" if name == "E" and value < nothing else readable(value, 3)

    parts = []
    for name, value in fit.constants.items():
        low, high = fit.intervals.get(name, (np.nan, np.nan))
        sure = f" ({said(name, low)} to {said(name, high)})" if name in fit.intervals else ""
        parts.append(f"{greek(name)} = {said(name, value)}{sure}")
    return "\n".join(", ".join(parts[i : i + 3]) for i in range(0, len(parts), 3))


def footnote(fits: Sequence[Fit]) -> str:
    """The conventions of the axes, the rows left out, and the flags."""
    fit = fits[0]
    lines = []
    if counted := [f"{NAMES[k].split()[-1] if k != 'flops' else 'C'}: {v}" for k, v in fit.points.conventions.items()
                   if k in fit.law.variables]:  # fmt: skip
        lines.append(shown("counted as " + "; ".join(counted), WHOLE))
    rules = Counter(gone.rule for f in fits for gone in f.points.left_out)
    if rules:
        named = [f"{count} x {shown(rule, WHOLE)}" for rule, count in rules.most_common(3)]
        more = sum(rules.values()) - sum(count for _, count in rules.most_common(3))
        lines.append("left out: " + "; ".join(named) + (f"; {more} more" if more else ""))
    kinds = Counter(flag.partition(":")[0] for f in fits for flag in f.flags)
    lines.append("flags: " + (", ".join(kinds) if kinds else "none") + "; bands and intervals: 95 %, bootstrap")
    return "\n".join(lines)


def _draw_lines(fits: Mapping[str, Fit], crossing: Crossing | None, by: str | None) -> Figure:
    first = next(iter(fits.values()))
    name = first.law.variables[0]
    xs = np.concatenate([fit.points.variables[name] for fit in fits.values()])
    labels = {group: label_of(fit, group, reference(xs)) for group, fit in fits.items()}
    widest = max(len(line) for label in labels.values() for line in label.split("\n"))
    columns = 2 if widest < HALF and 1 < len(fits) <= MANY else 1
    beside = len(fits) > MANY
    height = max(6.0, 0.33 * len(fits) + 1.5) if beside else 6.0 + 0.33 * (len(fits) / columns - 1)
    made, axes = figure(
        6.4 + LETTER * widest * beside, height, nrows=2, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    top, bottom = axes[:, 0]
    losses = np.concatenate([fit.points.loss for fit in fits.values()])
    low, high = widened(xs)
    crosses = crossing is not None and crossing.x is not None and low / FAR < crossing.x < high * FAR
    if crosses:  # shown where it is not far beyond the data
        low, high = widened(np.append(xs, crossing.x))
    line = np.geomspace(low, high, 200)
    looks = looks_of(fits)
    for group, fit in fits.items():
        colour, marker, dash = looks[group]
        x = fit.points.variables[name]
        predicted = fit.predict(**{name: line})
        top.plot(line, predicted.loss, ls=dash, color=colour, lw=1.4, label=labels[group],
                 marker=marker, markevery=[], ms=4.5, mfc="white", mew=1.2)  # fmt: skip
        top.fill_between(line, predicted.low, predicted.high, color=colour, alpha=0.15, lw=0)
        top.plot(x, fit.points.loss, marker, color=colour, ms=4.5, mfc="white", mew=1.2)
        bottom.plot(x, 100 * np.expm1(fit.residuals), marker, color=colour, ms=4, mfc="white", mew=1.1)
    if crosses:
        top.axvline(crossing.x, color="#555555", lw=0.9, ls=":")
    _loss_axis(top, losses)
    log_axis(bottom, "x", low, high, plain=name == "other_loss", name=name)
    # matplotlib's own wrapping reads "$" as mathematics
    verdict = [textwrap.fill(shown(crossing.verdict, 300), 74)] if crossing is not None else []
    top.set_title("\n".join([greek(first.law.equation), *verdict]))
    place = "outside right upper" if beside else "outside upper center"
    made.legend(*top.get_legend_handles_labels(), loc=place, ncols=columns, title=_title_of(fits, by))
    _residual_axis(bottom)
    bottom.set_xlabel(NAMES[name])
    add_note(made, footnote(list(fits.values())))
    return made


def _loss_axis(axes: Axes, losses: np.ndarray) -> None:
    low, high = widened(losses, 0.1)
    log_axis(axes, "y", low, high, plain=True)
    axes.set_ylabel(NAMES["loss"])


def _residual_axis(axes: Axes) -> None:
    axes.axhline(0, color="#555555", lw=0.8)
    axes.set_ylabel("measured /\npredicted - 1 (%)")


def _draw_surface(fit: Fit) -> Figure:
    """Contours of L(N, D) with the points and the compute-optimal line; measured against predicted; residuals."""
    first, second = fit.law.variables[:2]
    x, y = fit.points.variables[first], fit.points.variables[second]
    made, axes = figure(9.6, 4.9, ncols=2, gridspec_kw={"width_ratios": [1.25, 1]})
    plane, against = axes[0]
    (x_low, x_high), (y_low, y_high) = widened(x), widened(y)
    if len(fit.law.variables) == 2:
        grid_x, grid_y = np.meshgrid(np.geomspace(x_low, x_high, 120), np.geomspace(y_low, y_high, 120))
        loss = fit.law.loss(fit.theta, {first: grid_x.ravel(), second: grid_y.ravel()}).reshape(grid_x.shape)
        levels = np.unique(np.round(np.geomspace(loss.min(), loss.max(), 12), 2))
        lines = plane.contour(grid_x, grid_y, loss, levels, colors="#888888", linewidths=0.7)
        plane.clabel(lines, fmt="%.2f", fontsize=7)
    dots = plane.scatter(
        x, y, c=fit.points.loss, cmap="viridis", norm=LogNorm(), s=16, edgecolor="#333333", lw=0.3, zorder=3
    )
    bar = made.colorbar(dots, ax=plane, label=NAMES["loss"], shrink=0.85)
    bar.set_ticks(ticks_between(fit.points.loss.min(), fit.points.loss.max()))
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.ax.minorticks_off()
    if set(fit.law.variables) == {"params", "tokens"}:
        budgets = 6.0 * np.geomspace(x_low * y_low, x_high * y_high, 40)
        best = fit.optimal(budgets)
        plane.plot(best.params, best.tokens, color="#111111", lw=1.6, ls="--", label="compute-optimal, C = 6 N D")
        if np.isfinite(best.params_interval).all():
            low, high = best.params_interval.T
            around = np.concatenate([low, high[::-1]])
            plane.fill(
                around, np.concatenate([budgets, budgets[::-1]]) / 6.0 / around, color="#111111", alpha=0.12, lw=0
            )
        plane.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0))  # above the axes
    log_axis(plane, "x", x_low, x_high, name=first)
    log_axis(plane, "y", y_low, y_high, name=second)
    plane.set_xlabel(NAMES[first])
    plane.set_ylabel(NAMES[second])
    made.suptitle(f"{greek(fit.law.equation)}\n{label_of(fit)}", fontsize=9)
    _against(against, {"": fit})
    add_note(made, footnote([fit]))
    return made


def _against(axes: Axes, fits: Mapping[str, Fit]) -> None:
    """Residuals in percent over predicted loss; the legend has the constants."""
    looks = looks_of(fits)
    everything = []
    for group, fit in fits.items():
        colour, marker, _ = looks[group]
        predicted = fit.law.loss(fit.theta, fit.points.variables)
        everything.append(predicted)
        axes.plot(predicted, 100 * np.expm1(fit.residuals), marker, color=colour, ms=4, mfc="white", mew=1.0,
                  label=label_of(fit, group))  # fmt: skip
    _residual_axis(axes)
    log_axis(axes, "x", *widened(np.concatenate(everything)), plain=True)
    axes.set_xlabel(f"predicted {NAMES['loss']}")


def _draw_measured_against_predicted(fits: Mapping[str, Fit], by: str | None) -> Figure:
    widest = max(len(line) for group, fit in fits.items() for line in label_of(fit, group).split("\n"))
    made, axes = figure(6.4 + LETTER * widest, max(4.2, 0.5 * len(fits) + 0.8))
    _against(axes[0, 0], fits)
    axes[0, 0].set_title(greek(next(iter(fits.values())).law.equation))
    made.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside right upper", handlelength=1, title=_title_of(fits, by)
    )
    add_note(made, footnote(list(fits.values())))
    return made


def _title_of(fits: Mapping[str, Fit], by: str | None) -> str | None:
    """The column of the groups, unless there are none, or families, whose names say it."""
    plain = [group for group in fits if group and parts_of(group.lower())[0] not in FAMILIES]
    return shown(by) if by and plain else None


def _titled(made: Figure, title: str) -> None:
    if title:  # an empty one would take room
        made.suptitle(shown(title))


@styled
def draw_isoflops(found: IsoFlops, counted: str = "as given", title: str = "") -> Figure:
    """Left: the profiles with parabolas and minima. Right: N_opt = k C^a through the minima (approach 2)."""
    made, axes = figure(11.0, max(4.4, 0.19 * len(found.profiles) + 0.8), ncols=2)
    _titled(made, title)
    left, right = axes[0]
    shades = colormaps["viridis"](np.linspace(0.0, 0.9, len(found.profiles)))  # of budgets; hues are of families
    for profile, colour, marker in zip(found.profiles, shades, cycle(MARKERS), strict=False):
        inside = profile.window
        left.plot(profile.params[inside], profile.loss[inside], marker, color=colour, ms=5, mfc="white", mew=1.2,
                  label=f"{power(profile.flops)} FLOPs")  # fmt: skip
        left.plot(profile.params[~inside], profile.loss[~inside], marker, color=colour, ms=3, mew=0, alpha=0.6)
        if np.isfinite(profile.parabola).all():
            line = np.geomspace(*profile.params[profile.window][[0, -1]], 100)
            dash = "-" if not profile.problem else ":"
            left.plot(line, np.polyval(profile.parabola, np.log(line)), dash, color=colour, lw=1.1)
        if not profile.problem:
            left.plot(profile.best_params, profile.best_loss, "*", color=colour, ms=11, mec="black", mew=0.6)
            right.plot(profile.flops, profile.best_params, "*", color=colour, ms=11, mec="black", mew=0.6)
    log_axis(left, "x", *widened(np.concatenate([p.params for p in found.profiles])))
    left.set_xlabel(NAMES["params"])
    left.set_ylabel(NAMES["loss"])
    left.set_title("runs of equal compute, parabolas in log N, minima (stars)")
    made.legend(*left.get_legend_handles_labels(), loc="outside right upper")
    low, high = widened(found.params.x, 0.15)
    line = np.geomspace(low, high, 50)
    a, (a_low, a_high) = found.params.exponent, found.params.interval
    sure = f" ({a_low:.3f} to {a_high:.3f})" if np.isfinite(a_low) else ""
    right.plot(line, found.params(line), color="#333333", lw=1.2, label=f"N = k C^a, a = {a:.3f}{sure}")
    if found.akima:
        right.plot(found.akima.x, found.akima.y, "x", color="#555555", ms=6,
                   label=f"by Akima splines: a = {found.akima.exponent:.3f}")  # fmt: skip
    log_axis(right, "x", low, high, name="flops")
    log_axis(right, "y", *widened(np.concatenate([found.params.y, found.params(line)])))
    right.set_xlabel(NAMES["flops"])
    right.set_ylabel("compute-optimal N")
    right.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, ncols=1)  # above the axes
    flags = "; ".join(found.flags) if found.flags else "none"
    left_out = any(not profile.window.all() for profile in found.profiles)
    small = "small: too far from the best size for the parabola; " if left_out else ""
    add_note(made, f"N: {shown(counted, WHOLE)}; {small}flags: {flags}")
    return made


@styled
def draw_envelope(
    curves: Mapping[float, tuple[np.ndarray, np.ndarray]], found: PowerLaw, counted: str = "", title: str = ""
) -> Figure:
    """Left: training curves by size. Right: the best size at each compute, and N_opt = k C^a (approach 1)."""
    made, axes = figure(9.6, 4.4, ncols=2)
    _titled(made, title)
    left, right = axes[0]
    sizes = sorted(curves)
    shades = colormaps["viridis"](np.linspace(0.0, 0.9, len(sizes)))
    named = range(len(sizes)) if len(sizes) <= 6 else (0, len(sizes) // 2, len(sizes) - 1)
    for place, (size, shade) in enumerate(zip(sizes, shades, strict=True)):
        label = f"N = {amount(size)}" if place in named else None
        left.plot(*curves[size], color=shade, lw=1.2, marker=".", ms=3, label=label)
    right.plot(found.x, found.y, "o", color="#333333", ms=4, mfc="white", mew=1.1, label="best size trained")
    low, high = widened(found.x, 0.1)
    line = np.geomspace(low, high, 50)
    ends = "({:.3f} to {:.3f})".format(*found.interval) if np.isfinite(found.interval[0]) else "(no interval)"
    right.plot(line, found(line), color="#333333", lw=1.2, label=f"N = k C^a, a = {found.exponent:.3f} {ends}")
    log_axis(left, "x", *widened(np.concatenate([flops for flops, _ in curves.values()])), name="flops")
    log_axis(right, "x", low, high, name="flops")
    log_axis(right, "y", *widened(np.concatenate([found.y, found(line)])))
    left.set_xlabel(NAMES["flops"])
    left.set_ylabel(NAMES["loss"])
    left.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, ncols=3)  # above the axes
    right.set_xlabel(NAMES["flops"])
    right.set_ylabel("best N")
    right.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)
    note = "inside a decaying schedule the loss lies above that of a run that ends there; intervals: 95 %"
    add_note(made, (f"N: {shown(counted, WHOLE)}; " if counted else "") + note)
    return made


@styled
def draw_ratio(ratio: Ratio, names: tuple[str, str], of: str = "params") -> Figure:
    """The ratio of the first family's need to the second's, over the losses that both reach."""
    made, axes = figure(6.0, 4.0)
    ax = axes[0, 0]
    good = np.isfinite(ratio.ratio)
    if not good.any():
        raise UserError("no ratio can be drawn: by their laws the two reach none of these losses both")
    ax.plot(ratio.loss[good], ratio.ratio[good], color="#333333", lw=1.5)
    top = np.where(np.isfinite(ratio.high), ratio.high, np.nanmax(ratio.ratio[good]) * 1e3)
    ax.fill_between(ratio.loss[good], ratio.low[good], top[good], color="#333333", alpha=0.15, lw=0, label="95 %")
    ax.axhline(1, color="#555555", lw=0.9, ls=":")
    bounds = np.concatenate([ratio.ratio[good], ratio.low[good], ratio.high[good & np.isfinite(ratio.high)], [1.0]])
    log_axis(ax, "y", *widened(bounds, 0.1), plain=True)
    ax.invert_xaxis()
    ax.set_xlabel(f"{NAMES['loss']}, better to the right")
    ax.set_ylabel(f"{NAMES[of].split(' (')[0]} of {shown(names[0], 16)} / {shown(names[1], 16)}")
    ax.set_title(f"how many times more {shown(names[0], 16)} needs than {shown(names[1], 16)} for the same loss")
    made.legend(*ax.get_legend_handles_labels(), loc="outside lower right")
    return made
