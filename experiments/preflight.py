"""What fits where, and how fast at most: models and the presets gpu and pod compiled for accelerators.

    python experiments/preflight.py                 # to report/preflight; --record: to experiments/results/preflight
    python experiments/preflight.py --on h100       # one target only; the 256 devices of GPT-2 1.3B take the longest
    python experiments/preflight.py --again         # all rows again (with --on: those of one target); others are kept

No accelerator is needed, only the compilers: pip install -e '.[preflight,tpu]'. Of each form of a preset the largest
model is compiled: if it fits, so do the smaller ones. A row is kept as soon as it is there; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, surroundings, writable

from seqjax.commands.options import config_of
from seqjax.commands.sweep import stay_off_accelerators
from seqjax.config import RunConfig
from seqjax.families import kind_of
from seqjax.host.disk import write_atomically, write_json
from seqjax.host.numerics import pinned
from seqjax.models.accounting import count_parameters
from seqjax.preflight.accelerators import GIB, target_named
from seqjax.preflight.as_text import SHARE
from seqjax.preflight.needs import Check, check
from seqjax.runs.targets import vocabulary_size
from seqjax.sweeps.grid import Planned, read_sweep
from seqjax.sweeps.printed import aligned
from seqjax.sweeps.search import foreseen

NAME = "preflight"
PRESETS = {"gpu": "h100", "pod": "8xh100"}
"""Preset of configs/figure7 -> the target that its runs are for, each alone on it."""
TARGETS = ("h100", "8xh100", "v5e-4")
GPT2 = {"GPT-2 124M": (12, 12, 768), "GPT-2 350M": (24, 16, 1024), "GPT-2 1.3B": (24, 16, 2048)}
ALIKE = "--data.tokenizer gpt2 --train.context-length 1024 --train.compute-dtype bfloat16"
LSTMS = {"LSTM 1M": "1e6", "LSTM 10M": "1e7", "LSTM 100M": "1e8", "LSTM 300M": "3e8"}
SHARING = "GPT-2 1.3B, fsdp 16"
SHARING_ON = ("256xh100", "v5e-256")
"""Where the 1.3 B parameters are shared by 16 devices, the 256 rows of a batch by all, and blocks computed again."""
EVERY_TARGET = (*TARGETS, *SHARING_ON)
TOKENS = 300e9  # of a run of these, for hours; runs of a preset have their own


def models() -> Iterator[tuple[str, RunConfig]]:
    """GPT-2 and LSTMs of two layers: windows of 1,024 tokens of GPT-2's vocabulary, bfloat16."""
    for name in GPT2:
        yield name, gpt2(name, "--train.batch-size 32")
    for name, size in LSTMS.items():
        shape = f"--model.n-layers 2 --size.non-embedding {size} --train.batch-size 64"
        yield name, config_of(ROOT / "configs/english/lstm.yaml", f"{ALIKE} {shape}".split())


def gpt2(name: str, others: str) -> RunConfig:
    """A GPT-2 with fused attention, and other options."""
    layers, heads, width = GPT2[name]
    shape = f"--model.n-layers {layers} --model.n-heads {heads} --model.d-model {width}"
    tied = "--model.tied-embeddings true --model.attention-kernel fused"
    return config_of(ROOT / "configs/english/transformer.yaml", f"{ALIKE} {shape} {tied} {others}".split())


def largest_of(preset: str, planned: Sequence[Planned] | None = None) -> dict[str, RunConfig]:
    """The largest model of each form of a preset and each length of its windows, in its longest run.

    Args:
        planned: all runs of the preset; None: they are planned here.
    """
    found: dict[str, RunConfig] = {}
    for run in planned or foreseen(read_sweep(ROOT / f"configs/figure7/{preset}.yaml"), lambda _: None):
        config = run.config
        kind = kind_of(config.model.family, vars(config.model))
        form = f"{preset}: {kind} {config.model.n_layers}, T {config.train.context_length}"
        if form not in found or (_size(config), config.train.steps) > (_size(found[form]), found[form].train.steps):
            found[form] = config
    return found


