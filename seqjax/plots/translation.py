"""Figures of translation: held-out loss against training steps, and BLEU beside published values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from seqjax.plots.labels import looks_of_named
from seqjax.plots.style import figure, log_axis, styled


@styled
def draw_translation(rows: Mapping[str, Mapping[str, Any]], published: Mapping[str, float], measure: str) -> Figure:
    """Left: the validation loss along training. Right: the final measure with its 95 % interval.

    Args:
        rows: name -> "curve" [(step, loss)], "test" {"beam": {"bleu", "bleu_95", "exact", "exact_95"},
            "greedy": ...}, "parameters".
        published: name -> published BLEU of other models, drawn as marks.
        measure: "bleu" (percent) or "exact" (share of right answers, drawn in percent).
    """
    made, axes = figure(9.6, 3.6, ncols=2, width_ratios=(1.1, 1.0))
    left, right = axes[0]
    looks = looks_of_named(rows)
    for name, row in rows.items():
        look = looks[name]
        steps, losses = zip(*row["curve"], strict=True)
        label = f"{name}, {row['parameters'] / 1e6:.2g} M"
        left.plot(steps, losses, marker=look.marker, ms=3, lw=1.3, label=label, color=look.colour, ls=look.dash)
    losses = [loss for row in rows.values() for _, loss in row["curve"]]
    log_axis(left, "y", 0.93 * min(losses), 1.07 * max(losses), plain=True)
    left.set_xlabel("training steps")
    left.set_ylabel("validation loss (nats per target token)")
    left.legend(title="model, parameters", title_fontsize=8)
    names = [*rows, *published]
    for place, name in enumerate(names):
        if name in rows:
            found, look = rows[name]["test"]["beam"], looks[name]
            value = found["bleu"] if measure == "bleu" else 100 * found["exact"]
            low, high = (found["bleu_95"],) * 2
            if measure == "exact":
                low, high = value - 100 * found["exact_95"][0], 100 * found["exact_95"][1] - value
            error = ([max(low, 0.0)], [max(high, 0.0)])
            right.errorbar(value, place, xerr=error, fmt=look.marker, color=look.colour, capsize=3, ms=5)
            if measure == "bleu":
                greedy = rows[name]["test"]["greedy"]["bleu"]
                right.plot(greedy, place, look.marker, mfc="none", mec=look.colour, ms=7)
                right.annotate(f"{greedy:.1f}", (greedy, place), (0, -14), textcoords="offset points", ha="center",
                               fontsize=8)  # fmt: skip
        else:
            value = published[name]
            right.plot(value, place, "|", color="#555555", ms=11, mew=2)
        right.annotate(f"{value:.1f}", (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    right.set_yticks(range(len(names)), names)
    right.set_ylim(len(names) - 0.4, -0.8)
    right.set_xlabel("BLEU on the test set" if measure == "bleu" else "exact match on the test set (%)")
    note = "right, points: beam search with its 95 % interval over sentences"
    note += (
        "; open marks: greedy search; bars: published, greedy, BLEU of torchtext; one run each"
        if measure == "bleu"
        else ""
    )
    made.supxlabel(note, fontsize=7, color="#555555", x=0.01, ha="left")
    return made
