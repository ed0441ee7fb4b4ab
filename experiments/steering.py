"""Steering from video: does it help to see more frames, and do models that see past steering beat repeating it?

    python experiments/steering.py                               # the drawn road
    python experiments/steering.py --data driving road --record  # and the recording, and keep numbers and figure
    python experiments/steering.py --data path/to/log            # a simulator's log folder
    python experiments/steering.py --grid.data.fold "[0, 1, 2, 3, 4]"    # every block is tested once

Convolutions over each frame, then stacked frames, Elman, LSTM, GRU or Transformer; 3 seeds on one fold of blocks of
time. About five minutes of one free core for each set (estimated from single runs). Expected, ratios of mean squared
errors with 95 % intervals:

    simulator, 16 frames over one:
        stacked 1.03 (0.83 to 1.26), Elman 0.96 (0.89 to 1.05), LSTM 0.95 (0.83 to 1.06), GRU 0.91 (0.77 to
        1.01), Transformer 0.99 (0.98 to 1.01)
    simulator, past steering over repeating it:
        LSTM 0.83 (0.69 to 1.06), Transformer 0.90 (0.79 to 1.07)
    drawn road, 16 frames over one:
        stacked 0.76 (0.43 to 1.26), Elman 0.45 (0.29 to 0.70), LSTM 0.39 (0.27 to 0.62), GRU 0.52 (0.33 to
        0.92), Transformer 0.62 (0.49 to 0.79)
    drawn road, past steering over repeating it:
        LSTM 0.67 (0.33 to 1.39), Transformer 0.99 (0.79 to 1.37)

Where frames before must help, on the drawn road, they do, with gains that end after 4 to 8; on the simulator
no gain is clear of chance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import results, run

from seqjax.data.blocks import block_edges
from seqjax.data.driving import Drive
from seqjax.errors import UserError
from seqjax.host.folders import expanded
from seqjax.host.guard import guarded
from seqjax.plots.steering import draw_steering
from seqjax.runs import read_config
from seqjax.tasks.block_errors import draw_blocks, draw_seeds, interval, log_errors, sum_by_block
from seqjax.tasks.steering import Config, load, parts_of

FRAMES = (1, 2, 4, 8, 16)
NAMES = {"elman": "Elman", "lstm": "LSTM", "gru": "GRU", "transformer": "Transformer"}
Found = dict[str, dict[str, Any]]


def main() -> int:
    """Train every variant on every fold with every seed, pool the held-out frames, draw."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", nargs="+")
    options, sys.argv[1:] = parser.parse_known_args()
    if options.data:
        labels(options.data)  # a mistake is told before anything is trained
        sys.argv += ["--grid.data.source", json.dumps(options.data)]
    return run("steering", "steering", __doc__, analyse_all)


def analyse_all(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The errors on every drive."""
    called, found = labels(table["data.source"].unique().tolist()), {}
    for source, own in table.groupby("data.source", sort=False):
        configs = [read_config(folder / run_id) for run_id in own["run_id"]]
        rows = [
            {"variant": variant_of(config), "seed": config.train.seed, "fold": config.data.fold, "result": result}
            for config, result in zip(configs, results(own, folder), strict=True)
        ]
        of_source = found[called[str(source)]] = analyse(configs[0], load(configs[0]), rows)
        print(f"\n{called[str(source)]}: {floors_as_text(of_source)}\n{as_text(of_source)}")
        print(f"last column over one frame: {gains_as_text(of_source)}")
        print(f"with past steering, over repeating it: {past_as_text(of_source)}")
    return {"data": found}, {"steering": draw_steering(found)}


def variant_of(config: Config) -> str:
    """What a run is called: its family, or how many frames are stacked."""
    if config.task.stacked:
        return f"stacked {config.task.frames}"
    return NAMES[config.model.family] + (" + past steering" if config.task.past_steering else "")


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
    return {
        "frames": len(drive.steer_T), "judged": len(targets_N), "blocks": int((count_B > 0).sum()),
        "folds": len(first), "seeds": 1 + max(r["seed"] for r in results), "parameters": parameters,
        "whole": {"mean": float(drive.steer_T.var()), "persistence": float((np.diff(drive.steer_T) ** 2).mean())},
        **_intervals(sums, count_B),
    }  # fmt: skip


def _training_mean(config: Config, drive: Drive, fold: int, n_targets: int) -> np.ndarray:
    train = parts_of(replace(config.data, fold=fold), drive).train
    return np.full(n_targets, np.concatenate([drive.steer_T[a:b] for a, b in train]).mean(dtype=float))


def _pooled(of_variant: list[dict[str, Any]], place: int) -> np.ndarray:
    """What was predicted for the targets of all folds, after the ``place``-th number of frames: SxN."""
    seeds = sorted({r["seed"] for r in of_variant})
    by_seed = [[r["result"]["test"]["predicted"][place] for r in of_variant if r["seed"] == s] for s in seeds]
    return np.stack([np.concatenate(folds) for folds in by_seed])


def _intervals(sums: dict[tuple[str, int], np.ndarray], count_B: np.ndarray) -> dict[str, Any]:
    """Errors with intervals and by seed; ratios to one frame of the same kind, and of past steering to repeating it.

    A recurrent variant is read after each number of frames, so that its seeds are drawn together.
    """
    blocks_RxB, variants = draw_blocks(count_B), list(dict.fromkeys(name for name, _ in sums))
    drawn = {
        (name, k): log_errors(
            sums_SxB, count_B, blocks_RxB,
            draw_seeds(len(sums_SxB), seed=1 + variants.index(name)) if len(sums_SxB) > 1 else None,
        )
        for (name, k), sums_SxB in sums.items()
    }  # fmt: skip
    errors: dict[str, dict[str, Any]] = {}
    for (name, k), value in sums.items():
        kind = "stacked" if name.startswith("stacked") else name
        one = next((e for (n, j), e in drawn.items() if j == 1 and n.split()[0] == name.split()[0]
                    and ("+" in n) == ("+" in name)), None)  # fmt: skip
        entry: dict[str, Any] = {"mse": interval(drawn[name, k])._asdict()}
        entry["by_seed"] = (value.sum(axis=1) / count_B.sum()).tolist()
        if one is not None:
            entry["ratio_to_one_frame"] = interval(drawn[name, k] - one)._asdict()
        if k:
            entry["ratio_to_mean"] = interval(drawn[name, k] - drawn["mean", 0])._asdict()
            entry["ratio_to_persistence"] = interval(drawn[name, k] - drawn["persistence", 0])._asdict()
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
