"""The Transformer's train step of this code beside that of another checkout of seqjax, in turns.

    git worktree add ../before 0123abc
    taskset -c 0 python experiments/benchmarks/versions.py ../before           # 10 minutes on an idle core; resumable
    python experiments/benchmarks/versions.py --report

Each checkout has a process of its own. They take turns of some steps each, and never run at the same time. A turn's
time is that of the process's CPUs: on a busy machine wall time says little. The least of the turns counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "versions.json"
VOCABULARY, HEAD = 512, 16
# form, width, batch, context; two layers, heads 16 wide: those of the presets of Figure 7
SHAPE = ("form", "width", "batch", "context")
SHAPES = [
    (form, width, batch, context)
    for form in ("modern", "gpt2")
    for width, batch, context in (
        (64, 16, 512),
        (32, 16, 512),
        (128, 16, 512),
        (64, 4, 512),
        (64, 64, 128),
        (64, 4, 1408),
    )
]
Row = dict[str, Any]


def serve() -> None:
    """One side: a shape on each line of standard input, then numbers of steps; milliseconds of a step come back."""
    import numpy as np

    from seqjax.config import Config, TrainConfig
    from seqjax.families import Transformer
    from seqjax.host.memory import keep_freed_memory

    sys.path.insert(0, str(Path(__file__).resolve().parent))
    keep_freed_memory()
    from train_step import SeqjaxSystem

    form, width, batch, context = json.loads(input())
    model = Transformer(d_model=width, n_layers=2, n_heads=width // HEAD, **Transformer.forms[form])
    config = Config(model, train=TrainConfig(batch_size=batch, context_length=context))
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (batch, context + 1), np.int32)
    system = SeqjaxSystem(config, tokens, VOCABULARY)
    print(json.dumps(system.run(2)), flush=True)
    for line in sys.stdin:
        steps = int(line)
        cpu, wall = time.process_time(), time.perf_counter()
        system.run(steps)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps([cpu / steps * 1e3, wall / steps * 1e3]), flush=True)


class Side:
    """A checkout's process for one shape."""

    def __init__(self, checkout: Path, shape: tuple[str, int, int, int]) -> None:
        paths = f"{checkout}:{checkout / 'experiments'}"
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"], env={**os.environ, "PYTHONPATH": paths}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.loss = self.ask(shape)

    def ask(self, what: Any) -> Any:
        """The answer to one line."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(before: Path, row: Row, turns: int) -> Row:
    """The row with milliseconds of a step of both checkouts: CPU and wall of every turn."""
    shape = tuple(row[name] for name in SHAPE)
    sides = {"before": Side(before, shape), "now": Side(Path(__file__).resolve().parents[2], shape)}
    steps = {name: max(1, round(300 / side.ask(1)[0])) for name, side in sides.items()}
    found: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            found[name].append(side.ask(steps[name]))
    for side in sides.values():
        side.end()
    losses = {name: side.loss for name, side in sides.items()}
    return row | {"losses": losses, "turns": found}


def as_text(record: dict[str, Any]) -> str:
    """One line a shape: the least CPU time of a step before and now, and their ratio, also of the medians."""
    lines = [
        f"CPU ms of a train step, before ({record['before']}) and now ({record.get('now', '?')}); least of the turns. "
        f"{record['hardware']['processor']}, one core, jax {record['versions']['jax']}, {record['date']}.",
        "",
        "| model | before | now | ratio | of medians | of wall |",
        "|---|---|---|---|---|---|",
    ]
    ratios = []
    for row in record["rows"]:
        turns = row["turns"]
        cpu, wall = ({name: [turn[i] for turn in turns[name]] for name in turns} for i in (0, 1))
        least = {name: min(times) for name, times in cpu.items()}
        ratios.append(least["before"] / least["now"])
        medians = [statistics.median(of["before"]) / statistics.median(of["now"]) for of in (cpu, wall)]
        name = f"{row['form']} 2x{row['width']}, B={row['batch']}, T={row['context']}"
        cells = [name, f"{least['before']:.1f}", f"{least['now']:.1f}", f"{ratios[-1]:.2f}"]
        lines.append(f"| {' | '.join([*cells, *(f'{ratio:.2f}' for ratio in medians)])} |")
    return "\n".join([*lines, "", f"Geometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}."])


def main() -> int:
    """Measure what is not recorded yet; print and record the table."""
    parser = argparse.ArgumentParser(description="The Transformer's train step beside that of another checkout.")
    parser.add_argument("before", nargs="?", type=Path, help="folder of the other checkout")
    parser.add_argument("--turns", type=int, default=7, help="turns of each side [7]")
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(SHAPES)), help="only these rows, from 0")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the table")
    parser.add_argument("--again", action="store_true", help="measure again what the file has")
    parser.add_argument("--report", action="store_true", help="print the file's table")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from common import measured, surroundings

    from seqjax.errors import UserError

    if options.report:
        print(as_text(json.loads(options.out.read_text())))
        return 0
    if options.before is None:
        raise UserError("command line: expected the folder of another checkout")
    commits = {"before": commit_of(options.before), "now": commit_of(Path(__file__).parent)}
    here = {**surroundings(), **commits, "vocabulary": VOCABULARY}
    wanted = (dict(zip(SHAPE, SHAPES[index], strict=True)) for index in options.rows)
    of_row = partial(measure, options.before.resolve(), turns=options.turns)
    for row in measured(options.out, here, wanted, options.again, of_row):
        print(as_text({**here, "rows": [row]}).splitlines()[4], flush=True)
    print(as_text(json.loads(options.out.read_text())))
    return 0


def commit_of(folder: Path) -> str:
    """The commit of a checkout, with a plus where its files differ from it."""
    described = ["git", "-C", str(folder), "describe", "--always", "--exclude", "*", "--dirty=+"]
    return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    from seqjax.host.guard import guarded

    sys.exit(guarded(main))
