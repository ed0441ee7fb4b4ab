"""Figures of generated text: the share of known words, and the share of lines in the requested class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqjax.plots.labels import HUES
from seqjax.plots.style import COLOURS, dash_of, figure, marker_of, styled

Curve = Sequence[tuple[float, float, float]]
"""(temperature, mean over runs, half the width of its 95 % interval)."""


@styled
def draw_generation(
    words: Mapping[str, Curve], real_words: float, right: Mapping[str, Curve], real_right: Mapping[str, float]
) -> Figure:
    """Left: share of known words by family. Right: share of lines classified as the requested author, by classifier.

    Args:
        words: family -> curve in [0, 1]; real_words: share in held-out text.
        right: classifier -> curve; real_right: share of real held-out lines.
    """
    made, axes = figure(10.4, 4.2, ncols=2)
    for number, (family, curve) in enumerate(words.items()):
        _draw(axes[0, 0], curve, family, HUES[family], number, 0.012 * (number - 2))
    axes[0, 0].axhline(100 * real_words, color="#555555", lw=1.0, ls=":", label="held-out text")
    axes[0, 0].set_ylabel("words that occur in the training text (%)")
    axes[0, 0].set_title("models of characters, continuing a prompt")
    for number, (name, curve) in enumerate(right.items()):
        colour = COLOURS[number]
        _draw(axes[0, 1], curve, f"generated lines, by {name}", colour, number, 0.012 * (2 * number - 1))
        axes[0, 1].axhline(
            100 * real_right[name], color=colour, lw=1.0, ls=":", label=f"real held-out lines, by {name}"
        )
    axes[0, 1].axhline(100 / 3, color="#555555", lw=0.8)
    axes[0, 1].text(0.3, 100 / 3 + 1, "chance", fontsize=7, transform=axes[0, 1].get_yaxis_transform())
    axes[0, 1].set_ylabel("lines given to the author asked for (%)")
    axes[0, 1].set_title("LSTMs of words, the author their first element")
    for ax in axes[0]:
        ax.set_xlabel("temperature")
        ax.set_ylim(0, 109)
        ax.legend(loc="lower left" if ax is axes[0, 0] else "lower right")
    note = "means of three runs, moved aside to be told apart; bars: 95 % intervals over runs (Student's t)"
    note += ", cut at 0 and 100 %"
    made.supxlabel(note, fontsize=7, color="#555555", x=0.01, ha="left")
    return made


def _draw(ax: Axes, curve: Curve, label: str, colour: str, number: int, aside: float) -> None:
    """A curve with its intervals, shifted a little so that several curves can be distinguished."""
    temperatures, means, halves = (np.array(column) for column in zip(*curve, strict=True))
    reach = 100 * np.minimum(halves, [means, 1 - means])
    ax.errorbar(
        temperatures + aside, 100 * means, yerr=reach, label=label,
        color=colour, marker=marker_of(number), ls=dash_of(number), lw=1.3, ms=4.5, capsize=2.5,
    )  # fmt: skip
