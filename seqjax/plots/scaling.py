"""Loss against compute, tokens and parameters side by side, as in figure 1 of Kaplan et al. 2020; and L(N, S)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.families import label_of
from seqjax.host.wording import power
from seqjax.laws.fitting import Fit
from seqjax.laws.points import Points
from seqjax.laws.reference import at_reference, reference
from seqjax.plots.labels import looks_of
from seqjax.plots.style import NAMES, add_note, amount, figure, log_axis, styled, widened


@styled
def draw_laws(laws: Mapping[str, Mapping[str, Fit]], runs: Mapping[str, Points]) -> Figure:
    """A panel a law: points, line and 95 % band of each family; below it, residuals.

    Args:
        laws: title -> kind -> fit of one variable; the kinds are those of `runs`.
        runs: kind -> all runs; those that a law is not fitted to are small dots.
    """
    made, axes = figure(
        3.9 * len(laws), 5.4, nrows=2, ncols=len(laws), sharex="col", sharey="row",
        gridspec_kw={"height_ratios": [3, 1]},
    )  # fmt: skip
    looks = looks_of(runs)
    for (title, fits), top, bottom in zip(laws.items(), *axes, strict=True):
        name = next(iter(fits.values())).law.variables[0]
        every = np.concatenate([points.variables[name] for points in runs.values()])
        at = reference(np.concatenate([fit.points.variables[name] for fit in fits.values()]))
        low, high = widened(every)
        line = np.geomspace(low, high, 200)
        for kind, fit in fits.items():
            colour, marker, dash = looks[kind]
            x, predicted = fit.points.variables[name], fit.predict(**{name: line})
            label = f"{label_of(kind)}\n{at_reference(fit, at)}"
            top.plot(line, predicted.loss, ls=dash, color=colour, lw=1.4, label=label)
            top.fill_between(line, predicted.low, predicted.high, color=colour, alpha=0.15, lw=0)
            top.plot(runs[kind].variables[name], runs[kind].loss, marker, color=colour, ms=2, alpha=0.35, mew=0)
            top.plot(x, fit.points.loss, marker, color=colour, ms=5, mfc="white", mew=1.2)
            bottom.plot(x, 100 * np.expm1(fit.residuals), marker, color=colour, ms=4, mfc="white", mew=1.1)
        bottom.axhline(0, color="#555555", lw=0.8)
        log_axis(bottom, "x", low, high, name=name)
        bottom.set_xlabel(NAMES[name])
        top.set_title(title, pad=6)
        top.legend(loc="upper right", fontsize=7.5)
    losses = np.concatenate([points.loss for points in runs.values()])
    low, high = widened(losses, 0.1)
    log_axis(axes[0, 0], "y", low, high * (high / low) ** 0.35, plain=True)  # room for the legends
    axes[0, 0].set_ylabel(NAMES["loss"])
    axes[1, 0].set_ylabel("measured /\nlaw - 1 (%)")
    kinds = sorted({flag.partition(":")[0] for fits in laws.values() for fit in fits.values() for flag in fit.flags})
    note = (
        "small dots: runs that a law is not fitted to; N without embeddings, C by the exact count; flags: "
        f"{', '.join(kinds) or 'none'}; bands and intervals: 95 %, bootstrap"
    )
    bare = any(not len(fit.draws) for fits in laws.values() for fit in fits.values())
    add_note(made, note + "; none where all runs share their first steps" * bare)
    return made


class Curves(NamedTuple):
    """Learning curves of a family, and the law through them.

    Attributes:
        at_constant_rate: N -> (steps, held-out losses) before the decay of the learning rate.
        ended: N -> (steps, held-out losses) of runs after their decay.
        law: L(N, S).
    """

    at_constant_rate: Mapping[int, tuple[np.ndarray, np.ndarray]]
    ended: Mapping[int, tuple[np.ndarray, np.ndarray]]
    law: Fit


@styled
def draw_learning_law(families: Mapping[str, Curves]) -> Figure:
    """A panel a family: curves at a constant rate by size, L(N, S) with its 95 % band, and the ends of decayed runs."""
    made, axes = figure(4.6 * len(families), 4.8, ncols=len(families), sharey=True)
    for ax, (kind, curves) in zip(axes[0], families.items(), strict=True):
        _draw_curves(ax, curves)
        ax.set_title(f"{label_of(kind)}\n{_at_references(curves.law)}", fontsize=9)
    pairs = [pair for curves in families.values() for of in curves[:2] for pair in of.values()]
    for ax in axes[0]:
        log_axis(ax, "x", *widened(np.concatenate([steps for steps, _ in pairs])), name="steps")
        log_axis(ax, "y", *widened(np.concatenate([losses for _, losses in pairs]), 0.1), plain=True)
        ax.set_xlabel(NAMES["steps"])
    axes[0, 0].set_ylabel(NAMES["loss"])
    add_note(made, "dots: held-out loss at a constant learning rate; lines: the law, bands and intervals: 95 %; "
             "stars: runs that ended there, with the decay of their rate")  # fmt: skip
    return made


def _at_references(fit: Fit) -> str:
    """L(N, S) = (N_c / N)^alpha_N + (S_c / S)^alpha_S with the scales of both inside the data."""
    terms = []
    for letter, name in (("N", "params"), ("S", "steps")):
        at, alpha = reference(fit.points.variables[name]), fit.constants[f"alpha_{letter}"]
        scale = (fit.constants[f"{letter}_c"] / at) ** alpha
        terms.append(f"{scale:.3g} ({letter} / {power(at, 1)})^-{alpha:.3g}")
    return f"L = {' + '.join(terms)}"


def _draw_curves(ax: Axes, curves: Curves) -> None:
    looks = looks_of(map(str, curves.at_constant_rate))
    for size, (steps, losses) in curves.at_constant_rate.items():
        colour = looks[str(size)].colour
        line = np.geomspace(steps.min(), steps.max(), 60)
        predicted = curves.law.predict(params=np.full(60, float(size)), steps=line)
        ax.plot(steps, losses, "o", color=colour, ms=3, mew=0, label=f"N = {amount(size)}")
        ax.plot(line, predicted.loss, color=colour, lw=1.2)
        ax.fill_between(line, predicted.low, predicted.high, color=colour, alpha=0.15, lw=0)
        if size in curves.ended:
            ax.plot(*curves.ended[size], "*", color=colour, ms=8, mec="black", mew=0.5)
    ax.legend(loc="upper right")
