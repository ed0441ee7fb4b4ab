"""How far back each family learns to remember, and what truncated back-propagation takes away.

    python experiments/truncation.py                       # about 8 minutes on one CPU core
    python experiments/truncation.py --record              # and keep the numbers and the figure

A symbol is shown, D - 1 noise tokens follow, then the symbol is asked for (seqjax.data.delays): the dependency is D
steps long, and a gradient must come from the last step back to the first, in a sequence of D + 1 tokens. Every family
is trained at every distance with the whole gradient, and LSTM and GRU also with gradients that stay within pieces of 4
and of 8 steps (configs/sweeps/truncation.yaml). Chance is 1 / 8, a loss of ln 8 = 2.079 nats. Expected, mean test
accuracy over three seeds:

    elman, whole         D = 3: 1.00   D = 7: 1.00   D = 15: 0.14   D = 31: 0.13
    lstm, whole          D = 3: 1.00   D = 7: 1.00   D = 15: 1.00   D = 31: 0.57
    gru, whole           D = 3: 1.00   D = 7: 1.00   D = 15: 1.00   D = 31: 0.70
    transformer, whole   D = 3: 1.00   D = 7: 1.00   D = 15: 1.00   D = 31: 1.00
    lstm, k = 4          D = 7: 1.00   D = 15: 0.65   D = 31: 0.12
    gru, k = 4           D = 7: 1.00   D = 15: 0.58   D = 31: 0.15
    lstm, k = 8          D = 15: 0.98   D = 31: 0.12
    gru, k = 8           D = 15: 0.64   D = 31: 0.13

Options are those of `seqjax sweep`: `--train.steps 200 --only.task.distance 7`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import results, run

from seqjax.host.guard import guarded
from seqjax.plots.gradients import draw_truncation
from seqjax.runs import read_config


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracy and loss on the test draw, by model, distance and gradient."""
    kinds: dict[tuple[str, int, int | None], dict[str, Any]] = {}
    for run_id, result in zip(table["run_id"], results(table, folder), strict=True):
        config = read_config(folder / run_id)
        kind = config.model.family, config.task.distance, config.task.bptt
        named = dict(zip(("family", "distance", "bptt"), kind, strict=True))
        row = kinds.setdefault(kind, {**named, "accuracy": [], "loss": []})
        row["accuracy"].append(result["test"]["accuracy"])
        row["loss"].append(result["test"]["loss"])
        row["parameters"] = result["parameters"]["total"]
    rows = list(kinds.values())
    print(as_table(rows))
    found = {"rows": rows, "symbols": config.task.symbols, "steps": config.train.steps}
    return found, {"truncation": draw_truncation(rows, 1 / config.task.symbols)}


def as_table(rows: list[dict[str, Any]]) -> str:
    """Test accuracy, mean and range over seeds, models by distances, as Markdown."""
    distances = sorted({row["distance"] for row in rows})
    lines = [
        "| gradient | " + " | ".join(f"D = {distance}" for distance in distances) + " |",
        "|---" * (1 + len(distances)) + "|",
    ]
    for family, bptt in dict.fromkeys((row["family"], row["bptt"]) for row in rows):
        found = {row["distance"]: row["accuracy"] for row in rows if (row["family"], row["bptt"]) == (family, bptt)}
        cells = [show(found[distance]) if distance in found else "-" for distance in distances]
        lines.append(f"| {family}, {'whole' if bptt is None else f'k = {bptt}'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_words(rows: list[dict[str, Any]]) -> str:
    """The mean of each kind by distance, a line for each gradient: for the docstring."""
    lines = []
    for family, bptt in dict.fromkeys((row["family"], row["bptt"]) for row in rows):
        found = [row for row in rows if (row["family"], row["bptt"]) == (family, bptt)]
        means = [f"D = {row['distance']}: {sum(row['accuracy']) / len(row['accuracy']):.2f}" for row in found]
        lines.append(f"    {family + ', ' + ('whole' if bptt is None else f'k = {bptt}'):<20} " + "   ".join(means))
    return "\n".join(lines)


def show(accuracy: list[float]) -> str:
    """0.67 (0.13 to 1.00): mean, and lowest and highest."""
    return f"{sum(accuracy) / len(accuracy):.2f} ({min(accuracy):.2f} to {max(accuracy):.2f})"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("truncation", "truncation", __doc__, analyse)))
