"""Whether a learning rate found at a small width holds at a large one, with and without muP.

    python experiments/transfer.py              # about half an hour of one core; stop and start it at will
    python experiments/transfer.py --dry-run
    python experiments/transfer.py --record     # and keep the numbers

An LSTM of one layer and a Transformer of two (rotary positions, RMSNorm, SwiGLU, QK norm), four widths with a factor of
8 between the first and the last, seven rates with a factor of 2 between neighbours, 1 M tokens, one seed. The LSTM also
with rates that fall as the root of the width (`model.alignment: none`). The best rate of a width is the minimum of a
parabola in log rate through the lowest loss and its two neighbours. The shift is log2 of the best rate at the largest
width over that at the smallest. The cost of a transfer is the loss at the largest width with the best tried rate of the
smallest width, minus the lowest loss there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import run

from seqjax.families import label_of
from seqjax.host.guard import guarded
from seqjax.plots.transfer import draw_transfer

RATE, WIDTH, BASE, ALIGNMENT = "optimizer.learning_rate", "model.d_model", "model.base_width", "model.alignment"


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The curves of all widths, the shift of the best rate, and the cost of a transfer."""
    found: dict[str, Any] = {}
    for (family, rule), rows in table.groupby(["model.family", table.apply(rule_of, axis=1)], sort=False):
        curves = {int(width): of_width(runs) for width, runs in rows.groupby(WIDTH)}
        first, last = curves[min(curves)], curves[max(curves)]
        lowest = min((loss for loss in last["loss"] if loss is not None), default=None)
        taken = None if first["tried"] is None else last["loss"][first["rates"].index(first["tried"])]
        found[f"{label_of(family)}, {rule}"] = {
            "curves": curves,
            "shift": None if None in (first["best"], last["best"]) else float(np.log2(last["best"] / first["best"])),
            "cost": None if taken is None or lowest is None else taken - lowest,
        }
    text = as_text(found)
    print(text)
    return {"found": found}, {"transfer": draw_transfer(found), "transfer.md": text}


def rule_of(run: pd.Series) -> str:
    """How the rates of a run's matrices depend on the width."""
    if pd.isna(run[BASE]):
        return "standard"
    return "muP, no alignment" if str(run[ALIGNMENT]) == "none" else "muP"  # NA where a family has no such key


def of_width(runs: pd.DataFrame) -> dict[str, Any]:
    """Losses by rate (None: diverged), the tried rate with the lowest (None: all diverged), and the minimum of the
    parabola around it (None: the lowest is at an edge)."""
    runs = runs.sort_values(RATE)
    rates, losses = runs[RATE].to_numpy(float), runs["loss"].to_numpy(float)
    place = int(np.nanargmin(losses)) if np.isfinite(losses).any() else None
    best = None
    if place is not None and 0 < place < len(rates) - 1 and np.isfinite(losses[place - 1 : place + 2]).all():
        a, b, _ = np.polyfit(np.log(rates[place - 1 : place + 2]), losses[place - 1 : place + 2], 2)
        best = float(np.exp(-b / (2 * a)))
    return {
        "params_non_embedding": int(runs["params_non_embedding"].iloc[0]),
        "rates": rates.tolist(),
        "loss": [float(loss) if np.isfinite(loss) else None for loss in losses],
        "tried": None if place is None else float(rates[place]),
        "best": best,
    }


def _shown(curve: dict[str, Any]) -> str:
    """The best rate, or the best that was tried and why there is no parabola around it."""
    if curve["tried"] is None:
        return "all diverged"
    return f"{curve['best']:.2g}" if curve["best"] else f"{curve['tried']:g} ({_why(curve)})"


def _why(curve: dict[str, Any]) -> str:
    return "at the edge" if curve["tried"] in (curve["rates"][0], curve["rates"][-1]) else "beside a diverged one"


def as_text(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    widths = max((list(row["curves"]) for row in found.values()), key=len)
    ranks = [f"width {2**i}x" for i in range(len(widths))]
    lines = [f"| best rate | {' | '.join(ranks)} | shift (factors of 2) | cost of the transfer (nats) |"]
    lines.append("|---" * (len(ranks) + 3) + "|")
    for name, row in found.items():
        rates = [_shown(curve) for curve in row["curves"].values()]
        shift = "-" if row["shift"] is None else f"{row['shift']:+.2f}"
        cost = "diverged" if row["cost"] is None else f"{row['cost']:.3f}"
        lines.append(f"| {name} | {' | '.join(rates)} | {shift} | {cost} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("transfer", "transfer", __doc__, analyse)))
