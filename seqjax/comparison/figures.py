"""Figures that compare families by size, position and context. Tables are run tables (:mod:`seqjax.sweeps.table`)."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from seqjax.comparison.by_way import are_many, grouped_legend, look_in_group
from seqjax.comparison.judging import LSTM, TRANSFORMER
from seqjax.comparison.measured import Comparison, model_name
from seqjax.families import by_way, hues_of, in_order, label_of, parts_of
from seqjax.host.own_code import is_own
from seqjax.host.wording import si
from seqjax.plots.style import COLOURS, NAMES, dash_of, figure, log_axis, marker_of, styled, widened

SIZE, DEPTH, KIND = "params_non_embedding", "model.n_layers", "kind"


@styled
def draw_figure7(chosen: pd.DataFrame, comparison: Comparison, note: str, stacked: bool = False) -> Figure:
    """Kaplan et al. 2020, figure 7: left loss against parameters by depth, right loss against position in the context.

    Args:
        chosen: finished runs with the best learning rate of each model, all seeds, of the comparison's context.
        stacked: one panel below the other, for a narrow page; for few kinds.
    """
    many = are_many(chosen[KIND])
    made, axes = figure(5.0, 8.6, nrows=2) if stacked else figure(12.4 if many else 10.4, 4.8, ncols=2)
    left, right = axes.flat
    lines = _draw_sizes(left, chosen)
    if many:
        grouped_legend(made, lines)
    else:
        left.legend(loc="upper right", ncols=2)
    _draw_positions(right, comparison, above=0.6 if stacked else 0.3)
    made.supxlabel(textwrap.fill(note, 90 if stacked else 190), fontsize=7, color="#555555", x=0.01, ha="left")
    return made


def _draw_sizes(ax: Axes, chosen: pd.DataFrame) -> list[tuple[str, Line2D]]:
    """The lines by kind. Depths of a kind differ in dash and marker; among many kinds those of a way through time."""
    hues, many, lines = hues_of(chosen[KIND]), are_many(chosen[KIND]), []
    for family in families_in(chosen):
        of_family = chosen[chosen[KIND] == family]
        for number, (depth, runs) in enumerate(of_family.groupby(DEPTH)):
            means = runs.groupby(SIZE)["loss"].mean()
            look = {"ls": dash_of(number), "marker": marker_of(number)}
            look = look_in_group(family, chosen[KIND]) if many else look
            line = ax.plot(means.index, means.values, label=model_name(family, int(depth)), ms=5, mfc="white", mew=1.2,
                           lw=1.4, color=hues[family], **look)  # fmt: skip
            ax.plot(runs[SIZE], runs["loss"], ".", color=hues[family], ms=2.5)
            lines += [(family, one) for one in line]
    log_axis(ax, "x", *widened(chosen[SIZE].to_numpy(float)))
    loss_axis(ax, chosen["loss"], above=0.0 if many else 0.2)
    ax.set_xlabel("non-embedding parameters N")
    ax.set_title("loss against size; dots: single seeds")
    return lines


def is_main(kind: str) -> bool:
    """Whether a kind has a line of its own by position: LSTM, Transformers, and the user's own families."""
    return parts_of(kind)[0] in (LSTM, TRANSFORMER) or is_own(kind)


