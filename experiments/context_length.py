"""Loss against context length, 8 to 1,024 tokens, at a fixed size: how much context each family turns into loss.

    python experiments/context_length.py                 # about 6 minutes on two CPU cores; stop and start it at will
    python experiments/context_length.py --dry-run

An LSTM and a Transformer of as many non-embedding parameters; each context has as many tokens in a batch, as many
steps and as many learning rates. A model is evaluated on windows of its own context, zero state at their start.
`--record` keeps the results in experiments/results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import run, runs_at_best

from seqjax.comparison.figures import draw_contexts
from seqjax.host.guard import guarded
from seqjax.host.wording import with_error
from seqjax.laws.points import at_best_rates

T = "train.context_length"


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loss of each family at each context."""
    best = at_best_rates(table).sort_values(T)
    found: dict[str, Any] = {}
    for family, runs in best.groupby("model.family"):
        losses = [[int(t), float(loss), float(se)] for t, loss, se in runs[[T, "loss", "loss_se"]].to_numpy()]
        found[family] = {"context, loss, standard error": losses}
        print(f"{family}: " + ", ".join(f"T={t}: {with_error(loss, se, 3)}" for t, loss, se in losses))
    found["runs"] = runs_at_best(best)
    return found, {"contexts": draw_contexts(best)}


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("context_length", "context-length", __doc__, analyse)))
