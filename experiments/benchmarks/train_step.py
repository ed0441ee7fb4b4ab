"""The train step beside Flax's and torch's: tokens per second, time to compile, memory.

    python experiments/benchmarks/train_step.py                      # 13 minutes on two idle cores; resumable
    python experiments/benchmarks/train_step.py --families lstm --repeats 9 --out /tmp/lstm.json
    python experiments/benchmarks/train_step.py --report             # print the recorded table again

Every row is one model and one batch shape. All systems of a row live in one process and take turns, and the median of
the turns counts; each does the whole step: forward, backward, clipping, AdamW, float32, a vocabulary of 256 (bytes).
The columns: `seqjax` as it trains by default; `scan`, the same step around the plain `lax.scan` of the cell (for the
Transformer, around the whole attention matrix); `flax`, Flax's `nn.RNN` over its own cells (`OptimizedLSTMCell`,
`GRUCell`, `SimpleCell`); `torch`, its `nn.LSTM`, `nn.GRU`, `nn.RNN` and `scaled_dot_product_attention` with fused
AdamW; `compiled`, the same model under `torch.compile` (which leaves recurrent modules as they are).

All share a process that keeps freed memory, as seqjax's commands do (seqjax/host/memory.py); torch gains by it as well.
Needs torch: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.config import Config, TrainConfig
from seqjax.config.plain import whole
from seqjax.families import FAMILIES
from seqjax.host.memory import keep_freed_memory
from seqjax.models import count_parameters
from seqjax.tasks.text import make_objective
from seqjax.training.lanes import make_bundle, make_program
from seqjax.training.state import Hyper

sys.path.append(str(Path(__file__).resolve().parents[1]))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "train_step.json"
VOCABULARY = 256
TURN_SECONDS = 0.3
TITLES = {"scan": "plain scan", "flax": "Flax nn.RNN", "torch": "torch", "compiled": "torch compiled"}
REFERENCES = tuple(TITLES)


class Shape(NamedTuple):
    """Width, layers, batch and context of a row."""

    width: int
    layers: int
    batch: int
    context: int


RECURRENT = [
    Shape(64, 1, 32, 128),
    Shape(128, 1, 32, 128),
    Shape(128, 2, 32, 256),
    Shape(256, 2, 32, 256),
    Shape(512, 2, 32, 256),
    Shape(128, 1, 8, 1024),
]
TRANSFORMER = [Shape(64, 2, 32, 128), Shape(128, 4, 32, 128), Shape(256, 4, 32, 256), Shape(128, 4, 8, 1024)]
ROWS = [(family, shape) for family in ("lstm", "gru", "elman") for shape in RECURRENT]
ROWS += [("transformer", shape) for shape in TRANSFORMER]


class SeqjaxSystem:
    """The program of `seqjax train`, many steps to a call.

    Args:
      lanes: that of a bundle of so many runs; None: of one run.
      compiler_options: of XLA, for this program alone.
    """

    def __init__(
        self,
        config: Config,
        tokens_BxT1: np.ndarray,
        vocab_size: int = VOCABULARY,
        lanes: int | None = None,
        compiler_options: dict[str, Any] | None = None,
    ) -> None:
        objective = make_objective(config, vocab_size)
        if lanes is None:
            self.program, lead = make_program(config, objective), ()
        else:
            seeds = [dataclasses.replace(config.train, seed=lane) for lane in range(lanes)]
            configs = [dataclasses.replace(config, train=train) for train in seeds]
            self.program, lead = make_bundle(configs, objective, devices=1), (lanes,)
        self.state, self.most = self.program.init(), self.program.steps_at_once
        batches = np.broadcast_to(tokens_BxT1, (*lead, self.most, *tokens_BxT1.shape))
        self.batches = self.program.put(np.ascontiguousarray(batches))
        self.hyper = Hyper(np.full((*lead, self.most), 1e-3, np.float32), np.zeros(lead, np.float32))
        self.resets_K = np.zeros(self.most, bool)
        lowered = self.program.steps.lower(self.state, self.batches, self.hyper, self.resets_K, 1)
        self.compiled = lowered.compile(compiler_options=compiler_options)

    def run(self, steps: int) -> float:
        """So many steps; the last loss, of a bundle the mean."""
        while steps > 0:
            count = min(steps, self.most)
            self.state, metrics = self.compiled(self.state, self.batches, self.hyper, self.resets_K, count)
            steps -= count
        return float(np.asarray(metrics["loss"])[..., count - 1].mean())

    def memory(self) -> int:
        """Bytes of the program's temporary arrays."""
        return self.compiled.memory_analysis().temp_size_in_bytes


