"""The instrument itself: copies at log-uniform distances, where the best possible loss at every position is known.

    python experiments/copies.py                         # about a minute on two CPU cores
    python experiments/copies.py --record                # and keep the numbers and the figure

A Transformer, a small and a larger LSTM, and a GRU learn to copy symbols over 1, 2, 4, ... 32 units of three tokens
(seqjax.data.copies). Windows begin with a unit here, so that the floor is exact. Expected, mean loss on the last 16
copies of a window (2.08: knowing nothing):

    floor 0.000   Transformer of 64 0.001   LSTM of 16 2.08   LSTM of 128 1.55   GRU of 128 1.36

The Transformer follows the floor all the way down; the others' loss stops falling after a few units.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import results, run
from matplotlib.figure import Figure

import seqjax
from seqjax.data.copies import UNIT, Copies
from seqjax.host.folders import cache_folder
from seqjax.host.guard import guarded
from seqjax.plots.labels import LABELS, looks_of_named
from seqjax.plots.style import figure, log_axis, styled

PROCESS = Copies(symbols=8, distances=6)
HELD_OUT = 1024  # windows


def main() -> int:
    """Make the corpus, train the sweep on it, measure."""
    corpus = PROCESS.write(cache_folder() / "copies", 1_200_000)
    sys.argv += ["--data.corpus", str(corpus)]
    return run("copies", "copies", __doc__, analyse)


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loss of each model on copies, beside the floor."""
    results(table, folder)  # all have finished
    floor = PROCESS.copies_of(PROCESS.floor(int(table["train.context_length"].iloc[0])))
    found = {}
    for run_id, family, width in table[["run_id", "model.family", "model.d_model"]].itertuples(index=False):
        name = f"{LABELS[family]}, 1 layer of {width}"
        found[name] = PROCESS.copies_of(losses(folder / run_id))
        late = found[name][-16:].mean()
        print(f"{name:<28} copies, last 16 units: {late:.3f} nats (floor {floor[-16:].mean():.3f})", flush=True)
    record = {
        "steps": int(table["train.steps"].iloc[0]),
        "floor": floor.tolist(),
        "copies": {name: loss.tolist() for name, loss in found.items()},
    }
    return record, {"copies": draw_copies(found, floor, np.log(PROCESS.symbols))}


def losses(folder: Path) -> np.ndarray:
    """Mean loss at each position of fresh windows that begin with a unit, [T]."""
    run_ = seqjax.open(folder)
    context = run_.config.train.context_length
    units = context // UNIT + 1
    windows = [run_.tokenizer.encode(PROCESS.text(units, seed=10**6 + i).encode()) for i in range(HELD_OUT)]
    batch_WxT1 = np.stack(windows)[:, : context + 1].astype(np.int32)
    pieces = [run_.token_losses(batch_BxT1) for batch_BxT1 in batch_WxT1.reshape(-1, 64, context + 1)]
    return np.concatenate(pieces).mean(axis=0)


@styled
def draw_copies(found: Mapping[str, np.ndarray], floor: np.ndarray, chance: float) -> Figure:
    """Loss on copies against the unit of the window, with the lowest possible loss and the loss by chance."""
    made, axes = figure(6.4, 4.2)
    ax = axes[0, 0]
    unit = np.arange(1, len(floor) + 1)
    ax.plot(unit, floor, color="black", lw=2.2, label="the best possible")
    ax.axhline(chance, color="#888888", lw=0.9, ls=":", label="knowing nothing")
    for name, look in looks_of_named(found).items():
        ax.plot(unit, found[name], color=look.colour, ls=look.dash, lw=1.4, label=name)
    log_axis(ax, "x", 0.9, len(floor) * 1.1, plain=True)
    ax.set_ylim(-0.05 * chance, 1.45 * chance)
    ax.set_xlabel("units of three tokens since the window began")
    ax.set_ylabel("loss on copies (nats)")
    ax.set_title("copies over 1, 2, 4, ... units: loss falls as far as a model remembers")
    ax.legend(loc="upper right", ncols=2)
    return made


if __name__ == "__main__":
    sys.exit(guarded(main))
