"""Steering from video: does it help to see more frames, and do models that see past steering beat repeating it?

    python experiments/steering.py                               # the drawn road
    python experiments/steering.py --data driving road --record  # and the recording, and keep numbers and figure
    python experiments/steering.py --data path/to/log            # a simulator's log folder

Convolutions over each frame, then stacked frames, Elman, LSTM, GRU or Transformer; 3 seeds on one fold of blocks of
time. About five minutes of one free core for each set (estimated from single runs). Expected, ratios of mean squared
errors with 95 % intervals:

    simulator, 16 frames over one:
        stacked 1.08 (0.95 to 1.22), Elman 0.96 (0.91 to 1.01), LSTM 0.95 (0.88 to 1.01), GRU 0.91 (0.82 to
        0.97), Transformer 0.99 (0.98 to 1.00)
    simulator, past steering over repeating it:
        LSTM 0.83 (0.74 to 0.96), Transformer 0.90 (0.83 to 1.01)
    drawn road, 16 frames over one:
        stacked 0.77 (0.60 to 0.98), Elman 0.45 (0.37 to 0.56), LSTM 0.39 (0.31 to 0.52), GRU 0.52 (0.39 to
        0.75), Transformer 0.64 (0.56 to 0.74)
    drawn road, past steering over repeating it:
        LSTM 0.67 (0.47 to 1.00), Transformer 0.99 (0.85 to 1.20)

Where frames before must help, on the drawn road, they do, with gains that end after 4 to 8; on the simulator hardly.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import surroundings, writable

from seqjax.commands.options import config_options, split_config_options
from seqjax.config import named_run_id
from seqjax.config.plain import whole
from seqjax.data.blocks import block_edges
from seqjax.data.driving import Drive
from seqjax.errors import UserError
from seqjax.host.disk import write_json
from seqjax.host.folders import expanded
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.plots.steering import draw_steering
from seqjax.plots.style import save
from seqjax.runs import read_result
from seqjax.runs.config_file import load_as
from seqjax.tasks.block_errors import Draws, draw, interval, mean_errors, sum_by_block
from seqjax.tasks.steering import Config, load, make_task, parts_of
from seqjax.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "steering"
CONFIG = ROOT / "configs" / "tasks" / "steering.yaml"
FRAMES = (1, 2, 4, 8, 16)
STACK = {"task.stacked": True, "train.batch_size": 64, "model.family": "window", "model.window": 1}
STACK |= {"model.d_model": 32, "model.d_ff": 256}
BACKBONES: dict[str, dict[str, Any]] = {
    "Elman": {"model.family": "elman", "model.d_hidden": 76},
    "LSTM": {"model.family": "lstm", "model.d_hidden": 32},
    "GRU": {"model.family": "gru", "model.d_hidden": 38},
    "Transformer": {"model.family": "transformer", "model.d_model": 32, "model.n_layers": 1, "model.d_ff": 64},
}
PAST = ("LSTM", "Transformer")
VARIANTS: dict[str, dict[str, Any]] = {f"stacked {k}": STACK | {"task.frames": k} for k in FRAMES} | BACKBONES
VARIANTS |= {f"{name} + past steering": BACKBONES[name] | {"task.past_steering": True} for name in PAST}
Found = dict[str, dict[str, Any]]


@pinned()
def main() -> int:
    """Train every variant on every fold with every seed, pool the held-out frames, draw."""
    words, overlaid = split_config_options(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["road"], help="road, driving, or log folders [road]")
    parser.add_argument("--seeds", type=whole(1), default=3, help="runs of each variant on each fold [3]")
    parser.add_argument("--folds", type=whole(1), default=1, help="how many of the folds are tested [1]")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="variants [all]")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "steering", help="for the run folders")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / "steering", help="for the figure")
    parser.add_argument("--record", action="store_true", help=f"write to {RESULTS.relative_to(ROOT)} instead")
    options = parser.parse_args(words)
    found, called = {}, labels(options.data)
    bases = {source: {**config_options(overlaid), "data.source": source} for source in options.data}
    drives = {source: load(load_as(Config, CONFIG, base)) for source, base in bases.items()}
    target = writable(RESULTS if options.record else options.report)
    for source, drive in drives.items():
        base = bases[source]
        results = train_all(base, drive, options)
        found[called[source]] = analyse(load_as(Config, CONFIG, base), drive, results)
    for name, of_source in found.items():
        print(f"\n{name}: {floors_as_text(of_source)}\n{as_text(of_source)}")
        print(f"last column over one frame: {gains_as_text(of_source)}")
        print(f"with past steering, over repeating it: {past_as_text(of_source)}")
    target.mkdir(parents=True, exist_ok=True)
    figure = draw_steering(found)
    for kind in ("svg", "png"):
        save(figure, target / f"steering.{kind}")
    write_json(target / "results.json", {"data": found, **surroundings()})
    print(f"figure and results.json: {target}")
    return 0


def labels(sources: Sequence[str]) -> dict[str, str]:
    """What each source is called: a log folder by as much of the end of its path as tells it from the others.

    Raises:
        UserError: a source named twice.
    """
    found = {source: name for source, name in (("road", "drawn road"), ("driving", "simulator")) if source in sources}
    paths = {source: expanded(source).resolve() for source in sources if source not in found}
    if len({*paths.values(), *found}) < len(sources):
        raise UserError(f"--data {' '.join(sources)}: the same drive is named twice")
    for length in range(1, max((len(path.parts) for path in paths.values()), default=0) + 1):
        named = {source: str(Path(*path.parts[-length:])) for source, path in paths.items()}
        if len({*named.values(), *found.values()}) == len(sources):
            break
    return found | (named if paths else {})


def train_all(base: dict[str, Any], drive: Drive, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run, in the order of the seeds: variant, seed, fold, and its result."""
    results = []
    for seed in range(options.seeds):
        for fold in range(options.folds):
            for name in options.only:
                own = {"train.seed": seed, "data.fold": fold}
                config = load_as(Config, CONFIG, {**VARIANTS[name], **base, **own})
                short = name.replace(" + past steering", "-past").replace(" ", "-")
                folder = options.runs / named_run_id(short, config)
                result = read_result(folder) or train_one(config, drive, folder)
                if result["status"] != "finished":
                    raise UserError(f"{folder}: the run {result['status']} at step {result['steps']}")
                results.append({"variant": name, "seed": seed, "fold": fold, "result": result})
                last = result["test"]["mse"][-1]
                print(f"{base['data.source']}  seed {seed}  fold {fold}  {name:<28} {last:.5f}", flush=True)
    return results


