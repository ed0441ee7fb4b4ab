"""Accuracy of sentence classifiers: models by heads, with intervals over seeds, beside published values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.plots.labels import LABELS
from seqjax.plots.style import COLOURS, figure, marker_of, styled

NAMES = LABELS | {"bag": "bag of words", "window": "window of 5"}
TITLES = {"sst2": "SST-2", "phrases": "generated: order decides"}
HEADS = {"last": "last state", "mean": "mean of states", "attention": "attention over states"}


def show_model(row: Mapping[str, Any]) -> str:
    """Name of a row's model, with "both directions" if it is not causal."""
    return NAMES[row["family"]] + ("" if row["causal"] else ", both directions")


@styled
def draw_sentiment(corpora: Mapping[str, Mapping[str, Any]], published: Mapping[str, float]) -> Figure:
    """A panel per corpus: test accuracy of each model and head, with 95 % intervals over seeds.

    Args:
        corpora: name -> {"rows": [{"family", "pool", "causal", "mean", "half_width"}], "guess"}, in per cent.
        published: name -> published accuracy on SST-2, shown in its panel.
    """
    made, axes = figure(5.6 * len(corpora), 5.0, ncols=len(corpora))
    for ax, (name, found) in zip(axes[0], corpora.items(), strict=True):
        models = list(dict.fromkeys(show_model(row) for row in found["rows"]))
        drawn = _draw_rows(ax, found["rows"], models)
        others = published if name == "sst2" else {"most frequent class": found["guess"]}
        for place, (other, value) in enumerate(others.items(), len(models)):
            ax.axvline(value, color="#888888", lw=0.8, ls="--", zorder=1)
            ax.plot(value, place, "D", color="#333333", ms=4.5, zorder=4)
            ax.annotate(f"{value:.1f}", (value, place), (-6, 0), textcoords="offset points", fontsize=7, ha="right",
                        va="center", bbox={"fc": "white", "ec": "none", "pad": 0.5})  # fmt: skip
            models.append(other)
        ax.axhline(len(models) - len(others) - 0.5, color="#555555", lw=0.8)
        ax.set_title(TITLES.get(name, name), loc="left")
        ax.set_xlabel("test accuracy (%)")
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.margins(x=0.12)
    made.legend(handles=drawn, loc="outside upper center", ncols=len(drawn))
    note = "bars: 95 % intervals over seeds, cut at 100; below the line: what others published (SST-2), or a guess"
    made.supxlabel(note, fontsize=7, color="#555555", x=0.01, ha="left")
    return made


def _draw_rows(ax: Axes, rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[Any]:
    drawn = []
    for number, (pool, label) in enumerate(HEADS.items()):
        chosen = [row for row in rows if row["pool"] == pool]
        height = [models.index(show_model(row)) + 0.22 * (number - 1) for row in chosen]
        low = [row["half_width"] or 0.0 for row in chosen]
        high = [min(half, 100 - row["mean"]) for half, row in zip(low, chosen, strict=True)]
        drawn.append(
            ax.errorbar([row["mean"] for row in chosen], height, xerr=(low, high), ls="", marker=marker_of(number),
                        color=COLOURS[number], ms=5, mfc="white", mew=1.2, capsize=2, lw=1.2, label=label)
        )  # fmt: skip
    return drawn
