"""Sixteen small runs in four ways, and as a plain torch loop: what bundles and the pool of workers are worth.

    python experiments/bundles.py                # about an hour on two idle cores; stop and start it at will
    python experiments/bundles.py --widths 8 --families lstm --steps 8000 --ways a d
    python experiments/bundles.py --report       # print the recorded table again

Sixteen runs (4 learning rates x 4 seeds) of one model, trained (a) one after another in one process, (b) by the pool
of workers, (c) as one bundle in one process, (d) as bundles in the pool. Each way starts with empty folders and an
empty compilation cache, and its wall time is that of the whole: processes, compilation, training, evaluation,
checkpoints, results. ``torch`` is the same models, batches, optimizer and final evaluation in a plain eager loop, one
run after another in one process, without checkpoints or results; imports are not counted, and it has as many threads
as 200 steps were fastest with, one or all.

The mark: (d) at least 3 times as fast as (a) at the smallest size, and faster than torch. Found: 3.0 times for the
LSTM of width 8 (so just reached), 2.5 for the Transformer, and 7 times as fast as torch.

The second table is the time of sixteen single steps over that of one step of sixteen runs together, on one core. Where
it is 1 or less, computing lanes together does not pay by itself; a bundle still shares one compilation among its runs.
Since up to 64 steps go into one call of the program, single runs lose no time between steps, and little is left for
bundles to gain on a CPU: before, the same table began with 2.7. (An accelerator was not at hand.)
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from seqjax.config.plain import whole
from seqjax.host.disk import write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "bundles" / "results.json"
BATCH, CONTEXT = 8, 32
SWEEP = """
data: {{corpus: english, tokenizer: bytes}}
model: {model}
train: {{steps: {steps}, batch_size: {batch}, context_length: {context}, checkpoint_every: 1000000, log_every: 50}}
evaluation: {{every: 1000000, windows: 256, final_windows: 256}}
optimizer: {{schedule: constant}}
grid:
  optimizer.learning_rate: [1e-3, 2e-3, 5e-3, 1e-2]
  train.seed: [0, 1, 2, 3]