def config_of(family: str, shape: Shape, dtype: str = "float32", **changes: Any) -> Config:
    """The config of a row."""
    model = FAMILIES[family](d_model=shape.width, n_layers=shape.layers, **changes)
    train = TrainConfig(batch_size=shape.batch, context_length=shape.context, compute_dtype=dtype)
    return Config(model, train=train)


class Started(NamedTuple):
    """A system after its first steps: how many steps are one turn, and seconds to the end of the first."""

    system: Any
    steps: int
    compile_seconds: float


def start(build: Callable[[], Any], turn_seconds: float = TURN_SECONDS) -> Started:
    """Build a system, run four steps of it, and choose the steps of a turn of about so many seconds."""
    began = time.perf_counter()
    system = build()
    system.run(1)
    compile_seconds = time.perf_counter() - began
    system.run(1)
    began = time.perf_counter()
    system.run(2)
    steps = max(1, round(turn_seconds / ((time.perf_counter() - began) / 2)))
    return Started(system, steps, compile_seconds)


def take_turns(started: dict[str, Started], repeats: int) -> dict[str, list[float]]:
    """Seconds of a step of each system, one number a turn; the systems alternate."""
    times: dict[str, list[float]] = {name: [] for name in started}
    for _, (name, (system, steps, _)) in itertools.product(range(repeats), started.items()):
        began = time.perf_counter()
        system.run(steps)
        times[name].append((time.perf_counter() - began) / steps)
    return times


def systems(family: str, shape: Shape, tokens_BxT1: np.ndarray) -> dict[str, Callable[[], Any]]:
    """How to build each system of a row."""
    from flax_models import FlaxSystem
    from torch_models import TorchSystem

    config = config_of(family, shape)
    plain = {"attention_kernel": "whole"} if family == "transformer" else {"recurrence": "scan"}
    built = {
        "seqjax": lambda: SeqjaxSystem(config, tokens_BxT1),
        "scan": lambda: SeqjaxSystem(config_of(family, shape, **plain), tokens_BxT1),
        "flax": lambda: FlaxSystem(config, VOCABULARY, tokens_BxT1),
        "torch": lambda: TorchSystem(config, VOCABULARY, tokens_BxT1, compiled=False),
        "compiled": lambda: TorchSystem(config, VOCABULARY, tokens_BxT1, compiled=True),
    }
    if family == "transformer":
        del built["flax"]
    return built


def measure(row: dict[str, Any], repeats: int, only: list[str] | None) -> dict[str, Any]:
    """The row with tokens per second, seconds to the end of the first step, and bytes of every system."""
    family, shape = row["family"], Shape(*(row[name] for name in Shape._fields))
    tokens_BxT1 = np.random.default_rng(0).integers(0, VOCABULARY, (shape.batch, shape.context + 1), np.int32)
    builds = systems(family, shape, tokens_BxT1).items()
    started = {name: start(build) for name, build in builds if not only or name in only}
    found = {
        name: {
            "compile_seconds": started[name].compile_seconds,
            "tokens_per_second": shape.batch * shape.context / statistics.median(times),
            "step_seconds": times,
            "temporary_bytes": started[name].system.memory(),
        }
        for name, times in take_turns(started, repeats).items()
    }
    config = config_of(family, shape)
    parameters = count_parameters(config.model, VOCABULARY, shape.context)["total"]
    return row | {"parameters": parameters, "systems": found}


