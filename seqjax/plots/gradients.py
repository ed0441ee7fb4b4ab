"""Figures of back-propagation through time: gradients and memory by distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.families import hues_of, labels_of
from seqjax.laws.intervals import t_interval
from seqjax.plots.labels import HUES, LABELS
from seqjax.plots.style import dash_of, figure, log_axis, marker_of, styled

OF = {"h": "state h", "c": "cell c (h held)", "x": "residual stream x, before block 1", "input": "input x"}
SHOWN = 0.75
"""Largest distance, as a share of the context: longer distances have few pairs."""


@styled
def draw_gradient_norms(families: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A panel per family, two in a row: mean norm of d loss_t / d state_k against t - k, with 95 % bands over seeds.

    Args:
        families: name -> {"initial", "trained": {array: norms [S][T]}} and, for the Elman network, {"bound":
            {"initial", "trained": largest singular value per seed}, "mean_slope": factor of a step per seed}.
    """
    rows = max(2, -(-len(families) // 2))
    made, axes = figure(9.2, 3.3 * rows, nrows=rows, ncols=2, sharex=True)
    hues, labels = hues_of(families), labels_of(families)
    for ax, (family, found) in zip(axes.ravel(), families.items(), strict=False):
        lowest = []
        for number, array in enumerate(found["initial"]):
            for when, hue in (("initial", "#777777"), ("trained", hues[family])):
                label = f"{OF.get(array, array)}, {'at initialisation' if when == 'initial' else 'trained'}"
                lowest.append(_draw_band(ax, np.array(found[when][array]), hue, dash_of(number), label))
        if "bound" in found:
            _draw_theory(ax, found)
        top = max(np.max(np.array(norms)[:, 1:]) for when in ("initial", "trained") for norms in found[when].values())
        room = (top / min(lowest)) ** 0.45  # below, for the legend
        log_axis(ax, "y", min(lowest) / max(room, 10.0), top * 3)
        ax.set_title(labels[family])
        ax.legend(loc="lower left")
    for ax in axes[-1]:
        ax.set_xlabel("distance t - k (tokens)")
    for ax in axes[:, 0]:
        ax.set_ylabel("mean |d loss$_t$ / d state$_k$| (nats)", parse_math=True)
    made.supxlabel(
        "geometric mean over seeds of the mean over windows and t; bands: 95 %; each panel has its own vertical axis",
        fontsize=7, color="#555555", x=0.01, ha="left",
    )  # fmt: skip
    return made


def _draw_band(ax: Axes, norms_SxT: np.ndarray, hue: str, dashes: Any, label: str) -> float:
    """Draw from distance 1 on; return the lowest value."""
    distances = np.arange(1, int(SHOWN * norms_SxT.shape[1]) + 1)
    logs_SxK = np.log(np.maximum(norms_SxT[:, distances], np.finfo(np.float32).tiny))
    middle, half = np.array([t_interval(column) for column in logs_SxK.T]).T
    ax.plot(distances, np.exp(middle), color=hue, ls=dashes, lw=1.5, label=label)
    if np.isfinite(half).all():
        ax.fill_between(distances, np.exp(middle - half), np.exp(middle + half), color=hue, alpha=0.18, lw=0)
    return float(np.exp(middle.min()))


def _draw_theory(ax: Axes, found: Mapping[str, Any]) -> None:
    """Draw the bound s^(t-k) and the power of the mean slope, both from the norm at distance 0."""
    length = int(SHOWN * len(found["initial"]["h"][0]))
    distances = np.arange(1, length + 1)
    for when, hue, name in (("initial", "#777777", "at initialisation"), ("trained", HUES["elman"], "trained")):
        start, s = np.mean(np.array(found[when]["h"])[:, 0]), np.mean(found["bound"][when])
        place = " (above the picture)" if s > 1.05 else ""
        ax.plot(distances, start * s**distances, color=hue, lw=0.9, ls=":", label=f"bound, s = {s:.2f}, {name}{place}")
    start, slope = np.mean(np.array(found["initial"]["h"])[:, 0]), np.mean(found["mean_slope"])
    ax.plot(
        distances, start * slope**distances, color="black", lw=0.9, ls="--", label=f"mean slope {slope:.2f}, at init."
    )


@styled
def draw_truncation(rows: Sequence[Mapping[str, Any]], chance: float) -> Figure:
    """Test accuracy of delayed copies against the distance. Left: every family. Then each truncated family, by k.

    Args:
        rows: {"family", "distance", "bptt": k or None, "accuracy": [S]}; lines are means, dots are seeds.
    """
    cut = list(dict.fromkeys(row["family"] for row in rows if row["bptt"]))
    made, axes = figure(3.6 * (1 + len(cut)), 3.9, ncols=1 + len(cut), sharey=True)
    distances = sorted({row["distance"] for row in rows})
    for number, family in enumerate(dict.fromkeys(row["family"] for row in rows)):
        _draw_accuracy(axes[0, 0], rows, family, None, HUES[family], number, LABELS[family])
    axes[0, 0].set_title("whole gradient")
    for ax, family in zip(axes[0, 1:], cut, strict=True):
        pieces = sorted({row["bptt"] for row in rows if row["family"] == family and row["bptt"]})
        _draw_accuracy(ax, rows, family, None, HUES[family], 0, "whole gradient")
        for number, k in enumerate(pieces, start=1):
            hue = ("#000000", "#0072B2", "#CC79A7")[(number - 1) % 3]
            _draw_accuracy(ax, rows, family, k, hue, number, f"pieces of k = {k}")
            ax.vlines(k - 0.5, 0, 1.05, color=hue, lw=0.8, ls=dash_of(number), alpha=0.6)
        ax.set_title(f"{LABELS[family]} in pieces; right of its vertical line D ≥ k")
    for ax in axes[0]:
        ax.axhline(chance, color="#888888", lw=0.9, ls=":")
        log_axis(ax, "x", min(distances) / 1.3, max(distances) * 1.3, plain=True)
        ax.set_xticks(distances, [str(distance) for distance in distances])
        ax.set_ylim(-0.02, 1.32)
        ax.set_yticks(np.linspace(0, 1, 6))
        ax.set_xlabel("distance D (steps)")
        ax.legend(loc="upper left", ncols=2)
    axes[0, 0].set_ylabel("test accuracy")
    made.supxlabel("lines: mean over seeds, small dots: each seed; dotted: chance", fontsize=7, color="#555555", x=0.01,
                   ha="left")  # fmt: skip
    return made


def _draw_accuracy(
    ax: Axes, rows: Sequence[Mapping[str, Any]], family: str, bptt: int | None, hue: str, number: int, label: str
) -> None:
    chosen = sorted(
        (row for row in rows if (row["family"], row["bptt"]) == (family, bptt)), key=lambda row: row["distance"]
    )
    aside = 1.03**number  # so that equal values are visible
    at = [row["distance"] * aside for row in chosen]
    ax.plot(at, [np.mean(row["accuracy"]) for row in chosen], color=hue, ls=dash_of(number), lw=1.4,
            marker=marker_of(number), ms=5, mfc="white", mew=1.2, label=label)  # fmt: skip
    for row in chosen:
        ax.plot([row["distance"] * aside] * len(row["accuracy"]), row["accuracy"], ".", color=hue, ms=4)
