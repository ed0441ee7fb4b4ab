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

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from common import results, run

import seqjax
from seqjax.config import Config
from seqjax.data import window_batch
from seqjax.host.guard import guarded
from seqjax.host.wording import with_error
from seqjax.laws.intervals import t_interval
from seqjax.plots.gradients import draw_gradient_norms
from seqjax.training.gradients import by_distance, elman_bound, elman_mean_slope, gradient_norms

WINDOWS, ROWS = 16, 4  # of held-out text; of them in one program
TOLD = (8, 32)  # distances of the table, beside distance 1


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The gradients of each family."""
    families = {str(name): measure(own, folder) for name, own in table.groupby("model.family", sort=False)}
    print(as_table(families))
    first = table.iloc[0]
    sizes = {"steps": first["train.steps"], "context": first["train.context_length"], "width": first["model.d_model"]}
    found = {"families": families, **{name: int(size) for name, size in sizes.items()}, "windows": WINDOWS}
    return found, {"gradients": draw_gradient_norms(families)}


def measure(table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Norms by distance of every seed of a family, before and after training, with the held-out loss."""
    losses = [result["validation"]["loss"] for result in results(table, folder)]
    found: dict[str, Any] = {"initial": {}, "trained": {}, "loss": losses}
    opened = [seqjax.open(folder / run_id) for run_id in table["run_id"]]
    config, text = opened[0].config, opened[0].data
    tokens, context = text.shard("validation").tokens, config.train.context_length
    windows = np.stack([window_batch(tokens, 0, i, ROWS, context) for i in range(WINDOWS // ROWS)])
    norms_of = jax.jit(partial(gradient_norms, config.model))
    is_elman = config.model.family == "elman"
    if is_elman:
        found |= {"bound": {"initial": [], "trained": []}, "mean_slope": []}
    for run_ in opened:
        stages = {"initial": run_.initial_params(), "trained": run_.params}
        for stage, params in stages.items():
            pieces = [norms_of(params, jnp.asarray(rows)) for rows in windows]
            for array in pieces[0]:
                mean_T = by_distance(np.concatenate([piece[array] for piece in pieces], axis=-1))
                found[stage].setdefault(array, []).append([float(f"{value:.4g}") for value in mean_T])
            if is_elman:
                found["bound"][stage].append(elman_bound(params))
        if is_elman:
            found["mean_slope"].append(mean_slope(config, stages["initial"], windows[0]))
        print(f"{config.model.family} seed {run_.config.train.seed}: measured", flush=True)
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
    sys.exit(guarded(lambda: run("gradients", "gradients", __doc__, analyse)))
