"""Whether a branch of a trunk ends where a run of its own with a cosine does: 100 k parameters, four horizons.

    python experiments/muon.py                      # first: its AdamW runs are the trunks and branches
    python experiments/horizons.py                  # see --dry-run for the time; stop and start it at will
    python experiments/horizons.py --record         # and keep the numbers

The branches have the schedule wsd (warmup, constant, decay over the last fifth), the others a cosine to zero over their
own length; both have four rates, of which each takes the best at every horizon by the mean over three seeds. The change
is the branch's held-out loss minus the cosine's with the same seed. Intervals are 95 %, Student's t over seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import as_record, best_rates, bracket, change, in_common, run, same_horizons

from seqjax.errors import UserError
from seqjax.families import label_of
from seqjax.host.guard import guarded
from seqjax.sweeps.table import gather


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loss of branches and cosines at every horizon."""
    if not (folder.parent / "muon").is_dir():
        raise UserError(f"{folder.parent / 'muon'}: not found; run experiments/muon.py first: it trains the branches")
    branches = gather([folder.parent / "muon"]).query("`optimizer.name` == 'adamw'")
    if not branches["status"].isin(["finished", "diverged"]).all():
        raise UserError(f"{folder.parent / 'muon'}: not all runs have ended; start experiments/muon.py again")
    found: dict[str, Any] = {}
    for family, rows in table.groupby("model.family", sort=False):
        cosine, branch = best_rates(rows), best_rates(branches[branches["model.family"] == family])
        found[label_of(family)] = [
            {
                "tokens": int(tokens),
                "cosine": as_record(one),
                "branch": as_record(other),
                "change": change(other.losses, one.losses, f"{label_of(family)}, {tokens:,.0f} tokens"),
            }
            for tokens, one, other in same_horizons(cosine, branch)
        ]
    text = as_text(found)
    print(text)
    return {"found": found}, {"horizons.md": text}


def as_text(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["| model | tokens | cosine, nats/token | rate | branch | rate | change |", "|---" * 7 + "|"]
    for label, rows in found.items():
        for row in rows:
            rates = [
                f"{row[name]['rate']:g}" + (" (edge)" if row[name]["edge"] else "") for name in ("cosine", "branch")
            ]
            seeds = in_common(*(row[name]["seeds"] for name in ("change", "cosine", "branch")))
            lines.append(
                f"| {label} | {row['tokens'] / 1e6:.3g} M | {row['cosine']['value']:.3f} | {rates[0]} "
                f"| {row['branch']['value']:.3f} | {rates[1]} | {bracket(row['change'], sign=True)}{seeds} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("horizons", "horizons", __doc__, analyse)))
