"""Loss against the learning rate at several widths: whether the best rate stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.plots.style import NAMES, figure, log_axis, marker_of, styled, widened


@styled
def draw_transfer(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A row for each family, a panel for each rule, a curve for each width; stars at best rates that are at no edge.

    Args:
        found: "family, rule" -> {"curves": {width: {"rates", "loss", "best"}}}; a loss is None where the run diverged.
    """
    families: dict[str, list[str]] = {}
    for name in found:
        families.setdefault(name.split(", ")[0], []).append(name)
    columns = max(map(len, families.values()))
    size = 4.1 * columns, 0.4 + 3.0 * len(families)
    made, axes = figure(*size, nrows=len(families), ncols=columns, sharey="row")
    for row, names in zip(axes, families.values(), strict=True):
        losses = [_draw(ax, name, found[name]["curves"]) for ax, name in zip(row, names, strict=False)]
        ended = [loss for loss in np.concatenate(losses) if np.isfinite(loss)] or [1.0]
        low, high = min(ended), max(ended)
        row[0].set_ylim(low - 0.08, min(high + 0.35, low + 1.6))  # the panels of a row share it; above are the legends
        row[0].set_ylabel(NAMES["loss"])
        for ax in row[len(names) :]:
            ax.remove()
    return made


def _draw(ax: Axes, name: str, curves: Mapping[Any, Mapping[str, Any]]) -> np.ndarray:
    """One panel. Returns all its losses."""
    shades, shown, rates = colormaps["viridis"](np.linspace(0.0, 0.85, len(curves))), [], []
    for place, (shade, (width, curve)) in enumerate(zip(shades, curves.items(), strict=True)):
        loss, mark = np.array(curve["loss"], float), marker_of(place)
        ax.plot(curve["rates"], loss, color=shade, marker=mark, ms=4, mfc="white", lw=1.3, label=f"width {width}")
        if curve["best"]:
            at = np.interp(np.log(curve["best"]), np.log(curve["rates"]), loss)
            ax.plot(curve["best"], at, "*", color=shade, ms=11, mec="black", mew=0.5, zorder=5)
        shown.append(loss)
        rates += curve["rates"]
    log_axis(ax, "x", *widened(np.array(rates)), plain=True)
    ax.set_xlabel("learning rate")
    ax.set_title(name)
    ax.legend(loc="upper center", ncols=2)
    return np.concatenate(shown)
