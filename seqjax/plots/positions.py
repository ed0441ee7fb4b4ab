"""The figure of losses by position: a colour and a mark a family; a dash and a width a curve, by size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from seqjax.laws.fitting import Fit
from seqjax.laws.position import Curve, Plateau, binned, power_words
from seqjax.plots.labels import looks_of
from seqjax.plots.style import NAMES, add_note, dash_of, figure, log_axis, shown, styled, widened

ABOVE = 4  # curves with a legend above the axes; with more it is beside them
LAWS = 12  # curves whose legend has their laws and plateaus; with more it has names alone
HEIGHT = 0.13  # of a line of the legend beside the axes, inches
STEPS = 6  # marks and lines grow over so many sizes of a family, then no more


@styled
def draw_positions(
    curves: Mapping[str, Curve],
    fits: Mapping[str, Fit] | None = None,
    plateaus: Mapping[str, Plateau] | None = None,
    groups: Mapping[str, tuple[str, float]] | None = None,
) -> Figure:
    """Loss per token against its position in the context, with 95 % bars, laws and plateaus.

    Args:
        curves: by name.
        groups: name -> family and number of parameters; None: each curve has a look of its own.
    """
    many, with_laws = len(curves) > ABOVE, len(curves) <= LAWS
    made, axes = figure(9.6 if many else 6.4, max(4.6, 0.5 + (3 if with_laws else 1.3) * HEIGHT * len(curves)))
    ax = axes[0, 0]
    groups = groups or {name: (name, 1.0) for name in curves}
    looks = looks_of(dict.fromkeys(family for family, _ in groups.values()))
    losses, length = [], 1
    for name, (loss, error, bin_error) in curves.items():
        family, _ = groups[name]
        alike = sorted((other for other in curves if groups[other][0] == family), key=lambda other: groups[other][1])
        rank, look = alike.index(name), looks[family]
        large = rank * min(1.0, (STEPS - 1) / max(1, len(alike) - 1))
        dash = dash_of(rank) if len(alike) > 1 else look.dash
        bins = binned(loss, error, bin_error)
        losses.append(bins.loss)
        length = max(length, len(loss))
        words = [shown(name, 60)]
        if fits and name in fits:
            line = np.geomspace(2, len(loss), 100)
            fit = fits[name]
            words += [power_words(fit)] * with_laws
            ax.plot(line, fit.law.loss(fit.theta, {"position": line}), ls=dash, color=look.colour, lw=0.8 + 0.2 * large)
        else:
            ax.plot(bins.center, bins.loss, ls=dash, color=look.colour, lw=0.7, alpha=0.6)
        if with_laws and plateaus and name in plateaus:
            words.append(_plateau_words(plateaus[name]))
        ax.errorbar(bins.center, bins.loss, 1.96 * bins.error, marker=look.marker, ls="", color=look.colour,
                    ms=3 + 0.8 * large, mfc=look.colour if rank % 2 else "white", mew=1.1, elinewidth=0.9,
                    label="\n".join(words))  # fmt: skip
    log_axis(ax, "x", 0.9, length * 1.15, plain=True)
    log_axis(ax, "y", *widened(np.concatenate(losses), 0.1), plain=True)
    ax.set_xlabel(NAMES["position"])
    ax.set_ylabel(NAMES["loss"])
    where = {"loc": "outside right upper", "fontsize": 7} if many else {"loc": "outside upper center", "ncols": 2}
    made.legend(**where)
    if any(bin_error is None for _, _, bin_error in curves.values()):
        add_note(made, "bars of runs without errors of bins take positions as independent: too short, by up to a half")
    return made


def _plateau_words(found: Plateau) -> str:
    if found.position is None:
        return "falls to the end"
    high = "the end" if np.isinf(found.high) else f"{found.high:.0f}"
    return f"flat from {found.position:.0f} on ({found.low:.0f} to {high})"
