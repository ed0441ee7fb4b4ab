"""Loss against the learning rate at several widths: whether the best rate stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from seqjax.plots.style import MARKERS, NAMES, figure, log_axis, styled, widened


@styled
def draw_transfer(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A panel for each name: a curve for each width; stars at the best rates, where they are not at an edge.

    Args:
        found: name -> {"curves": {width: {"rates", "loss", "best"}}}; a loss is None where the run diverged.
    """
    columns = 2
    rows = -(-len(found) // columns)
    made, axes = figure(8.4, 0.4 + 3.0 * rows, nrows=rows, ncols=columns, sharey="row", sharex=True)
    of_rows: list[list[float]] = [[] for _ in range(rows)]
    for place, (ax, (name, row)) in enumerate(zip(axes.flat, found.items(), strict=False)):
        shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(row["curves"])))
        rates: list[float] = []
        for shade, marker, (width, curve) in zip(shades, MARKERS, row["curves"].items(), strict=False):
            loss = np.array(curve["loss"], float)
            ax.plot(curve["rates"], loss, color=shade, marker=marker, ms=4, mfc="white", lw=1.3, label=f"width {width}")
            if curve["best"]:
                at = np.interp(np.log(curve["best"]), np.log(curve["rates"]), loss)
                ax.plot(curve["best"], at, "*", color=shade, ms=11, mec="black", mew=0.5, zorder=5)
            of_rows[place // columns] += loss[np.isfinite(loss)].tolist()
            rates += curve["rates"]
        log_axis(ax, "x", *widened(np.array(rates)), plain=True)
        ax.set_title(name)
        ax.legend(loc="upper center", ncols=2)
    for ax in axes[-1]:
        ax.set_xlabel("learning rate")
    for row, losses in zip(axes, of_rows, strict=True):
        low, high = min(losses), max(losses)
        row[0].set_ylim(low - 0.08, min(high + 0.35, low + 1.6))  # the panels of a row share it; above are the legends
        row[0].set_ylabel(NAMES["loss"])
    return made