def train_one(config: Config, drive: Drive, folder: Path) -> dict[str, Any]:
    """Train a run, or go on with it: its result."""
    return train(config, folder, task=make_task(config, drive), quiet=True, wandb_mode="disabled")


def analyse(config: Config, drive: Drive, results: list[dict[str, Any]]) -> Found:
    """Errors of every variant and of the floors over the held-out frames of all folds, with intervals."""
    edges = block_edges(len(drive.steer_T), config.data.blocks)
    first = [r for r in results if r["variant"] == results[0]["variant"] and r["seed"] == 0]
    targets_N = np.concatenate([r["result"]["test"]["targets"] for r in first])
    steer_N = drive.steer_T[targets_N].astype(float)
    sums: dict[tuple[str, int], np.ndarray] = {}

    def add(key: tuple[str, int], predicted_SxN: np.ndarray) -> np.ndarray:
        errors_SxN = (np.atleast_2d(predicted_SxN) - steer_N) ** 2
        sums[key], count_B = sum_by_block(errors_SxN, targets_N, edges)
        return count_B

    means = [_training_mean(config, drive, r["fold"], len(r["result"]["test"]["targets"])) for r in first]
    count_B = add(("mean", 0), np.concatenate(means))
    add(("persistence", 0), drive.steer_T[targets_N - 1].astype(float))
    parameters = {}
    for name in dict.fromkeys(r["variant"] for r in results):
        of_variant = [r for r in results if r["variant"] == name]
        parameters[name] = of_variant[0]["result"]["parameters"]["total"]
        for place, k in enumerate(of_variant[0]["result"]["test"]["seen"]):
            add((name, k), _pooled(of_variant, place))
    draws = draw(count_B, 1 + max(r["seed"] for r in results))
    return {
        "frames": len(drive.steer_T), "judged": len(targets_N), "blocks": int((count_B > 0).sum()),
        "folds": len(first), "seeds": draws.seeds.shape[1], "parameters": parameters,
        "whole": {"mean": float(drive.steer_T.var()), "persistence": float((np.diff(drive.steer_T) ** 2).mean())},
        **_intervals(sums, count_B, draws),
    }  # fmt: skip


