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

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import surroundings, writable

import seqjax
from seqjax.comparison.figures import draw_copies
from seqjax.config import Config, DataConfig, EvaluationConfig, OptimizerConfig, TrainConfig
from seqjax.config.plain import whole
from seqjax.data.copies import UNIT, Copies
from seqjax.families import GRU, LSTM, Transformer
from seqjax.host.disk import write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.plots.style import save
from seqjax.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "copies"
PROCESS = Copies(symbols=8, distances=6)
CONTEXT, HELD_OUT = 192, 1024  # tokens; windows
MODELS = {
    "Transformer, 1 layer of 64": Transformer(d_model=64, n_layers=1, n_heads=4, positions="rotary"),
    "LSTM, 1 layer of 16": LSTM(d_model=16, n_layers=1),
    "LSTM, 1 layer of 128": LSTM(d_model=128, n_layers=1),
    "GRU, 1 layer of 128": GRU(d_model=128, n_layers=1),
}


@pinned()
def main() -> int:
    """Train each model, measure its loss on copies, draw it over the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole(), default=600, help="of training, of 16 windows each [600]")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / "copies", help="for the figure")
    parser.add_argument("--record", action="store_true", help=f"write to {RESULTS.relative_to(ROOT)} instead")
    options = parser.parse_args()
    target = writable(RESULTS if options.record else options.report)
    floor = PROCESS.copies_of(PROCESS.floor(CONTEXT))
    found = {}
    with tempfile.TemporaryDirectory() as place:
        corpus = PROCESS.write(Path(place) / "corpus", 1_200_000)
        for name, model in MODELS.items():
            config = config_of(model, corpus, options.steps)
            train(config, Path(place) / name, devices=1, wandb_mode="disabled", quiet=True)
            found[name] = PROCESS.copies_of(losses(Path(place) / name))
            late = found[name][-16:].mean()
            print(f"{name:<28} copies, last 16 units: {late:.3f} nats (floor {floor[-16:].mean():.3f})", flush=True)
    target.mkdir(parents=True, exist_ok=True)
    figure = draw_copies(found, floor, np.log(PROCESS.symbols))
    for kind in ("svg", "png"):
        save(figure, target / f"copies.{kind}")
    write_json(target / "results.json", as_record(found, floor, options.steps))
    print(f"figure and results.json: {target}")
    return 0


def config_of(model: Any, corpus: Path, steps: int) -> Config:
    """As many tokens, steps and warmup for every model; Transformers have a smaller learning rate."""
    rate = 3e-3 if isinstance(model, Transformer) else 1e-2
    return Config(
        model=model,
        data=DataConfig(corpus=str(corpus), tokenizer="chars"),
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=30),
        train=TrainConfig(steps=steps, batch_size=16, context_length=CONTEXT),
        evaluation=EvaluationConfig(every=steps, windows=64, final_windows=64),
    )


def losses(folder: Path) -> np.ndarray:
    """Mean loss at each position of fresh windows that begin with a unit, [T]."""
    run = seqjax.open(folder)
    units = CONTEXT // UNIT + 1
    windows = [run.tokenizer.encode(PROCESS.text(units, seed=10**6 + i).encode()) for i in range(HELD_OUT)]
    batch_WxT1 = np.stack(windows)[:, : CONTEXT + 1].astype(np.int32)
    pieces = [run.token_losses(batch_BxT1) for batch_BxT1 in batch_WxT1.reshape(-1, 64, CONTEXT + 1)]
    return np.concatenate(pieces).mean(axis=0)


def as_record(found: dict[str, np.ndarray], floor: np.ndarray, steps: int) -> dict[str, Any]:
    """For results.json."""
    return {
        "steps": steps,
        "floor": floor.tolist(),
        "copies": {name: loss.tolist() for name, loss in found.items()},
        **surroundings(),
    }


if __name__ == "__main__":
    sys.exit(guarded(main))
