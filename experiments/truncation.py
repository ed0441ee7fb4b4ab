"""How far back each family learns to remember, and what truncated back-propagation takes away.

    python experiments/truncation.py                       # about 8 minutes on one CPU core
    python experiments/truncation.py --record              # and keep the numbers and the figure

A symbol is shown, D - 1 noise tokens follow, then the symbol is asked for (seqjax.data.delays): the dependency is D
steps long, and a gradient must come from the last step back to the first, in a sequence of D + 1 tokens. Every family
is trained at every distance with the whole gradient, and LSTM and GRU also with gradients that stay within pieces of 4
and of 8 steps. Chance is 1 / 8, a loss of ln 8 = 2.079 nats. Expected, mean test accuracy over three seeds:

    elman, whole         D = 3: 1.00   D = 7: 1.00   D = 15: 0.14   D = 31: 0.13
    lstm, whole          D = 3: 1.00   D = 7: 1.00   D = 15: 1.00   D = 31: 0.57
    gru, whole           D = 3: 1.00   D = 7: 1.00   D = 15: 1.00   D = 31: 0.70
    transformer, whole   D = 3: 1.00   D = 7: 1.00   D = 15: 1.00   D = 31: 1.00
    lstm, k = 4          D = 7: 1.00   D = 15: 0.65   D = 31: 0.12
    gru, k = 4           D = 7: 1.00   D = 15: 0.58   D = 31: 0.15
    lstm, k = 8          D = 15: 0.98   D = 31: 0.12
    gru, k = 8           D = 15: 0.64   D = 31: 0.13

Dotted options change the config: `--train.steps 200 --model.d-model 16`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import surroundings, writable

from seqjax.commands.options import config_options, split_config_options
from seqjax.config import ModelConfig, named_run_id
from seqjax.config.plain import whole
from seqjax.families import Transformer
from seqjax.host.disk import storage_errors, write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.plots.gradients import draw_truncation
from seqjax.plots.style import save
from seqjax.runs.config_file import load_as
from seqjax.sweeps.worker import share_compilations
from seqjax.tasks.delays import Config
from seqjax.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "truncation"
CONFIG = ROOT / "configs" / "tasks" / "delays.yaml"
FAMILIES = ("elman", "lstm", "gru", "transformer")
TRUNCATED = ("lstm", "gru")
DISTANCES = (3, 7, 15, 31)
PIECES = (4, 8)


@pinned()
def main() -> int:
    """Train every family at every distance with every gradient, and write figure and results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=whole(1), default=3, help="of every run [3]")
    parser.add_argument("--distances", type=whole(), nargs="+", default=DISTANCES, help="D, steps [3 7 15 31]")
    parser.add_argument(
        "--pieces", type=whole(), nargs="+", default=PIECES, help="k, steps of a truncated gradient [4 8]"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "truncation", help="for the run folders")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / "truncation", help="for the figure")
    parser.add_argument("--record", action="store_true", help=f"write to {RESULTS.relative_to(ROOT)} instead")
    words, dotted = split_config_options(sys.argv[1:])
    options = parser.parse_args(words)
    base = load_as(Config, CONFIG, config_options(dotted))
    target = writable(RESULTS if options.record else options.report)
    share_compilations()
    rows = [row(*kind) for kind in kinds(options.distances, options.pieces)]
    for seed in range(options.seeds):
        for found in rows:
            result = run(base, found, seed, options.runs)
            found["accuracy"].append(result["test"]["accuracy"])
            found["loss"].append(result["test"]["loss"])
            found["parameters"] = result["parameters"]["total"]
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        record = {"rows": rows, "symbols": base.task.symbols, "steps": base.train.steps, **surroundings()}
        figure = draw_truncation(rows, 1 / base.task.symbols)
        for kind in ("svg", "png"):
            save(figure, target / f"truncation.{kind}")
        write_json(target / "results.json", record)
    print(f"{as_table(rows)}\nfigure and results.json: {target}")
    return 0


def kinds(distances: list[int], pieces: list[int]) -> list[tuple[str, int, int | None]]:
    """(family, distance, k): the whole gradient everywhere, and every k that is shorter than the sequence."""
    whole = [(family, distance, None) for distance in distances for family in FAMILIES]
    cut = [(family, distance, k) for distance in distances for family in TRUNCATED for k in pieces if k <= distance]
    return whole + cut


def row(family: str, distance: int, bptt: int | None) -> dict[str, Any]:
    """What results.json says of one kind of run, before any."""
    return {"family": family, "distance": distance, "bptt": bptt, "accuracy": [], "loss": []}


def run(base: Config, kind: dict[str, Any], seed: int, runs: Path) -> dict[str, Any]:
    """The result of one run, trained or read."""
    config = replace(
        base,
        model=model_of(kind["family"], base.model),
        task=replace(base.task, distance=kind["distance"], bptt=kind["bptt"]),
        train=replace(base.train, seed=seed),
    )
    name = f"{kind['family']}-{kind['distance']}-{kind['bptt'] or 'whole'}-seed{seed}"
    folder = runs / named_run_id(name, config)
    result = train(config, folder, quiet=True, wandb_mode="disabled")
    print(f"{name:<28} accuracy {result['test']['accuracy']:.3f}  loss {result['test']['loss']:.3f}", flush=True)
    return result


def model_of(family: str, like: ModelConfig) -> ModelConfig:
    """One layer of the same width."""
    if family == "transformer":
        return Transformer(d_model=like.d_model, n_layers=1, n_heads=4)
    return replace(like, family=family)


def as_table(rows: list[dict[str, Any]]) -> str:
    """Test accuracy, mean and range over seeds, models by distances, as Markdown."""
    distances = sorted({row["distance"] for row in rows})
    lines = [
        "| gradient | " + " | ".join(f"D = {distance}" for distance in distances) + " |",
        "|---" * (1 + len(distances)) + "|",
    ]
    for family, bptt in dict.fromkeys((row["family"], row["bptt"]) for row in rows):
        found = {row["distance"]: row["accuracy"] for row in rows if (row["family"], row["bptt"]) == (family, bptt)}
        cells = [show(found[distance]) if distance in found else "-" for distance in distances]
        lines.append(f"| {family}, {'whole' if bptt is None else f'k = {bptt}'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_words(rows: list[dict[str, Any]]) -> str:
    """The mean of each kind by distance, a line for each gradient: for the docstring."""
    lines = []
    for family, bptt in dict.fromkeys((row["family"], row["bptt"]) for row in rows):
        found = [row for row in rows if (row["family"], row["bptt"]) == (family, bptt)]
        means = [f"D = {row['distance']}: {sum(row['accuracy']) / len(row['accuracy']):.2f}" for row in found]
        lines.append(f"    {family + ', ' + ('whole' if bptt is None else f'k = {bptt}'):<20} " + "   ".join(means))
    return "\n".join(lines)


def show(accuracy: list[float]) -> str:
    """0.67 (0.13 to 1.00): mean, and lowest and highest."""
    return f"{sum(accuracy) / len(accuracy):.2f} ({min(accuracy):.2f} to {max(accuracy):.2f})"


if __name__ == "__main__":
    sys.exit(guarded(main))
