"""What each part of the Transformer, and each way of stacking LSTMs, is worth: 100 k parameters, 10 M tokens, 3 seeds.

    python experiments/parts.py                  # about an hour on two CPU cores; stop and start it at will
    python experiments/parts.py --dry-run
    python experiments/parts.py --record         # and keep the numbers

All have 100 k non-embedding parameters within 10 %, T = 128 and B = 64 on `english` with bpe-512, and the rate 1e-2,
which `lead.py` found to be the best of three for the LSTM and for both forms of the Transformer. The change of the loss
is to the row named beside it, between runs with the same seed. Intervals are 95 %, Student's t over three seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import bracket, interval, run

from seqjax.errors import UserError
from seqjax.host.guard import guarded

PARTS = (
    ("Transformer, gpt2", None),
    ("+ rotary positions", "Transformer, gpt2"),
    ("+ RMSNorm", "+ rotary positions"),
    ("+ SwiGLU", "+ RMSNorm"),
    ("+ QK norm: modern", "+ SwiGLU"),
    ("modern, initial scale from the fan-in", "+ QK norm: modern"),
    ("modern, output projections that start at zero", "+ QK norm: modern"),
    ("LSTM, 1 layer", None),
    ("LSTM, 2 layers", "LSTM, 1 layer"),
    ("LSTM, 2 layers, residual and norm", "LSTM, 2 layers"),
    ("LSTM, 4 layers", "LSTM, 1 layer"),
    ("LSTM, 4 layers, residual and norm", "LSTM, 4 layers"),
)
"""Name, and the name of the model that it is compared with, in the order of the sweep file."""


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loss of each model, and its change against the model without the part."""
    seeds = table["train.seed"].nunique()
    if (table["status"] != "finished").any() or len(table) != seeds * len(PARTS):
        raise UserError(f"{len(table)} runs, of which {(table['status'] == 'finished').sum()} finished: expected all")
    losses = dict(
        zip((name for name, _ in PARTS), table["loss"].to_numpy(float).reshape(len(PARTS), seeds), strict=True)
    )
    params = table["params_non_embedding"].to_numpy(int)[::seeds]
    found = {
        name: {
            "params_non_embedding": int(count),
            "loss": interval(losses[name]),
            "against": other,
            "change": None if other is None else interval(losses[name] - losses[other]),
        }
        for (name, other), count in zip(PARTS, params, strict=True)
    }
    text = as_text(found)
    print(text)
    return {"parts": found, "rate": float(np.unique(table["optimizer.learning_rate"]).item())}, {"parts.md": text}


def as_text(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["| model | parameters | held-out nats/token | change | against |", "|---|---|---|---|---|"]
    for name, row in found.items():
        change = "" if row["change"] is None else bracket(row["change"], sign=True)
        count = f"{row['params_non_embedding']:,}"
        lines.append(f"| {name} | {count} | {bracket(row['loss'])} | {change} | {row['against'] or ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("parts", "parts", __doc__, analyse)))