def main() -> int:
    """Measure what is not recorded yet; print and record the table."""
    parser = argparse.ArgumentParser(
        description="The train step beside Flax's and torch's: tokens per second, time to compile, memory."
    )
    parser.add_argument("--families", nargs="+", choices=["lstm", "gru", "elman", "transformer"])
    parser.add_argument("--repeats", type=whole(), default=7, help="turns of every system; the median counts [7]")
    parser.add_argument("--systems", nargs="+", choices=["seqjax", *REFERENCES], help="only these columns")
    parser.add_argument("--rows", type=whole(), nargs="+", help="only these rows of each family, from 0")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the table")
    parser.add_argument("--again", action="store_true", help="measure again what the file has")
    parser.add_argument("--report", action="store_true", help="print the file's table")
    options = parser.parse_args()
    from common import measured, surroundings

    keep_freed_memory()
    if options.report:
        print(as_text(json.loads(options.out.read_text())))
        return 0
    here = {**surroundings("torch"), "repeats": options.repeats, "vocabulary": VOCABULARY}
    wanted = [
        {"family": family, **shape._asdict()}
        for family, shape in ROWS
        if not options.families or family in options.families
        if not options.rows or (TRANSFORMER if family == "transformer" else RECURRENT).index(shape) in options.rows
    ]
    of_row = partial(measure, repeats=options.repeats, only=options.systems)
    for row in measured(options.out, here, wanted, options.again, of_row):
        print(as_text({**here, "rows": [row]}).splitlines()[4], file=sys.stderr, flush=True)
        jax.clear_caches()
    print(as_text(json.loads(options.out.read_text())))
    return 0


def as_text(record: dict[str, Any]) -> str:
    """The table as Markdown: tokens per second, and seqjax's over that of each other system."""
    hardware, versions = record["hardware"], record["versions"]
    lines = [
        f"Thousand tokens/s (seqjax's share of it). {hardware['processor']}, {hardware['cores']} cores, float32, "
        f"jax {versions['jax']}, flax {versions['flax']}, torch {versions['torch']}, {record['date']}; "
        f"medians of {record['repeats']}.",
        "",
        f"| model | seqjax | {' | '.join(TITLES[name] for name in REFERENCES)} | compile s: seqjax, Flax "
        "| temporary MB: seqjax, scan, torch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        found = row["systems"]
        cells = [f"{row['family']} {row['width']}, L={row['layers']}, B={row['batch']}, T={row['context']}"]
        own = found["seqjax"]["tokens_per_second"]
        cells.append(f"{own / 1e3:.1f}")
        for name in REFERENCES:
            other = found.get(name, {}).get("tokens_per_second")
            cells.append(f"{other / 1e3:.1f} ({own / other:.2f})" if other else "-")
        for key, names, unit, digits in (
            ("compile_seconds", ("seqjax", "flax"), 1, 1),
            ("temporary_bytes", ("seqjax", "scan", "torch"), 1e6, 0),
        ):
            cells.append(", ".join(f"{found[n][key] / unit:.{digits}f}" if n in found else "-" for n in names))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", summary(record)])


def summary(record: dict[str, Any]) -> str:
    """By family, how many times as fast as each other system: geometric mean over the rows, and the least."""
    lines = [
        f"| tokens/s of seqjax over those of | {' | '.join(TITLES[name] for name in REFERENCES)} |",
        "|---" * (len(REFERENCES) + 1) + "|",
    ]
    groups = {family: [family] for family in ("lstm", "gru", "elman", "transformer")}
    groups["all recurrent"] = ["lstm", "gru", "elman"]
    for label, families in groups.items():
        rows = [row["systems"] for row in record["rows"] if row["family"] in families]
        cells = [f"{label} ({len(rows)} rows)"]
        for name in REFERENCES:
            ratios = [r["seqjax"]["tokens_per_second"] / r[name]["tokens_per_second"] for r in rows if name in r]
            cells.append(f"{statistics.geometric_mean(ratios):.2f} (least {min(ratios):.2f})" if ratios else "-")
        if rows:
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from seqjax.host.guard import guarded

    sys.exit(guarded(main))
