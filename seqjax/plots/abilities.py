"""What each model can do: a table of accuracies as colours, and recall against the size of the state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.families import THROUGH_TIME
from seqjax.plots.labels import looks_of
from seqjax.plots.style import COLOURS, figure, log_axis, marker_of, styled, widened

Row = Mapping[str, Any]
HUES = dict(zip(THROUGH_TIME, COLOURS, strict=False))


@styled
def draw_abilities(rows: Sequence[Row], tasks: Sequence[str], lengthened: int) -> Figure:
    """Accuracy of each model on each task, at the length of training and at the longer one; recall by size of state.

    Args:
        rows: {"kind", "label", "way", "width", "task", "length", "state", "accuracy": [S], "longer_accuracy": [S],
            "chance"}, in the order of the table; accuracies are means over seeds here.
        tasks: in the order of columns.
        lengthened: the longer length over the training length.
    """
    models = list(dict.fromkeys((row["kind"], row["label"], row["way"]) for row in rows))
    made, axes = figure(15.0, 1.7 + 0.29 * len(models), ncols=3, width_ratios=(1, 1, 0.9))
    for ax, key, title in (
        (axes[0, 0], "accuracy", f"as long as in training: {_lengths(rows, 1)}"),
        (axes[0, 1], "longer_accuracy", f"longer: {_lengths(rows, lengthened)}"),
    ):
        _draw_table(ax, rows, models, tasks, key)
        ax.set_title(f"right answers (%), {title}")
    axes[0, 1].set_yticklabels([])
    _draw_recall(axes[0, 2], [row for row in rows if row["task"] == "recall"])
    made.supxlabel(
        "at the best of the rates; white: guessing; above a task: its widths D; lines part the ways "
        "through time: " + ", ".join(dict.fromkeys(way for _, _, way in models)),
        fontsize=7, color="#555555", x=0.01, ha="left",
    )  # fmt: skip
    return made


def _lengths(rows: Sequence[Row], times: int) -> str:
    """T = 16, s5 T = 32: the length of most tasks, then the other lengths."""
    lengths = {row["task"]: row["length"] * times for row in rows}
    most = Counter(lengths.values()).most_common(1)[0][0]
    return ", ".join([f"T = {most}", *(f"{task} T = {length}" for task, length in lengths.items() if length != most)])


def _draw_table(
    ax: Axes, rows: Sequence[Row], models: Sequence[tuple[str, str, str]], tasks: Sequence[str], key: str
) -> None:
    """A cell for each model, task and width. Its colour is the share of what guessing leaves."""
    columns = [(task, width) for task in tasks for width in sorted({r["width"] for r in rows if r["task"] == task})]
    shares = np.full((len(models), len(columns)), np.nan)
    for row in rows:
        place = [model[0] for model in models].index(row["kind"]), columns.index((row["task"], row["width"]))
        value = float(np.mean(row[key]))
        shares[place] = (value - row["chance"]) / (1 - row["chance"])
        shade = "white" if shares[place] > 0.6 else "black"
        ax.text(place[1], place[0], f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=shade)
    ax.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.grid(visible=False)
    ax.set_yticks(range(len(models)), [label for _, label, _ in models])
    ax.set_xticks(range(len(columns)), [str(width) for _, width in columns], fontsize=7.5)
    for task in tasks:
        middle = np.mean([place for place, column in enumerate(columns) if column[0] == task])
        ax.annotate(task, (middle, 0), xycoords=("data", "axes fraction"), xytext=(0, -16), ha="center", va="top",
                    textcoords="offset points", annotation_clip=False)  # fmt: skip
    ax.set_xlabel(" ")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for number, ((before, _), (task, _)) in enumerate(pairwise(columns), 1):
        if task != before:
            ax.axvline(number - 0.5, color="#888888", lw=0.8)
    for number, ((_, _, before), (_, _, way)) in enumerate(pairwise(models), 1):
        if way != before:
            ax.axhline(number - 0.5, color="#888888", lw=0.8)


def _draw_recall(ax: Axes, rows: Sequence[Row]) -> None:
    """Recall against the numbers in the state."""
    looks = looks_of(dict.fromkeys(row["kind"] for row in rows))
    for kind in looks:
        here = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["state"])
        at, values = [row["state"] for row in here], [float(np.mean(row["accuracy"])) for row in here]
        number = list(dict.fromkeys(row["kind"] for row in rows if row["way"] == here[0]["way"])).index(kind)
        ax.plot(at, values, color=HUES.get(here[0]["way"], "#555555"), marker=marker_of(number), lw=1.1,
                ms=5.5, mfc="white", mew=1.2, label=here[0]["label"])  # fmt: skip
    log_axis(ax, "x", *widened(np.array([row["state"] for row in rows], float)), plain=False)
    ax.set_ylim(-0.03, 1.05)
    ax.set_xlabel("numbers in the state (attention: keys and values)")
    ax.set_title("recall against the state; one colour for a way through time")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0))
