"""The train step of the families of today: beside the torch code that they were checked against, and by context.

    python experiments/benchmarks/families.py                       # a quarter of an hour on two idle cores; resumable
    python experiments/benchmarks/families.py --families mlstm --out /tmp/mlstm.json
    python experiments/benchmarks/families.py --report              # print the recorded tables again

Whole train steps in float32: forward, backward, clip, AdamW; a vocabulary of 256. The systems of a row live in one
process and take turns; the median of the turns counts. Beside torch every model is the same stack (RMSNorm, mixer,
RMSNorm, SwiGLU; `block: common`) with as many parameters, and torch's mixer is code of others: torch_mixers.py names
it. On a CPU that code runs without the kernels that it has for a GPU.

"torch's products" is the share of torch's step that its matrix products take: with products of that speed no step is
more than 1 / share times as fast.

By context, every family has two layers of width 64 and 8,192 tokens a step, in windows of T tokens.

Needs torch, minGRU-pytorch, transformers and xlstm; a family whose package is absent is measured alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqjax.config.plain import whole
from seqjax.families import label_of
from seqjax.host.memory import keep_freed_memory
from seqjax.models import count_parameters

sys.path.append(str(Path(__file__).resolve().parents[1]))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "families.json"
TODAY = ("mingru", "minlstm", "rg_lru", "mamba2", "mlstm", "slstm", "gated_deltanet", "retention")
EVERY = ("elman", "gru", "lstm", "transformer", *TODAY)
BESIDE = ((64, 16, 512), (128, 32, 128))
"""Width, batch and context of the rows beside torch; two layers."""
CONTEXTS, TOKENS, WIDTH = (128, 512, 2048, 8192), 8192, 64
Row = dict[str, Any]


def wanted() -> Iterator[Row]:
    """What a row is, for every row."""
    for family in TODAY:
        for width, batch, context in BESIDE:
            yield {"table": "beside torch", "family": family, "width": width, "batch": batch, "contexts": [context]}
    for family in EVERY:
        yield {"table": "by context", "family": family, "width": WIDTH, "batch": None, "contexts": list(CONTEXTS)}


def measure(row: Row, repeats: int) -> Row:
    """The row with tokens per second of each system, by turn."""
    from torch_mixers import BIASED, package_of
    from torch_models import TorchSystem
    from train_step import VOCABULARY, SeqjaxSystem, Shape, config_of, start, take_turns

    family, started, parameters, products = row["family"], {}, {}, {}
    for context in row["contexts"]:
        batch = row["batch"] or TOKENS // context
        fields = {} if row["table"] == "by context" else {"bias": family in BIASED}
        config = config_of(family, Shape(row["width"], 2, batch, context), **fields)
        tokens_BxT1 = np.random.default_rng(0).integers(0, VOCABULARY, (batch, context + 1), np.int32)
        started[f"seqjax {context}"] = start(partial(SeqjaxSystem, config, tokens_BxT1))
        parameters["seqjax"] = count_parameters(config.model, VOCABULARY, context)["total"]
        package = package_of(family) if row["table"] == "beside torch" else None
        if package and importlib.util.find_spec(package):
            theirs = start(partial(TorchSystem, config, VOCABULARY, tokens_BxT1, compiled=False))
            started[f"torch {context}"] = theirs
            parameters["torch"] = sum(p.numel() for p in theirs.system.parameters)
            products["torch"] = theirs.system.products()
    assert len(set(parameters.values())) == 1, (family, parameters)
    rates = {}
    for name, seconds in take_turns(started, repeats).items():
        context = int(name.split()[1])
        rates[name] = [(row["batch"] or TOKENS // context) * context / one for one in seconds]
    jax.clear_caches()
    return row | {"parameters": parameters["seqjax"], "products": products, "tokens_per_second": rates}


def as_text(record: dict[str, Any]) -> str:
    """Both tables as Markdown: thousand tokens per second, and ratios."""
    hardware, versions, rows = record["hardware"], record["versions"], record["rows"]
    lines = [
        f"Thousand tokens/s, medians of {record['repeats']} turns. {hardware['processor']}, {hardware['cores']} cores, "
        f"float32, jax {versions['jax']}, torch {versions['torch']}, {record['date']}.",
        "",
        "| two layers, the same blocks | parameters | seqjax | torch | seqjax / torch | torch's products |",
        "|---|---|---|---|---|---|",
    ]
    for row in _of(rows, "beside torch"):
        (context,) = row["contexts"]
        own, theirs = (_median(row, f"{system} {context}") for system in ("seqjax", "torch"))
        name = f"{label_of(row['family'])} {row['width']}, B={row['batch']}, T={context}"
        cells = [name, f"{row['parameters']:,}", f"{own / 1e3:.1f}"]
        share = row["products"].get("torch", 0.0)
        cells += [f"{theirs / 1e3:.1f}", f"{own / theirs:.2f}", f"{share:.0%}"] if theirs else ["-", "-", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"| 2x{WIDTH}, {TOKENS:,} tokens a step | {' | '.join(f'T={context}' for context in CONTEXTS)} |",
        "|---" * (len(CONTEXTS) + 1) + "|",
    ]
    for row in _of(rows, "by context"):
        cells = [f"{_median(row, f'seqjax {context}') / 1e3:.1f}" for context in row["contexts"]]
        lines.append(f"| {label_of(row['family'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _of(rows: Sequence[Row], table: str) -> list[Row]:
    return [row for row in rows if row["table"] == table]


def _median(row: Row, system: str) -> float:
    """Tokens per second of a system; 0 where it was not measured."""
    return statistics.median(row["tokens_per_second"].get(system, [0.0]))


def main() -> int:
    """Measure what is not recorded yet; print and record the tables."""
    parser = argparse.ArgumentParser(
        description="The train step of the families of today, beside torch and by context."
    )
    parser.add_argument("--families", nargs="+", choices=EVERY, default=EVERY)
    parser.add_argument("--repeats", type=whole(), default=7, help="turns of every system; the median counts [7]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the tables")
    parser.add_argument("--again", action="store_true", help="measure again what the file has")
    parser.add_argument("--report", action="store_true", help="print the file's tables")
    options = parser.parse_args()
    from common import measured, surroundings

    if options.report:
        print(as_text(json.loads(options.out.read_text())))
        return 0
    keep_freed_memory()
    here = {**surroundings("torch", "transformers", "xlstm", "minGRU-pytorch"), "repeats": options.repeats}
    rows = (row for row in wanted() if row["family"] in options.families)
    for row in measured(options.out, here, rows, options.again, partial(measure, repeats=options.repeats)):
        print(as_text({**here, "rows": [row]}).splitlines()[4 if row["table"] == "beside torch" else -1], flush=True)
    print(as_text(json.loads(options.out.read_text())))
    return 0


if __name__ == "__main__":
    from seqjax.host.guard import guarded

    sys.exit(guarded(main))