def _size(config: RunConfig) -> int:
    return count_parameters(config.model, vocabulary_size(config), config.train.context_length)["non_embedding"]


def wanted() -> Iterator[tuple[str, RunConfig, str]]:
    """Name, config and target of every row. GPT-2 takes a TPU's compiler many minutes, and is left out there."""
    for preset, target in PRESETS.items():
        for name, config in largest_of(preset).items():
            yield name, config, target
    for target in TARGETS:
        for name, config in models():
            if not (name in GPT2 and target.startswith("v5e")):
                yield name, config, target
    sharing = "--train.batch-size 256 --evaluation.batch-size 256 --train.mesh.fsdp 16 --train.remat true"
    for target in SHARING_ON:
        yield SHARING, gpt2("GPT-2 1.3B", sharing), target


def row_of(name: str, found: Check) -> dict[str, Any]:
    """What is kept of a check."""
    config, text = found.config, found.step.text
    tokens = config.train.batch_size * config.train.context_length
    steps = config.train.steps if ":" in name else round(TOKENS / tokens)
    return {
        "name": name, "target": found.target.name, "N": _size(config), "B": config.train.batch_size,
        "T": config.train.context_length, "fits": found.fits, "GiB": found.memory / GIB,
        "GiB_of_device": found.target.chip.memory / GIB, "step_GiB": found.step.memory / GIB,
        "evaluation_GiB": found.evaluation.memory / GIB, "shared": found.step.shared,
        "evaluation_shared": found.evaluation.shared, "scores": found.scores, "logits": found.logits,
        "turns": text.turns if text else None,
        "exchanges": [vars(one) for one in text.collectives] if text else None,
        "bound_ms": 1e3 * found.step_bound.seconds, "by": found.step_bound.by, "tokens": steps * tokens,
        "hours": found.device_hours(steps), "hours_at_share": found.device_hours(steps, SHARE),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text; hours of a preset's runs are of one run, those of the others of 300 billion tokens."""
    cells = [("model", "on", "GiB", "of", "", "shared", "ms", "by", "hours", f"at {SHARE:.0%}")]
    for row in rows:
        numbers = [f"{row[key]:.3g}" for key in ("GiB", "GiB_of_device")]
        hours = [f"{row[key]:,.0f}" if row[key] >= 10 else f"{row[key]:.2g}" for key in ("hours", "hours_at_share")]
        shared, mark = f"{row['shared']:.2f}" if row["exchanges"] else "-", "" if row["fits"] else "!"
        cells.append((row["name"], row["target"], *numbers, mark, shared, f"{row['bound_ms']:.3g}", row["by"], *hours))
    return aligned(cells, left=2) + "\n"


@pinned()
def main() -> None:
    """Compile the rows that are not there yet, and write them."""
    stay_off_accelerators()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", metavar="TARGET", choices=EVERY_TARGET, help="rows of this target only")
    parser.add_argument("--again", action="store_true", help="compile the rows that are there again")
    parser.add_argument("--record", action="store_true", help=f"write to experiments/results/{NAME}")
    options = parser.parse_args()
    folder = writable(RESULTS / NAME if options.record else ROOT / "report" / NAME)
    everything = {(name, target): config for name, config, target in wanted()}
    rows = {(row["name"], row["target"]): row for row in read_rows(folder)}
    for (name, target), config in everything.items():
        if options.on not in (None, target) or ((name, target) in rows and not options.again):
            continue
        rows[name, target] = row_of(name, check(config, target_named(target)))
        kept = [rows[place] for place in everything if place in rows]
        write_json(folder / "results.json", {"rows": kept, **surroundings()})
        write_atomically(folder / "table.txt", table(kept))
        print(table([rows[name, target]]).splitlines()[1], flush=True)


def read_rows(folder: Path = RESULTS / NAME) -> list[dict[str, Any]]:
    """The recorded rows."""
    path = folder / "results.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


if __name__ == "__main__":
    main()