"""
WAYS = {"a": ("all", False), "b": ("pool", False), "c": ("all", True), "d": ("pool", True)}


@pinned()
def main() -> int:
    """Measure every model in every way, interleaved; print and record the table."""
    parser = argparse.ArgumentParser(description="Sixteen small runs in four ways, and as a plain torch loop.")
    parser.add_argument("--widths", type=whole(), nargs="+", default=[8, 32])
    parser.add_argument("--families", nargs="+", default=["lstm", "transformer"])
    parser.add_argument("--step-widths", type=whole(), nargs="+", default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--steps", type=whole(), default=4000)
    parser.add_argument("--ways", nargs="+", default=[*WAYS, "torch"], choices=[*WAYS, "torch"])
    parser.add_argument("--again", action="store_true", help="measure again what is recorded")
    parser.add_argument("--report", action="store_true", help="print the recorded table")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(one_way(options.way, options.families[0], options.widths[0], options.steps)))
        return 0
    if options.report:
        print(as_text(json.loads(RESULTS.read_text())))
        return 0
    from common import begun, surroundings, writable

    writable(RESULTS.parent)
    here = {"batch_size": BATCH, "context_length": CONTEXT, **surroundings("torch")}
    recorded = {} if options.again else begun(RESULTS, here)
    record = {**here, "system": platform.platform()}
    rows, gains = recorded.get("rows", []), recorded.get("step_gains", [])
    for width, family in itertools.product(options.widths, options.families):
        key = {"family": family, "width": width, "steps": options.steps}
        if any(row.items() >= key.items() for row in rows):
            continue  # measured before
        row: dict[str, Any] = dict(key)
        for way in ("prepare", *options.ways):
            row |= in_a_process(way, family, width, options.steps)
            print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
        rows.sort(key=lambda row: (row["width"], row["family"], row["steps"]))
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS, {**record, "rows": rows, "step_gains": gains})
    for family, width in itertools.product(options.families, options.step_widths):
        if any((gain["family"], gain["width"]) == (family, width) for gain in gains):
            continue
        gains.append({"family": family, "width": width, **in_a_process("step", family, width, options.steps)})
        print(json.dumps(gains[-1]), file=sys.stderr, flush=True)
        write_json(RESULTS, {**record, "rows": rows, "step_gains": gains})
    record = json.loads(RESULTS.read_text())
    print(as_text(record))
    return 0


def in_a_process(way: str, family: str, width: int, steps: int) -> dict[str, Any]:
    """One way in a fresh process; nothing where torch is not installed."""
    command = [sys.executable, __file__, *f"--way {way} --families {family} --widths {width} --steps {steps}".split()]
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def one_way(way: str, family: str, width: int, steps: int) -> dict[str, Any]:
    """Seconds of sixteen runs, one way."""
    model = {
        "lstm": f"{{family: lstm, d_model: {width}, n_layers: 1}}",
        "transformer": f"{{family: transformer, d_model: {width}, n_layers: 2, n_heads: 2}}",
    }[family]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sixteen.yaml"
        path.write_text(SWEEP.format(model=model, steps=steps, batch=BATCH, context=CONTEXT))
        if way == "torch":
            return torch_way(path)
        if way == "step":
            return step_way(path)
        if way == "prepare":
            return prepare(path)
        workers, bundle = WAYS[way]
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "xla")
        began = time.perf_counter()
        code = sweep(path, Path(folder) / "runs", workers == "all", bundle)
        assert code == 0
        return {way: time.perf_counter() - began}


def prepare(path: Path) -> dict[str, Any]:
    """Tokens are made before anything is timed."""
    from seqjax.sweeps.grid import read_sweep
    from seqjax.tasks.text import load

    planned = read_sweep(path).runs()
    text = load(planned[0].config)
    text.shard("train"), text.shard("validation")
    return {"runs": len(planned)}


def sweep(path: Path, runs: Path, one_worker: bool, bundle: bool) -> int:
    """The sweep as the command trains it, but bundled wherever it can be, whether that is predicted to pay or not."""
    from seqjax.sweeps.grid import read_sweep
    from seqjax.sweeps.machine import this_machine
    from seqjax.sweeps.sweep import local_launch, run_sweep

    machine = this_machine()
    if one_worker:
        machine = dataclasses.replace(machine, threads=len(machine.cores), gpus=machine.gpus[:1])
    launch = local_launch(runs, machine, None, retries=0)
    outcome = run_sweep(read_sweep(path), runs, machine, None, bundle=bundle, launch=launch)
    finished = sum((runs / run.run_id / "result.json").is_file() for run in outcome.planned)
    return 0 if finished == 16 else 1


def step_way(path: Path) -> dict[str, Any]:
    """Seconds of a step of one run, and of sixteen together, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    os.environ["NPROC"] = "1"
    from seqjax.config import to_dict
    from seqjax.runs.targets import vocabulary_size
    from seqjax.sweeps.grid import read_sweep
    from seqjax.sweeps.speed import measure

    config = read_sweep(path).runs()[0].config
    times = {lanes: measure(to_dict(config), vocabulary_size(config), lanes)["step_seconds"] for lanes in (1, 4, 16)}
    return {"step_1": times[1], "step_4": times[4], "step_16": times[16]}


def torch_way(path: Path) -> dict[str, Any]:
    """The same sixteen runs in torch, on one thread and on all: the faster."""
    try:
        import torch
    except ImportError:
        return {"torch": None}
    from seqjax.sweeps.grid import read_sweep
    from seqjax.tasks.text import load

    planned = read_sweep(path).runs()
    text = load(planned[0].config)
    shards = text.shard("train"), text.shard("validation")
    first = planned[0].config
    short = dataclasses.replace(first, train=dataclasses.replace(first.train, steps=200))
    torch_run(short, text.tokenizer.vocab_size, *shards)
    times: dict[int, float] = {}
    for threads in 3 * sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        began = time.perf_counter()
        torch_run(short, text.tokenizer.vocab_size, *shards)
        times[threads] = min(times.get(threads, math.inf), time.perf_counter() - began)
    torch.set_num_threads(faster := min(times, key=times.__getitem__))
    began = time.perf_counter()
    for run in planned:
        torch_run(run.config, text.tokenizer.vocab_size, *shards)
    return {"torch": time.perf_counter() - began, "torch_threads": faster}


