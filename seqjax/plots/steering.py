"""The figure of steering from video: error against number of frames, with and without past steering as input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.plots.labels import looks_of_named
from seqjax.plots.style import figure, log_axis, styled

ORDER = ("stacked", "Elman", "LSTM", "GRU", "Transformer")
PAST = " + past steering"
LOOKS = {name: {"color": o.colour, "marker": o.marker, "ls": o.dash} for name, o in looks_of_named(ORDER).items()}


@styled
def draw_steering(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A row per recording; bars are 95 % intervals over blocks of time and seeds.

    Left: error of models with only frames as input. Middle: its ratio to the error with one frame, paired. Right: ratio
    of models that also have past steering to the error of repeating the last value, paired.

    Args:
        found: name -> {"errors": {model: {frames: {"mse", "ratio_to_one_frame", "ratio_to_persistence"}}}}, each with
            "value", "low" and "high".
    """
    made, axes = figure(10.4, 0.9 + 2.9 * len(found), nrows=len(found), ncols=3)
    for row, (name, of_set) in zip(axes, found.items(), strict=True):
        errors = of_set["errors"]
        _draw(row[0], errors, "mse", "")
        _draw(row[1], errors, "ratio_to_one_frame", "")
        _draw(row[2], errors, "ratio_to_persistence", PAST)
        mean = errors["mean"]["0"]["mse"]["value"]
        row[0].axhline(mean, color="#555555", lw=1.0, ls=(0, (4, 2)), label="predicting the mean")
        row[1].axhline(1.0, color="#555555", lw=1.0, ls=":")
        row[2].axhline(1.0, color="#555555", lw=1.0, ls=":")
        row[0].set_ylabel("mean squared error (steering²)")
        row[1].set_ylabel("error / error of 1 frame")
        row[2].set_ylabel("error / error of repeating")
        row[0].set_title(f"{name}: frames alone")
        row[1].set_title("share of the error of one frame")
        row[2].set_title("frames and past steering")
    for ax in axes[-1]:
        ax.set_xlabel("frames seen")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return made


def _draw(ax: Axes, errors: Mapping[str, Any], measure: str, suffix: str) -> None:
    """Lines with bars of the models in `ORDER`, named with ``suffix``, shifted a little to be distinguished."""
    shown, places = [], []
    for number, name in enumerate(ORDER):
        by_k = errors.get(name + suffix, {})
        entries = {int(k): entry[measure] for k, entry in by_k.items() if measure in entry}
        if not entries:
            continue
        apart = 1.05 ** (number - len(ORDER) // 2)
        value = [entry["value"] for entry in entries.values()]
        low = [v - entry["low"] for v, entry in zip(value, entries.values(), strict=True)]
        high = [entry["high"] - v for v, entry in zip(value, entries.values(), strict=True)]
        ax.errorbar([k * apart for k in entries], value, [low, high], lw=1.3, ms=4.5, mfc="white", mew=1.1, capsize=2,
                    elinewidth=0.8, label=name, **LOOKS[name])  # fmt: skip
        shown += [bound for entry in entries.values() for bound in (entry["low"], entry["high"])]
        places += list(entries)
    if not places:
        ax.set_visible(False)
        return
    log_axis(ax, "x", 0.8, 1.25 * max(places), plain=True)
    ax.set_xticks(sorted(set(places)))
    if measure == "mse":
        ax.set_ylim(0, 1.05 * max(*shown, errors["mean"]["0"]["mse"]["value"]))
    else:
        room = 0.06 * max(max(*shown, 1.0) - min(*shown, 1.0), 0.1)
        ax.set_ylim(min(*shown, 1.0) - room, max(*shown, 1.0) + room)
