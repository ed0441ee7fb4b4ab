"""The Transformer's lead at 100 k parameters: GPT-2's form and today's form against an LSTM, 10 M tokens, three seeds.

    python experiments/lead.py                  # about half an hour on two CPU cores; stop and start it at will
    python experiments/lead.py --dry-run
    python experiments/lead.py --record         # and keep the numbers

GPT-2's form has learned positions, LayerNorm, GELU and an initial scale of 0.02. Today's form has rotary positions,
RMSNorm, SwiGLU and RMSNorm on queries and keys. All have 100 k non-embedding parameters within 10 %, T = 128 and
B = 64 on `english` with bpe-512. Each form has its learning rate searched with equal effort at seed 0. Two more seeds
train at the chosen rate. Differences are between runs with the same seed, which see the same batches. Intervals are
95 %, Student's t over three seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import bracket, by_seed, change, interval, run

from seqjax.host.guard import guarded
from seqjax.laws.run_rows import at_best_rates

FORMS = {
    "LSTM": "lstm",
    "Transformer, GPT-2's form": "transformer gpt2",
    "Transformer, today's form": "transformer modern",
}
"""Name -> kind."""


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loss of each form at its best rate, and its lead over the LSTM."""
    best = at_best_rates(table)
    losses = {name: by_seed(best[best["kind"] == kind]) for name, kind in FORMS.items()}
    found = {}
    for name, kind in FORMS.items():
        rows = best[best["kind"] == kind]
        first = table[(table["kind"] == kind) & (table["train.seed"] == 0)]
        rates = first.groupby("optimizer.learning_rate")["loss"].min()
        rate = float(rows["optimizer.learning_rate"].iloc[0])
        found[name] = {
            "params_non_embedding": int(rows["params_non_embedding"].iloc[0]),
            "tokens": int(rows["tokens"].iloc[0]),
            "rate": rate,
            "rate_at_edge": rate in (rates.index.min(), rates.index.max()),
            "loss_by_rate": {f"{key:g}": float(value) for key, value in rates.items()},
            "loss": interval(losses[name].to_numpy()),
            "lead_over_lstm": None if name == "LSTM" else change(losses["LSTM"], losses[name], name),
        }
    text = as_text(found)
    print(text)
    return {"forms": found}, {"lead.md": text}


def as_text(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["| model | parameters | rate | held-out nats/token | ahead of the LSTM by |", "|---|---|---|---|---|"]
    for name, row in found.items():
        rate = f"{row['rate']:g}{' (at the edge)' if row['rate_at_edge'] else ''}"
        lead = "" if row["lead_over_lstm"] is None else bracket(row["lead_over_lstm"])
        lines.append(f"| {name} | {row['params_non_embedding']:,} | {rate} | {bracket(row['loss'])} | {lead} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("lead", "lead", __doc__, analyse)))