def torch_run(config: Any, vocabulary: int, train_shard: Any, validation_shard: Any) -> float:
    """One run: embedding, layers, readout, AdamW, gradient clipping, final evaluation."""
    import torch
    from torch import nn

    from seqjax.data import evaluation_windows, gather_windows, window_batch

    torch.manual_seed(config.train.seed)
    model = torch_model(config, vocabulary)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.optimizer.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, foreach=True
    )
    for step in range(config.train.steps):
        batch = window_batch(train_shard.tokens, config.train.seed, step, BATCH, CONTEXT)
        tokens = torch.from_numpy(batch.astype("int64"))
        logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        loss.item()
    starts = evaluation_windows(validation_shard.tokens, config.evaluation.final_windows, CONTEXT)
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(starts), 64):
            windows = gather_windows(validation_shard.tokens, starts[first : first + 64], CONTEXT)
            tokens = torch.from_numpy(windows.astype("int64"))
            logits = model(tokens[:, :-1]).flatten(0, 1)
            total += nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum").item()
    return total / (len(starts) * CONTEXT)


def torch_model(config: Any, vocabulary: int) -> Any:
    """The model of a config in torch's own modules."""
    import torch
    from torch import nn

    width = config.model.d_model

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.readout = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
            self.layers = nn.LSTM(width, width, config.model.n_layers, batch_first=True)

        def forward(self, tokens: Any) -> Any:
            return self.readout(self.layers(self.embedding(tokens))[0])

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.readout = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
            self.positions, self.norm = nn.Embedding(CONTEXT, width), nn.LayerNorm(width)
            block = nn.TransformerEncoderLayer(
                width, config.model.n_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(block, config.model.n_layers, enable_nested_tensor=False)
            self.mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)

        def forward(self, tokens: Any) -> Any:
            x = self.embedding(tokens) + self.positions(torch.arange(CONTEXT))
            return self.readout(self.norm(self.blocks(x, mask=self.mask, is_causal=True)))

    return Recurrent() if config.model.family == "lstm" else Decoder()


def as_text(record: dict[str, Any]) -> str:
    """The table as Markdown."""
    hardware, versions = record["hardware"], record["versions"]
    lines = [
        f"16 runs, B = {record['batch_size']}, T = {record['context_length']}, whole sweeps in seconds. "
        f"{hardware['processor']}, {hardware['cores']} cores,",
        f"jax {versions['jax']}, torch {versions['torch']}, {record['date']}.",
        "",
        "| model | steps | (a) one by one | (b) pool | (c) bundle | (d) both | torch | (a) / (d) | torch / (d) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        times = [f"{row[way]:.1f}" if row.get(way) else "-" for way in (*WAYS, "torch")]
        ratios = [f"{row[way] / row['d']:.1f}" if row.get(way) else "-" for way in ("a", "torch")]
        name = f"{row['family']} {row['width']} | {row['steps']:,}"
        lines.append(f"| {' | '.join([name, *times, *ratios])} |")
    widths = sorted({gain["width"] for gain in record["step_gains"]})
    lines += [
        "",
        f"| 16 steps alone / one step of 16, width | {' | '.join(map(str, widths))} |",
        "|---" * (len(widths) + 1) + "|",
    ]
    for family in dict.fromkeys(gain["family"] for gain in record["step_gains"]):
        ratios = {g["width"]: 16 * g["step_1"] / g["step_16"] for g in record["step_gains"] if g["family"] == family}
        lines.append(f"| {family} | {' | '.join(f'{ratios[width]:.1f}' for width in widths)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(guarded(main))
