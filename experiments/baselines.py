"""Four small models beside published losses and beside a compressor, as a table.

    python experiments/baselines.py                 about 40 minutes on two CPU cores; stop and start it at will
    python experiments/baselines.py --only.base nanogpt-cpu          # one of them

Needs tiny Shakespeare and WikiText-2 (downloaded, or found in SEQJAX_DATA). The configs are in
configs/sweeps/baselines.yaml. `--record` keeps losses, bits per byte, hardware, versions and date.

Expected (two cores of an AMD EPYC, jax 0.10.2, 2026-11):

    published/nanogpt-cpu       1.79 nats per character; nanoGPT publishes 1.88 (same model, batch, block and steps)
    english/lstm, transformer   bits per byte on unseen works of the embedded corpus below bz2's 2.228
    published/wikitext2-lstm    bits per byte below bz2's 2.040 (a third of an epoch, far from convergence)
"""

from __future__ import annotations

import bz2
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import base_of, results, run

from seqjax.data import load_corpus
from seqjax.host.guard import guarded
from seqjax.host.wording import with_error

PUBLISHED = {"published/nanogpt-cpu": "1.88 nats/character (nanoGPT's README, CPU configuration)"}
KEPT = ("run_id", "status", "steps", "tokens", "epochs", "seconds", "parameters",
        "training_flops", "hardware", "versions", "ended")  # fmt: skip


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the table needs of each run, with where and when it was measured."""
    rows = {}
    for run_id, corpus, result in zip(table["run_id"], table["data.corpus"], results(table, folder), strict=True):
        found = {key: value for key, value in result["validation"].items() if not key.startswith("by_")}
        rows[str(base_of(folder, run_id))] = {
            **{key: result[key] for key in KEPT},
            "validation": found,
            "bz2_bits_per_byte": compressed_bits(corpus, "validation"),
        }
    print(as_text(rows))
    return rows, {"table.md": as_text(rows)}


def compressed_bits(corpus: str, split: str) -> float:
    """Bits per byte that bz2 needs for a split, each document's text after the other."""
    compressor, read, written = bz2.BZ2Compressor(9), 0, 0
    for document in load_corpus(corpus).documents(split):
        for chunk in document.chunks():
            read += len(chunk)
            written += len(compressor.compress(chunk))
    return 8 * (written + len(compressor.flush())) / read


def as_text(rows: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| run | parameters | tokens seen | held-out nats/token | bits/byte | bz2 | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, found in rows.items():
        held_out = found["validation"]
        lines.append(
            f"| {label} | {found['parameters']['total']:,} | {found['tokens'] / 1e6:.1f} M | "
            f"{with_error(held_out['loss'], held_out['loss_se'])} | "
            f"{held_out['bits_per_byte']:.3f} | {found['bz2_bits_per_byte']:.3f} | {PUBLISHED.get(label, '')} |"
        )
    last = max(rows.values(), key=lambda found: found["ended"])
    hardware, versions = last["hardware"], last["versions"]
    where = f"{hardware['processor']}, {hardware['cores']} cores, {hardware['device']}"
    what = f"jax {versions['jax']}, flax {versions['flax']}, Python {versions['python']}"
    lines += ["", f"{where}; {what}; {last['ended'][:10]}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("baselines", "baselines", __doc__, analyse, about=False)))
