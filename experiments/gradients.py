"""Vanishing gradients: how much of the loss at step t reaches the state at step k, before and after training.

    python experiments/gradients.py                       # about 5 minutes on one CPU core
    python experiments/gradients.py --record              # and keep the numbers and the figure

Elman, LSTM, GRU and Transformer of width 64 are trained on the embedded corpus, bytes, contexts of 128, by three seeds.
The norm of d loss_t / d state_k is averaged over windows of held-out text and over all t with the same t - k, at
initialisation and at the end (seqjax.training.gradients says what the state is). Expected, the norm at distance 32
over that at distance 1, geometric mean over seeds:

    elman, h         initial 6.9e-07   trained 4.0e-12
    lstm, c          initial 2.1e-03   trained 1.9e-04
    lstm, h          initial 1.7e-03   trained 5.9e-05
    gru, h           initial 5.2e-06   trained 1.8e-07
    transformer, x   initial 5.1e-01   trained 3.4e-01
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import surroundings, writable

import seqjax
from seqjax.config import Config, EvaluationConfig, OptimizerConfig, TrainConfig
from seqjax.config import run_id as name_of
from seqjax.config.plain import whole
from seqjax.data import window_batch
from seqjax.families import FAMILIES, Transformer
from seqjax.host.disk import storage_errors, write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.host.wording import with_error
from seqjax.laws.intervals import t_interval
from seqjax.plots.gradients import draw_gradient_norms
from seqjax.plots.style import save
from seqjax.sweeps.worker import share_compilations
from seqjax.tasks.text import load
from seqjax.training.gradients import by_distance, elman_bound, elman_mean_slope, gradient_norms
from seqjax.training.loop import train_bundle

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "gradients"
MEASURED = ("elman", "lstm", "gru", "transformer")
ROWS = 4  # windows in one program
TOLD = (8, 32)  # distances of the table, beside distance 1


@pinned()
def main() -> int:
    """Train each family, measure its gradients before and after, draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole(), default=300, help="of training, of 16 windows each [300]")
    parser.add_argument("--seeds", type=whole(1), default=3, help="of each family [3]")
    parser.add_argument("--context", type=whole(), default=128, help="T, tokens of a window [128]")
    parser.add_argument("--width", type=whole(), default=64, help="D, of every model [64]")
    parser.add_argument("--windows", type=whole(), default=16, help="of held-out text [16]")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "gradients", help="for the run folders")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / "gradients", help="for the figure")
    parser.add_argument("--record", action="store_true", help=f"write to {RESULTS.relative_to(ROOT)} instead")
    options = parser.parse_args()
    target = writable(RESULTS if options.record else options.report)
    share_compilations()
    families = {family: measure(family, options) for family in MEASURED}
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        figure = draw_gradient_norms(families)
        for kind in ("svg", "png"):
            save(figure, target / f"gradients.{kind}")
        sizes = {name: getattr(options, name) for name in ("steps", "context", "width", "windows")}
        write_json(target / "results.json", {"families": families, **sizes, **surroundings()})
    print(f"{as_table(families)}\nfigure and results.json: {target}")
    return 0


def config_of(family: str, seed: int, options: argparse.Namespace) -> Config:
    """One layer of a recurrent family, two blocks of the Transformer; the same text and steps."""
    width = options.width
    model = (
        Transformer(d_model=width, n_layers=2, n_heads=4)
        if family == "transformer"
        else FAMILIES[family](d_model=width, n_layers=1)
    )
    return Config(
        model=model,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=options.steps // 10),
        train=TrainConfig(steps=options.steps, batch_size=16, context_length=options.context, seed=seed),
        evaluation=EvaluationConfig(every=options.steps, windows=64, final_windows=256),
    )


def measure(family: str, options: argparse.Namespace) -> dict[str, Any]:
    """Norms by distance of every seed, before and after training, with the held-out loss."""
    configs = [config_of(family, seed, options) for seed in range(options.seeds)]
    folders = [options.runs / name_of(config) for config in configs]
    results = train_bundle(list(zip(configs, folders, strict=True)), devices=1, wandb_mode="disabled", quiet=True)
    text = load(configs[0])
    shard = text.shard("validation")
    windows = np.stack(
        [window_batch(shard.tokens, 0, i, ROWS, options.context) for i in range(options.windows // ROWS)]
    )
    norms_of = jax.jit(partial(gradient_norms, configs[0].model))
    found: dict[str, Any] = {"initial": {}, "trained": {}, "loss": [result["validation"]["loss"] for result in results]}
    if family == "elman":
        found |= {"bound": {"initial": [], "trained": []}, "mean_slope": []}
    for config, folder in zip(configs, folders, strict=True):
        run = seqjax.open(folder, data=text)
        stages = {"initial": run.initial_params(), "trained": run.params}
        for stage, params in stages.items():
            pieces = [norms_of(params, jnp.asarray(rows)) for rows in windows]
            for array in pieces[0]:
                mean_T = by_distance(np.concatenate([piece[array] for piece in pieces], axis=-1))
                found[stage].setdefault(array, []).append([float(f"{value:.4g}") for value in mean_T])
            if family == "elman":
                found["bound"][stage].append(elman_bound(params))
        if family == "elman":
            found["mean_slope"].append(mean_slope(config, stages["initial"], windows[0]))
        print(f"{family} seed {config.train.seed}: measured", flush=True)
    return found


def mean_slope(config: Config, params: Any, batch_BxT1: np.ndarray) -> float:
    """The factor of a step back that the states of a network at initialisation foretell."""
    x_BxTxD = config.model.d_model**0.5 * params["embedding"][batch_BxT1[:, :-1]]
    return elman_mean_slope(config.model.run(params, x_BxTxD).h_BxTxH)


def remaining(norms_SxT: list[list[float]], distance: int) -> tuple[float, float, float]:
    """The norm at a distance over that at distance 1: geometric mean over seeds, and its 95 % interval."""
    logs = [np.log(max(norms_T[distance], 1e-45)) - np.log(norms_T[1]) for norms_T in norms_SxT]
    mean, half = t_interval(logs)
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))


def in_words(families: dict[str, Any]) -> str:
    """What remains at distance 32, a line for each state: for the docstring."""
    lines = [
        f"    {family + ', ' + array:<16} initial {remaining(found['initial'][array], 32)[0]:.1e}"
        f"   trained {remaining(found['trained'][array], 32)[0]:.1e}"
        for family, found in families.items()
        for array in found["initial"]
    ]
    return "\n".join(lines)


def as_table(families: dict[str, Any]) -> str:
    """What remains of the gradient, with 95 % intervals over seeds, as Markdown."""
    lines = [
        "| state | held-out nats/byte | " + " | ".join(f"at {d}, initial | at {d}, trained" for d in TOLD) + " |",
        "|---|---" + "|---" * (2 * len(TOLD)) + "|",
    ]
    for family, found in families.items():
        mean, half = t_interval(found["loss"])
        for array, norms_SxT in found["initial"].items():
            if max(TOLD) >= len(norms_SxT[0]):
                continue
            cells = [show(found[when][array], d) for d in TOLD for when in ("initial", "trained")]
            lines.append(f"| {family}, {array} | {with_error(mean, half, 3)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(norms_SxT: list[list[float]], distance: int) -> str:
    """1.2e-05 (8.0e-06 to 1.8e-05)."""
    mean, low, high = remaining(norms_SxT, distance)
    return f"{mean:.2g} ({low:.2g} to {high:.2g})"


if __name__ == "__main__":
    sys.exit(guarded(main))
