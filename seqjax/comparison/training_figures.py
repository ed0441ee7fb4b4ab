"""Figures that compare families along training: compute, time, learning curves and learning rates.

Tables are run tables (:mod:`seqjax.sweeps.table`). Curves map a run id to (tokens, held-out loss) along training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from seqjax.comparison.by_way import are_many, grouped_legend, look_in_group
from seqjax.comparison.figures import DEPTH, KIND, SIZE, families_in, loss_axis
from seqjax.comparison.judging import LSTM, TRANSFORMER
from seqjax.comparison.measured import model_name, size_ranks
from seqjax.families import by_way, hues_of, in_order, label_of, parts_of
from seqjax.plots.style import MARKERS, NAMES, figure, log_axis, marker_of, styled, widened

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@styled
def draw_against_compute(chosen: pd.DataFrame, curves: Curves) -> Figure:
    """Held-out loss against exact FLOPs: along training for LSTM and Transformers, and the frontier of each kind."""
    alone = [kind for kind in families_in(chosen) if parts_of(kind)[0] in (LSTM, TRANSFORMER)]
    width = 0.8 + 3.2 * (len(alone) + 1) + 2.8 * are_many(chosen[KIND])
    made, axes = figure(width, 4.2, ncols=len(alone) + 1, sharey=True)
    shade_of = _shade_of_sizes(chosen[SIZE])
    reached = []
    for ax, family in zip(axes[0, :-1], alone, strict=True):
        of_family = chosen[chosen[KIND] == family]
        for _, run in of_family.iterrows():
            tokens, loss = curves[run["run_id"]]
            flops = np.array(tokens) * float(run["flops_per_token"])
            ax.plot(flops, loss, color=shade_of(run[SIZE]), lw=0.9, alpha=0.8)
            reached.append(np.array(loss, float))
        _legend_of_sizes(ax, of_family[SIZE], shade_of)
        ax.set_title(f"{label_of(family)}: along training, by size")
    hues, lines = hues_of(chosen[KIND]), []
    for family in families_in(chosen):
        ends = chosen[chosen[KIND] == family].groupby([DEPTH, SIZE])[["flops_exact", "loss"]].mean()
        ends = ends.sort_values("flops_exact")
        best = ends[ends["loss"] <= ends["loss"].cummin()]
        reached.append(ends["loss"].to_numpy(float))
        axes[0, -1].plot(ends["flops_exact"], ends["loss"], ".", color=hues[family], ms=5)
        line = axes[0, -1].plot(best["flops_exact"], best["loss"], color=hues[family], lw=1.4, label=label_of(family))
        lines.append((family, line[0]))
    axes[0, -1].set_title("ended runs, and the best for no more compute")
    if are_many(chosen[KIND]):
        grouped_legend(made, lines)
    else:
        axes[0, -1].legend(loc="upper right")
    flops = chosen["flops_exact"].to_numpy(float)
    for ax in axes[0]:
        log_axis(ax, "x", *widened(np.concatenate([flops, flops.min() / np.array([8.0])])), name="flops")
        loss_axis(ax, np.concatenate(reached), above=0.15, named=ax is axes[0, 0])
        ax.set_xlabel(NAMES["flops"])
    made.supxlabel(
        "inside a decaying schedule the loss lies above that of a run that ends there; FLOPs by the exact count",
        fontsize=7, color="#555555", x=0.01, ha="left",
    )  # fmt: skip
    return made


@styled
def draw_against_time(chosen: pd.DataFrame, where: str) -> Figure:
    """Final loss against training seconds of one worker; runs of one program share its seconds."""
    made, axes = figure(9.4 if are_many(chosen[KIND]) else 6.4, 4.4)
    ax = axes[0, 0]
    seconds = chosen["training_seconds"].astype(float)
    hues, many, lines = hues_of(chosen[KIND]), are_many(chosen[KIND]), []
    for family in families_in(chosen):
        here = chosen[KIND] == family
        for number, (depth, runs) in enumerate(chosen[here].groupby(DEPTH)):
            mark = look_in_group(family, chosen[KIND])["marker"] if many else marker_of(number)
            line = ax.plot(seconds[runs.index], runs["loss"], mark, color=hues[family], ms=5, mfc="white", mew=1.2,
                           label=model_name(family, int(depth)))  # fmt: skip
            lines += [(family, one) for one in line]
    log_axis(ax, "x", *widened(seconds.to_numpy(float)))
    loss_axis(ax, chosen["loss"], above=0.0 if many else 0.3)
    ax.set_xlabel("seconds of one worker for a run's training, without compilation and evaluation")
    ax.set_title(f"wall clock: {where}")
    if many:
        grouped_legend(made, lines)
    else:
        ax.legend(loc="upper right", ncols=2)
    return made


@styled
def draw_learning_curves(chosen: pd.DataFrame, curves: Curves) -> Figure:
    """Held-out loss against training tokens, by size; a panel per family."""
    made, panels = _panels(families_in(chosen))
    shade_of = _shade_of_sizes(chosen[SIZE])
    losses, counts = [], []
    for family, ax in panels.items():
        of_family = chosen[chosen[KIND] == family]
        depths = sorted(set(of_family[DEPTH]))
        for _, run in of_family.iterrows():
            tokens, loss = curves[run["run_id"]]
            look = marker_of(depths.index(run[DEPTH]))
            ax.plot(tokens, loss, color=shade_of(run[SIZE]), lw=1.0, marker=look, ms=3, mfc="white", mew=0.8)
            losses += list(loss)
            counts += list(tokens)
        ax.set_xlabel(NAMES["tokens"])
    for ax in panels.values():
        log_axis(ax, "x", *widened(np.array(counts, float)))
        loss_axis(ax, losses, 0.08, named=False)
    _legend_of_sizes(made, chosen[SIZE], shade_of, depths=True)
    return made


@styled
def draw_rates(curves: Sequence[Mapping[str, Any]], table: pd.DataFrame) -> Figure:
    """Final loss against learning rate, a panel per kind. Stars: chosen rates; crosses at the top: diverged.

    Args:
        curves: from search.json. table: the run table with their runs.
    """
    facts = table.set_index("run_id")
    sizes = facts[SIZE].astype(float)
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for curve in curves:
        by_family.setdefault(facts[KIND][curve["trials"][0]["runs"][0]], []).append(curve)
    made, panels = _panels(by_way(by_family) if are_many(by_family) else in_order(by_family))
    known = [t["loss"] for curve in curves for t in curve["trials"] if t["loss"] is not None]
    rates = [t["learning_rate"] for curve in curves for t in curve["trials"]]
    counts = [sizes[curve["trials"][0]["runs"][0]] for curve in curves]
    shade_of = _shade_of_sizes(counts)
    high = widened(np.array(known, float), 0.1)[1]
    for family, ax in panels.items():
        depths = sorted({_depth_of(curve) for curve in by_family[family]})
        for curve in by_family[family]:
            marker = marker_of(depths.index(_depth_of(curve)))
            shade = shade_of(sizes[curve["trials"][0]["runs"][0]])
            good = [(t["learning_rate"], t["loss"]) for t in curve["trials"] if t["loss"] is not None]
            lost = [t["learning_rate"] for t in curve["trials"] if t["status"] == "diverged"]
            ax.plot(*zip(*good, strict=True) if good else ([], []), color=shade, lw=1.1, marker=marker, ms=3.5,
                    mfc="white", mew=0.9)  # fmt: skip
            if lost:
                ax.plot(lost, [high] * len(lost), "x", color=shade, ms=6)
            if best := [pair for pair in good if pair[0] == curve["chosen"]]:
                ax.plot(*best[0], "*", color=shade, ms=10, mec="black", mew=0.5)
        ax.set_xlabel("learning rate")
        log_axis(ax, "x", *widened(np.array(rates), 0.1), plain=True)
        loss_axis(ax, known, above=0.03, named=False)
    _legend_of_sizes(made, counts, shade_of, depths=True)
    return made


def _depth_of(curve: Mapping[str, Any]) -> int:
    """The number of layers in a label such as lstm-2x35."""
    return int(curve["label"].split("-")[1].partition("x")[0])


def _panels(families: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """A panel per family, two in a row; four of many."""
    in_row, width = (4, 13.6) if are_many(families) else (2, 8.4)
    rows = math.ceil(len(families) / in_row)
    made, axes = figure(width, 0.6 + 2.9 * rows, nrows=rows, ncols=min(in_row, len(families)), sharey=True)
    panels = dict(zip(families, axes.ravel(), strict=False))
    for spare in axes.ravel()[len(families) :]:
        spare.set_visible(False)
    for family, ax in panels.items():
        ax.set_title(label_of(family))
    for row in axes:
        row[0].set_ylabel(NAMES["loss"])
    return made, panels


def _shade_of_sizes(sizes: Iterable[float]) -> Callable[[float], Any]:
    """A function parameter count -> shade, equal for models of one size."""
    rank = size_ranks(map(float, sizes))
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, max(rank.values()) + 1))
    return lambda size: shades[rank[float(size)]]


def _legend_of_sizes(
    place: Axes | Figure, sizes: Iterable[float], shade_of: Callable[[float], Any], depths: bool = False
) -> None:
    first_of_rank = {rank: size for size, rank in reversed(size_ranks(map(float, sizes)).items())}
    lines = [
        Line2D([], [], color=shade_of(size), label=f"N = {float(f'{size:.2g}'):,.0f}")
        for _, size in sorted(first_of_rank.items())
    ]
    if depths:
        names = ("least depth", "more", "most")
        lines += [
            Line2D([], [], color="#555555", marker=marker, mfc="white", ls="", ms=4, label=name)
            for marker, name in zip(MARKERS, names, strict=False)
        ]
    place.legend(handles=lines, loc="upper right" if isinstance(place, Axes) else "outside right upper")
