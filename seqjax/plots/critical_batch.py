"""Figures of the critical batch: steps and tokens to equal losses, and the critical batch by loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.families import label_of
from seqjax.plots.labels import Look, looks_of
from seqjax.plots.style import NAMES, add_note, figure, log_axis, styled, widened

BEYOND = 4.0  # times the smallest and the largest batch trained


@styled
def draw_critical_batches(families: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A panel for each family: tokens against steps to each loss, with the fitted hyperbola. The last: B_crit by loss.

    A marker of a run is full where the best rate of its batch is at an edge of those tried. A critical batch or a noise
    scale that is not determined is left out.

    Args:
        families: of ``results.json`` of experiments/batch_size.py.
    """
    made, axes = figure(4.1 * (len(families) + 1), 4.2, ncols=len(families) + 1)
    *panels, last = axes[0]
    looks = looks_of(families)
    for axis, (kind, found) in zip(panels, families.items(), strict=True):
        _draw_trade(axis, found["losses"], looks[kind].marker)
        axis.set_title(f"{label_of(kind)}, N = {found['params_non_embedding']:,}")
    every = [(row["loss"], row["kaplan"]) for found in families.values() for row in found["losses"]]
    losses, kaplan = (np.array(column) for column in zip(*sorted(every), strict=True))
    batches = list(kaplan)
    for kind, found in families.items():
        batches += _draw_law(last, found, looks[kind], label_of(kind))
    last.plot(losses, kaplan, color="#777777", lw=1.0, ls=":", label="Kaplan et al. 2020, same text")
    log_axis(last, "x", *widened(losses), plain=True)
    log_axis(last, "y", *widened(np.array(batches)))
    last.invert_xaxis()
    last.set_xlabel(f"{NAMES['loss']}, better to the right")
    last.set_ylabel("batch (tokens)")
    last.set_title("critical batch; hollow: gradient noise")
    made.legend(*last.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    note = "lines through runs: (S / S_min - 1) (E / E_min - 1) = 1 for each loss"
    if any(row["rates_at_an_edge"] for found in families.values() for row in found["losses"]):
        note += "; full markers: the best rate of the batch is at an edge of those tried"
    add_note(made, note)
    return made


def _draw_trade(axis: Axes, rows: list[Mapping[str, Any]], marker: str) -> None:
    """Tokens E against steps S of each loss, one shade a loss."""
    shades = colormaps["viridis"](np.linspace(0.0, 0.9, len(rows)))
    every = []
    for row, shade in zip(rows, shades, strict=True):
        steps, batches = (np.array([run[key] for run in row["runs"]]) for key in ("steps", "batch"))
        tokens = steps * batches
        every.append((steps, tokens))
        edge = np.isin(batches, row["rates_at_an_edge"])
        axis.plot(steps[~edge], tokens[~edge], marker, color=shade, ms=4, mfc="white", mew=1.1)
        axis.plot(steps[edge], tokens[edge], marker, color=shade, ms=4, mew=1.1)
        batch = np.geomspace(tokens.min() / steps.max(), tokens.max() / steps.min(), 100)
        fitted = row["steps"] + row["tokens"] / batch
        axis.plot(fitted, fitted * batch, color=shade, lw=1.2, label=f"{row['loss']:.2f}")
    steps, tokens = (np.concatenate(column) for column in zip(*every, strict=True))
    log_axis(axis, "x", *widened(steps), name="steps")
    log_axis(axis, "y", *widened(tokens))
    axis.set_xlabel("steps S to the loss")
    axis.set_ylabel("tokens E to the loss")
    axis.legend(title="loss (nats)", loc="upper left", bbox_to_anchor=(0.0, -0.16), ncols=3)


def _draw_law(axis: Axes, found: Mapping[str, Any], look: Look, label: str) -> list[float]:
    """Critical batches with intervals, their law, and noise scales; all that the axis has to hold.

    An interval may end far from any batch. The axis ends at `BEYOND` times the batches that were trained.
    """
    law, rows = found["law"], [row for row in found["losses"] if row["low"] and row["high"]]
    loss, batch, low, high = (np.array([row[key] for row in rows]) for key in ("loss", "batch", "low", "high"))
    known = [row for row in found["losses"] if row["noise_scale"]["batch"]]
    noise = [row["noise_scale"]["batch"] for row in known]
    name = f"{label}, L^-{law['exponent']:.1f} ({law['low']:.1f} to {law['high']:.1f})" if law else label
    axis.errorbar(
        loss, batch, [batch - low, high - batch],
        color=look.colour, marker=look.marker, ls="none", ms=5, capsize=2, label=name,
    )  # fmt: skip
    if law:
        line = np.geomspace(loss.min(), loss.max(), 50)
        axis.plot(line, law["b_star"] * line ** -law["exponent"], color=look.colour, ls=look.dash, lw=1.3)
    axis.plot([row["loss"] for row in known], noise, look.marker, color=look.colour, ms=5, mfc="none", alpha=0.7)
    trained = [run["batch"] for row in found["losses"] for run in row["runs"]]
    return list(np.clip([*low, *high, *noise], min(trained) / BEYOND, max(trained) * BEYOND))