def _draw_positions(ax: Axes, c: Comparison, above: float) -> None:
    centers = c.chains.centers()
    shown = []
    kinds = [kind for kind in in_order(m.kind for m in c.models) if is_main(kind)]
    hues = hues_of(kinds)
    for kind in kinds:
        sizes = c.sizes(kind)
        for number, size in enumerate(dict.fromkeys((sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else ())):
            model = c.best(kind, size)
            curve_SxP = c.loss_SxMxP[:, model, :-1]
            name = f"{c.models[model].label}, {si(c.models[model].params).strip()}"
            ax.plot(centers, curve_SxP[0], ls=dash_of(number), color=hues[kind], lw=1.4, label=name)
            shown.append(curve_SxP[0])
    if c.chains.early:
        for (first, last), what in ((c.chains.early, "early"), (c.chains.late, "late")):
            ax.axvspan(first - 0.5, last + 0.5, color="#888888", alpha=0.13, lw=0)
            ax.text(math.sqrt(first * last), 0.01, what, transform=ax.get_xaxis_transform(), fontsize=7, ha="center")
    log_axis(ax, "x", 0.9, c.chains.context * 1.15, plain=True)
    loss_axis(ax, np.concatenate(shown), 0.12 if c.chains.early else 0.05, above=above)  # room for the words below
    ax.set_xlabel(NAMES["position"])
    ax.set_title("loss by position, best depth; smallest, middle and largest size")
    ax.legend(loc="upper right")


@styled
def draw_lead(c: Comparison) -> Figure:
    """LSTM minus Transformer of equal size by position, best depth of each, with 95 % bands; a panel for each form."""
    forms = c.kinds(TRANSFORMER) or [TRANSFORMER]
    made, axes = figure(1.4 + 4.6 * len(forms), 4.2, ncols=len(forms), sharey=True)
    for ax, form in zip(axes[0], forms, strict=True):
        for number, size in enumerate(c.sizes(LSTM, form)):
            lstm, transformer = c.best(LSTM, size), c.best(form, size)
            gap_SxP = c.loss_SxMxP[:, lstm, :-1] - c.loss_SxMxP[:, transformer, :-1]
            low, high = np.percentile(gap_SxP[1:], (2.5, 97.5), axis=0)
            shade = COLOURS[number % len(COLOURS)]
            label = f"N = {si(c.models[transformer].params).strip()}"
            ax.plot(c.chains.centers(), gap_SxP[0], ls=dash_of(number), color=shade, lw=1.4, label=label)
            ax.fill_between(c.chains.centers(), low, high, color=shade, alpha=0.13, lw=0)
        ax.axhline(0, color="#555555", lw=0.9)
        log_axis(ax, "x", 0.9, c.chains.context * 1.15, plain=True)
        ax.set_xlabel(NAMES["position"])
        ax.set_title(f"above 0 the {label_of(form)} is better; bands: 95 %")
        ax.legend(loc="best")
    axes[0, 0].set_ylabel("LSTM - Transformer (nats per token)")
    return made


@styled
def draw_contexts(best: pd.DataFrame) -> Figure:
    """Loss against the context length of training and evaluation: means over seeds with 95 % intervals, and seeds."""
    made, axes = figure(6.4, 4.2)
    ax = axes[0, 0]
    hues = hues_of(best[KIND])
    for number, family in enumerate(families_in(best)):
        runs = best[best[KIND] == family]
        several = runs[runs.duplicated("train.context_length", keep=False)]
        ax.plot(several["train.context_length"], several["loss"], ".", color=hues[family], ms=4, alpha=0.6)
        means = runs.groupby("train.context_length")[["loss", "loss_se"]].mean()
        context, loss, error = means.index.to_numpy(float), means["loss"].to_numpy(), means["loss_se"].to_numpy()
        label = f"{model_name(family, int(runs[DEPTH].iloc[0]))}, N = {si(runs[SIZE].iloc[0]).strip()}"
        ax.errorbar(context, loss, 1.96 * error, color=hues[family], marker=marker_of(number),
                    ls=dash_of(number), lw=1.4,
                    ms=5, mfc="white", mew=1.2, capsize=2, label=label)  # fmt: skip
    log_axis(ax, "x", *widened(best["train.context_length"].to_numpy(float)), plain=True)
    loss_axis(ax, best["loss"], 0.15)
    ax.set_xlabel("context length T (tokens)")
    ax.set_title("each context with its own training and windows; bars: 95 % of the held-out text")
    ax.legend(loc="upper right")
    return made


def loss_axis(ax: Axes, losses: Any, margin: float = 0.1, above: float = 0.0, named: bool = True) -> None:
    """A logarithmic axis of losses, with a share ``above`` them for the legend."""
    low, high = widened(np.array(losses, float), margin)
    log_axis(ax, "y", low, high * (high / low) ** above, plain=True)
    if named:
        ax.set_ylabel(NAMES["loss"])


def families_in(table: pd.DataFrame) -> list[str]:
    return by_way(table[KIND]) if are_many(table[KIND]) else in_order(table[KIND])
