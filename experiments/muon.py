"""What Muon is worth against AdamW: 100 k parameters, four horizons of 1.25 to 10 M tokens, three seeds.

    python experiments/muon.py                      # see --dry-run for the time; stop and start it at will
    python experiments/muon.py --dry-run
    python experiments/muon.py --record             # and keep the numbers

An LSTM of one layer and a Transformer of two (rotary positions, RMSNorm, SwiGLU, QK norm), four rates for each
optimizer. At each horizon an optimizer has its own best rate, by the mean over seeds. The ratio of tokens is the tokens
that AdamW needs to reach Muon's loss over those that Muon had: AdamW's losses are interpolated linearly in log tokens
against log loss, seed by seed. There is none where Muon's loss lies outside AdamW's. Intervals are 95 %, Student's t
over seeds, for the ratio in its logarithm.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import AtBest, as_record, best_rates, bracket, change, in_common, interval, run, same_horizons

from seqjax.families import label_of
from seqjax.host.guard import guarded


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loss of both optimizers at every horizon, and the ratio of tokens to equal loss."""
    found: dict[str, Any] = {}
    for family, rows in table.groupby("model.family", sort=False):
        adamw, muon = (best_rates(rows[rows["optimizer.name"] == name]) for name in ("adamw", "muon"))
        found[label_of(family)] = [
            {
                "tokens": int(tokens),
                "adamw": as_record(one),
                "muon": as_record(other),
                "change": change(other.losses, one.losses, f"{label_of(family)}, {tokens:,.0f} tokens"),
                "ratio": ratio_of_tokens(adamw, other.losses, tokens),
            }
            for tokens, one, other in same_horizons(adamw, muon)
        ]
    text = as_text(found)
    print(text)
    return {"found": found}, {"muon.md": text}


def ratio_of_tokens(adamw: dict[float, AtBest], losses: pd.Series, tokens: float) -> dict[str, Any] | None:
    """Tokens that AdamW needs for these losses over ``tokens``, with its interval.

    Of the seeds that Muon has here and AdamW has everywhere. None: there are none, or outside of AdamW's losses.
    """
    curves = pd.DataFrame({at_tokens: at.losses for at_tokens, at in adamw.items()}).dropna()
    shared = curves.index.intersection(losses.index)
    log_tokens_H = np.log(np.array(list(adamw)))
    needed = []
    for curve_H, loss in zip(np.log(curves.loc[shared].to_numpy()), np.log(losses.loc[shared]), strict=True):
        order = np.argsort(curve_H)
        if not curve_H[order[0]] <= loss <= curve_H[order[-1]]:
            return None
        needed.append(float(np.interp(loss, curve_H[order], log_tokens_H[order])))
    if not needed:
        return None
    found = interval(np.array(needed) - np.log(tokens))
    return {key: float(np.exp(value)) for key, value in found.items()} | {"seeds": len(needed)}


def as_text(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["| model | tokens | AdamW, nats/token | Muon | change | tokens of AdamW for Muon's loss |"]
    lines.append("|---" * 6 + "|")
    for label, rows in found.items():
        for row in rows:
            own = [row[name]["seeds"] for name in ("adamw", "muon")]
            ratio = "outside"
            if row["ratio"] is not None:
                ratio = f"{bracket(row['ratio'], digits=2)} times{in_common(row['ratio']['seeds'], *own)}"
            edges = [name for name in ("adamw", "muon") if row[name]["edge"]]
            note = f" (best rate at the edge: {', '.join(edges)})" if edges else ""
            lines.append(
                f"| {label} | {row['tokens'] / 1e6:.3g} M | {row['adamw']['value']:.3f} | {row['muon']['value']:.3f} "
                f"| {bracket(row['change'], sign=True)}{in_common(row['change']['seeds'], *own)} | {ratio}{note} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("muon", "muon", __doc__, analyse)))
