"""The critical batch by loss: how far a larger batch saves steps, for an LSTM and a Transformer of one size.

    python experiments/batch_size.py --dry-run           # the plan and its time; stop and start it at will
    python experiments/batch_size.py                     # for a GPU: one program for the rates and seeds of a batch
    python experiments/batch_size.py --record

Batches of 4 to 256 windows of 128 tokens, 2x apart, each with five constant learning rates and two seeds. A run's steps
to a loss are read off its held-out curve; of each batch and loss the rate with the fewest counts. Through the steps to
each loss goes (S / S_min - 1) (E / E_min - 1) = 1 (McCandlish et al. 2018), and through B_crit = E_min / S_min the law
B_crit = B* / L^(1 / alpha_B) (Kaplan et al. 2020). Losses are those that every batch of a family reaches.

Beside it stands the gradient-noise scale, tr(Sigma) / |G|^2, from the norms of the training gradients around that step:
their squares fall with the batch as |G|^2 + tr(Sigma) / B. A line of metrics.jsonl has the mean norm of 20 steps, whose
square is a little below the mean square. The runs of a loss have different rates, so their gradients may differ by more
than their batch. `--record` keeps the results in experiments/results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import run

from seqjax.errors import UserError
from seqjax.host.guard import guarded
from seqjax.laws.batches import critical, over_losses, steps_to
from seqjax.plots.batches import draw_critical_batches
from seqjax.runs import read_curve, read_metrics

BATCH, RATE, SEED = "train.batch_size", "optimizer.learning_rate", "train.seed"
LOSSES = 6  # for each family
FIRST = 3  # the held-out point of a curve from which on losses are compared
AROUND = 1.25  # gradients count from step S / 1.25 to 1.25 S


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The critical batch and the noise scale of each family at each loss, and their laws."""
    found = {}
    for kind, runs in table[table["status"] == "finished"].groupby("kind"):
        found[kind] = one = of_family(runs, folder)
        for row in one["losses"]:
            noise = row["noise_scale"]
            print(f"{kind}, loss {row['loss']:.3f}: S_min {row['steps']:.3g}, E_min {row['tokens']:.3g}, B_crit "
                  f"{row['batch']:.3g} ({row['low']:.3g} to {row['high']:.3g}) tokens; gradient noise "
                  f"{noise['batch']:.3g} ({noise['low']:.3g} to {noise['high']:.3g})")  # fmt: skip
        if law := one["law"]:
            print(f"{kind}: B_crit = {law['b_star']:.3g} / L^{law['exponent']:.2f} "
                  f"({law['low']:.2f} to {law['high']:.2f}) tokens; Kaplan et al.: 2.1e8 / L^4.76")  # fmt: skip
    return {"families": found}, {"critical-batch": draw_critical_batches(found)}


def of_family(runs: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Losses, the steps of each batch to them, critical batches, noise scales, and the law over the losses.

    Raises:
        UserError: there is no loss that every batch reaches.
    """
    curves = {name: [(p["step"], p["validation_loss"]) for p in read_curve(folder / name)] for name in runs["run_id"]}
    runs = runs[[len(curves[name]) > FIRST for name in runs["run_id"]]].reset_index(drop=True)
    ends = runs.assign(least=[min(loss for _, loss in curves[name]) for name in runs["run_id"]])
    begins = [sorted(curves[name])[FIRST][1] for name in runs["run_id"]]
    low = ends.groupby([BATCH, RATE])["least"].max().groupby(BATCH).min().max()
    high = ends.assign(first=begins).groupby(BATCH)["first"].min().min()
    if not low < high:
        raise UserError(f"{folder}: no loss is reached by every batch after {FIRST} evaluations; train for longer")
    wanted = np.geomspace(high, low * (1 + 1e-9), LOSSES)
    steps_RxL = np.stack([steps_to(*zip(*curves[name], strict=True), wanted) for name in runs["run_id"]])
    tokens_R = runs[BATCH].to_numpy(float) * runs["train.context_length"].to_numpy(float)
    at_L = []
    for place, loss in enumerate(wanted):
        chosen, edge = fewest(runs, steps_RxL[:, place])
        noise = critical(tokens_R[chosen], [squared_norm(folder / runs["run_id"].iloc[i], steps_RxL[i, place])
                                            for i in chosen])  # fmt: skip
        one = critical(tokens_R[chosen], steps_RxL[chosen, place])
        points = [
            dict(zip(("batch", "steps", "rate", "seed"), map(float, row), strict=True))
            for row in zip(tokens_R[chosen], steps_RxL[chosen, place], *runs.iloc[chosen][[RATE, SEED]].T.to_numpy(),
                           strict=True)
        ]  # fmt: skip
        at_L.append((float(loss), one, noise, points, edge))
    rows = [
        {"loss": loss, "steps": one.least, "tokens": one.least_tokens, "batch": one.batch, "low": one.interval[0],
         "high": one.interval[1], "rates_at_an_edge": edge, "runs": points,
         "noise_scale": {"batch": noise.batch, "low": noise.interval[0], "high": noise.interval[1]}}
        for loss, one, noise, points, edge in at_L
    ]  # fmt: skip
    law = over_losses([loss for loss, *_ in at_L], [one for _, one, *_ in at_L])
    low_p, high_p = (-end for end in law.interval[::-1])
    return {
        "params_non_embedding": int(runs["params_non_embedding"].iloc[0]),
        "losses": rows,
        "law": {"b_star": law.scale, "exponent": -law.exponent, "low": low_p, "high": high_p},
    }


def fewest(runs: pd.DataFrame, steps_R: np.ndarray) -> tuple[list[int], list[float]]:
    """Places of the runs at the rate of each batch whose seeds need the fewest steps on average, and the batches whose
    best rate is at an edge of those tried."""
    found, edge = [], []
    at = pd.DataFrame({"steps": np.log(steps_R), BATCH: runs[BATCH].to_numpy(), RATE: runs[RATE].to_numpy()})
    for batch, here in at.groupby(BATCH):
        means = here.groupby(RATE)["steps"].agg(lambda steps: steps.mean(skipna=False)).dropna()
        if means.empty:
            continue
        best = means.idxmin()
        found += list(here.index[here[RATE] == best])
        if len(rates := np.unique(here[RATE])) > 1 and best in (rates[0], rates[-1]):
            edge.append(float(batch))
    return found, edge


def squared_norm(run: Path, step: float) -> float:
    """Mean of |g|^2 over the lines of metrics.jsonl around a step; of the nearest line if there is none."""
    lines = [(line["step"], line["grad_norm"]) for line in read_metrics(run) if line.get("grad_norm") is not None]
    near = [norm for at, norm in lines if step / AROUND <= at <= step * AROUND]
    near = near or [min(lines, key=lambda line: abs(line[0] - step))[1]]
    return float(np.mean(np.square(near)))


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("batch_size", "batch-size", __doc__, analyse)))
