"""Loss against context length, 8 to 512 bytes, at a fixed size: how much context each family turns into loss.

    python experiments/context_length.py                 # about 5 minutes of one CPU core; stop and start it at will
    python experiments/context_length.py --dry-run
    python experiments/context_length.py --record        # and keep the numbers and the figure

An LSTM and a Transformer with 10 k non-embedding parameters and 1 M bytes of training. Each context has as many bytes
in a batch, as many steps and as many learning rates. A model is evaluated on windows of its own context, with a zero
state at their start: the mean over short windows holds more of the first bytes, which have little context.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import run, runs_at_best

from seqjax.comparison.figures import draw_contexts
from seqjax.families import in_order, label_of
from seqjax.host.guard import guarded
from seqjax.host.wording import with_error
from seqjax.laws.run_rows import at_best_rates

T = "train.context_length"


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loss of each family at each context."""
    best = at_best_rates(table).sort_values(T)
    found: dict[str, Any] = {}
    for kind in in_order(best["kind"]):
        runs = best[best["kind"] == kind]
        losses = [[int(t), float(loss), float(se)] for t, loss, se in runs[[T, "loss", "loss_se"]].to_numpy()]
        found[kind] = {"context, loss, standard error": losses}
        print(f"{label_of(kind)}: " + ", ".join(f"T={t}: {with_error(loss, se, 3)}" for t, loss, se in losses))
    found["at_best"] = runs_at_best(best)
    return found, {"contexts.md": as_table(found["at_best"]), "contexts": draw_contexts(best)}


def as_table(runs: list[dict[str, Any]]) -> str:
    """The mean loss over seeds of each family at each context, in nats per token, as Markdown."""
    kinds = in_order(row["kind"] for row in runs)
    lines = [f"| T | {' | '.join(map(label_of, kinds))} |", "|---" * (1 + len(kinds)) + "|"]
    for context in sorted({row["context"] for row in runs}):
        losses = [[row["loss"] for row in runs if (row["kind"], row["context"]) == (kind, context)] for kind in kinds]
        lines.append(f"| {context} | {' | '.join(f'{np.mean(own):.3f}' if own else '-' for own in losses)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("context_length", "context-length", __doc__, analyse)))
