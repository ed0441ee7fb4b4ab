"""The recipe step by step: the loss after each step, and the gain of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from seqjax.host.wording import counted
from seqjax.plots.style import COLOURS, add_note, dash_of, figure, marker_of, styled


@styled
def draw_recipe(steps: Sequence[str], found: Mapping[str, Mapping[str, Any]], bz2_bits: float) -> Figure:
    """Left: held-out loss after each step, and the loss of counted bigrams. Right: the gain of each step.

    Args:
        steps: names, in order.
        found: tokenizer -> {"steps": rows with "seeds", "bits_per_byte" and, except the first, "gain_bits_per_byte",
            each of the two a (mean, half the width of the interval); "bigram_bits_per_byte": loss of counted bigrams}.
        bz2_bits: bits per byte of the compressor.
    """
    made, axes = figure(10.4, 4.6, ncols=2)
    places = np.arange(len(steps))
    for number, (tokenizer, own) in enumerate(found.items()):
        look = {"color": COLOURS[number], "marker": marker_of(number), "ls": dash_of(number), "lw": 1.3, "ms": 5}
        means, halves = zip(*(row["bits_per_byte"] for row in own["steps"]), strict=True)
        axes[0, 0].errorbar(places, means, yerr=halves, capsize=3, label=tokenizer, **look)
        axes[0, 0].axhline(own["bigram_bits_per_byte"], color=COLOURS[number], lw=0.9, ls=":",
                           label=f"{tokenizer}: bigrams counted")  # fmt: skip
        gains, halves = zip(*(row["gain_bits_per_byte"] for row in own["steps"][1:]), strict=True)
        width = 0.8 / len(found)
        at = places[1:] + (number - (len(found) - 1) / 2) * width
        axes[0, 1].bar(at, gains, width * 0.92, yerr=halves, capsize=3, color=COLOURS[number], alpha=0.75,
                       ecolor="#222222", label=tokenizer)  # fmt: skip
    axes[0, 0].axhline(bz2_bits, color="#555555", lw=0.9, label="bz2")
    axes[0, 0].set_ylabel("held-out loss (bits per byte)")
    axes[0, 0].set_title("loss after each step")
    axes[0, 1].axhline(0, color="#555555", lw=0.8)
    axes[0, 1].set_ylabel("taken off the loss (bits per byte)")
    axes[0, 1].set_title("change by each step")
    for ax, shown in ((axes[0, 0], places), (axes[0, 1], places[1:])):
        ax.set_xticks(shown, [_label(steps[place]) for place in shown])
        ax.set_axisbelow(True)
        ax.grid(axis="x", visible=False)
        ax.legend(loc="best")
    counts = sorted({len(row["seeds"]) for own in found.values() for row in own["steps"]})
    seeds = counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    add_note(made, f"means of {seeds}, whiskers: 95 % intervals over seeds (Student's t)")
    return made


def _label(step: str) -> str:
    """The name in two lines, except for "+" and one word."""
    return step if step.startswith("+") and step.count(" ") == 1 else "\n".join(step.rsplit(" ", 1))
