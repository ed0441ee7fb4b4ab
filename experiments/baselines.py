"""Four small models beside published losses and beside a compressor, as a table.

    python experiments/baselines.py                 about 40 minutes on two CPU cores; stop and start it at will
    python experiments/baselines.py --only published/nanogpt-cpu

Needs tiny Shakespeare and WikiText-2 (downloaded, or found in SEQJAX_DATA). Writes
`experiments/results/baselines/results.json` and `table.md` with losses, bits per byte, hardware, versions and date.

Expected (two cores of an AMD EPYC, jax 0.10.2, 2026-11):

    published/nanogpt-cpu       1.79 nats per character; nanoGPT publishes 1.88 (same model, batch, block and steps)
    english/lstm, transformer   bits per byte on unseen works of the embedded corpus below bz2's 2.228
    published/wikitext2-lstm    bits per byte below bz2's 2.040 (a third of an epoch, far from convergence)
"""

from __future__ import annotations

import argparse
import bz2
import json
import sys
from pathlib import Path
from typing import Any

from common import writable

from seqjax.config import Config, run_id
from seqjax.data import load_corpus
from seqjax.host.disk import write_atomically, write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.host.wording import with_error
from seqjax.runs.config_file import load_config
from seqjax.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "baselines"
CONFIGS = ("published/nanogpt-cpu", "english/lstm", "english/transformer", "published/wikitext2-lstm")
PUBLISHED = {"published/nanogpt-cpu": "1.88 nats/character (nanoGPT's README, CPU configuration)"}


@pinned()
def main() -> int:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=CONFIGS, choices=CONFIGS, metavar="CONFIG", help="which of them")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "baselines", help="where the runs go")
    options = parser.parse_args()
    writable(RESULTS)
    rows = json.loads((RESULTS / "results.json").read_text()) if (RESULTS / "results.json").is_file() else {}
    for label in options.only:
        config = load_config(ROOT / "configs" / f"{label}.yaml")
        print(f"{label}: {options.runs / run_id(config)}", file=sys.stderr)
        rows[label] = row(config, train(config, options.runs / run_id(config)))
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS / "results.json", rows)
        write_atomically(RESULTS / "table.md", table(rows))
    print(table(rows))
    return 0


def row(config: Config, result: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of one run, with where and when it was measured."""
    keys = ("run_id", "status", "steps", "tokens", "epochs", "seconds", "parameters",
            "training_flops", "hardware", "versions", "ended")  # fmt: skip
    found = {key: value for key, value in result["validation"].items() if not key.startswith("by_")}
    bz2_bits = compressed_bits(config.data.corpus, "validation")
    return {key: result[key] for key in keys} | {"validation": found, "bz2_bits_per_byte": bz2_bits}


def compressed_bits(corpus: str, split: str) -> float:
    """Bits per byte that bz2 needs for a split, each document's text after the other."""
    compressor, read, written = bz2.BZ2Compressor(9), 0, 0
    for document in load_corpus(corpus).documents(split):
        for chunk in document.chunks():
            read += len(chunk)
            written += len(compressor.compress(chunk))
    return 8 * (written + len(compressor.flush())) / read


def table(rows: dict[str, Any]) -> str:
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
    sys.exit(guarded(main))