def _training_mean(config: Config, drive: Drive, fold: int, n_targets: int) -> np.ndarray:
    train = parts_of(replace(config.data, fold=fold), drive).train
    return np.full(n_targets, np.concatenate([drive.steer_T[a:b] for a, b in train]).mean(dtype=float))


def _pooled(of_variant: list[dict[str, Any]], place: int) -> np.ndarray:
    """What was predicted for the targets of all folds, after the ``place``-th number of frames: SxN."""
    seeds = sorted({r["seed"] for r in of_variant})
    by_seed = [[r["result"]["test"]["predicted"][place] for r in of_variant if r["seed"] == s] for s in seeds]
    return np.stack([np.concatenate(folds) for folds in by_seed])


def _intervals(sums: dict[tuple[str, int], np.ndarray], count_B: np.ndarray, draws: Draws) -> dict[str, Any]:
    """Errors with intervals and by seed; ratios to one frame of the same kind, and of past steering to repeating it."""
    drawn = {key: mean_errors(value, count_B, draws) for key, value in sums.items()}
    errors: dict[str, dict[str, Any]] = {}
    for (name, k), value in sums.items():
        kind = "stacked" if name.startswith("stacked") else name
        one = next((e for (n, j), e in drawn.items() if j == 1 and n.split()[0] == name.split()[0]
                    and ("+" in n) == ("+" in name)), None)  # fmt: skip
        entry: dict[str, Any] = {"mse": interval(drawn[name, k])._asdict()}
        entry["by_seed"] = (value.sum(axis=1) / count_B.sum()).tolist()
        if one is not None:
            entry["ratio_to_one_frame"] = interval(drawn[name, k] / one)._asdict()
        if k:
            entry["ratio_to_mean"] = interval(drawn[name, k] / drawn["mean", 0])._asdict()
            entry["ratio_to_persistence"] = interval(drawn[name, k] / drawn["persistence", 0])._asdict()
        errors.setdefault(kind, {})[str(k)] = entry
    return {"errors": errors}


def as_text(found: Found) -> str:
    """The table of README.md: errors with 95 % intervals, a row for each kind of model, a column for each k."""
    lines = ["| MSE after | " + " | ".join(f"{k} frame{'s' * (k > 1)}" for k in FRAMES) + " |"]
    lines.append("|---" * (len(FRAMES) + 1) + "|")
    for name, by_k in found["errors"].items():
        if name not in ("mean", "persistence"):
            lines.append(f"| {name} | " + " | ".join(_cell(by_k.get(str(k))) for k in FRAMES) + " |")
    return "\n".join(lines)


def _cell(entry: dict[str, Any] | None) -> str:
    return "" if entry is None else "{value:.3g} ({low:.3g} to {high:.3g})".format(**entry["mse"])


def floors_as_text(found: Found) -> str:
    """Predicting the mean and repeating the last value, on the judged frames, with intervals."""
    mean, persistence = (_cell(found["errors"][name]["0"]) for name in ("mean", "persistence"))
    return f"predicting the mean {mean}, repeating the last value {persistence}"


def gains_as_text(found: Found) -> str:
    """The error of most frames over that of one, a kind of model at a time; frames alone."""
    return _ratios(found, "ratio_to_one_frame", past=False)


def past_as_text(found: Found) -> str:
    """The error of models that see past steering over that of repeating it, after most frames."""
    return _ratios(found, "ratio_to_persistence", past=True)


def _ratios(found: Found, measure: str, past: bool) -> str:
    said = []
    for name, by_k in found["errors"].items():
        if name in ("mean", "persistence") or ("+" in name) != past:
            continue
        entry = by_k[max(by_k, key=int)].get(measure)
        if entry is not None:
            said.append("{name} {value:.2f} ({low:.2f} to {high:.2f})".format(name=name.split(" + ")[0], **entry))
    return ", ".join(said)


if __name__ == "__main__":
    sys.exit(guarded(main))
