"""The critical batch by loss: how far a larger batch saves steps, for an LSTM and a Transformer of one size.

    python experiments/batch_size.py             # about 45 min of half a core; stop and start it at will
    python experiments/batch_size.py --dry-run   # the plan and its time
    python experiments/batch_size.py --record    # and keep the results in experiments/results/batch_size

25 k parameters, bytes, contexts of 64. Batches of 256 to 8,192 tokens, 2x apart. Each has four constant learning rates,
2x apart, that rise as B^0.4, and two seeds; the Transformer's are half the LSTM's (both from a pilot run). Its largest
batch has a fifth rate, since the lowest of four was the best. The steps of a run to a loss are read off its held-out
curve. Of each batch and loss the rate with the fewest steps counts. Through
the steps to each loss goes (S / S_min - 1) (E / E_min - 1) = 1 (McCandlish et al. 2018), and through
B_crit = E_min / S_min the law B_crit = B* / L^(1 / alpha_B) (Kaplan et al. 2020). Losses are those that every batch of
a family reaches. The figure shows Kaplan's own law for the same text: its token has 4.3 characters.

Beside it stands the gradient-noise scale, tr(Sigma) / |G|^2, from the norms of the training gradients around that step:
their squares fall with the batch as |G|^2 + tr(Sigma) / B. A line of metrics.jsonl has the mean norm of 5 steps, whose
square is a little below the mean square. The runs of a loss have different rates, so their gradients may differ by more
than their batch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import run

from seqjax.errors import UserError
from seqjax.families import label_of
from seqjax.host.guard import guarded
from seqjax.host.wording import power
from seqjax.laws.critical_batch import Critical, critical, over_losses, steps_to
from seqjax.laws.kaplan import critical_batch
from seqjax.plots.critical_batch import draw_critical_batches
from seqjax.runs import read_curve, read_metrics
from seqjax.trained.chains import KAPLAN_CHARACTERS

BATCH, RATE, SEED = "train.batch_size", "optimizer.learning_rate", "train.seed"
LOSSES = 6  # for each family
FIRST = 2  # the held-out point of a curve from which on losses are compared
AROUND = 1.25  # gradients count from step S / 1.25 to 1.25 S
LEAST = 3  # critical batches for a law over losses


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The critical batch and the noise scale of each family at each loss, and their laws."""
    found = {kind: of_family(runs, folder) for kind, runs in whole_rates(table).groupby("kind")}
    text = as_text(found)
    print(text)
    return {"families": found}, {"critical-batch": draw_critical_batches(found), "critical-batch.md": text}


def whole_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs at rates at which no seed of their family and batch diverged."""
    diverged = table["status"] == "diverged"
    lost = diverged.groupby([table["kind"], table[BATCH], table[RATE]]).transform("any")
    return table[(table["status"] == "finished") & ~lost]


def of_family(runs: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Losses, the steps of each batch to them, critical batches, noise scales, and the law over the losses.

    Raises:
        UserError: there is no loss that every batch reaches.
    """
    curves = {name: [(p["step"], p["validation_loss"]) for p in read_curve(folder / name)] for name in runs["run_id"]}
    runs = runs[[len(curves[name]) > FIRST for name in runs["run_id"]]].reset_index(drop=True)
    wanted = shared_losses(runs, [sorted(curves[name]) for name in runs["run_id"]], folder)
    steps_RxL = np.stack([steps_to(*zip(*curves[name], strict=True), wanted) for name in runs["run_id"]])
    token = float((runs["loss"] / runs["bits_per_byte"]).median() / np.log(2))  # bytes of a token
    pairs = [at_loss(runs, loss, steps_R, token, folder) for loss, steps_R in zip(wanted, steps_RxL.T, strict=True)]
    known = [(row["loss"], found) for row, found in pairs if None not in (row["batch"], row["low"], row["high"])]
    law = None
    if len(known) >= LEAST:
        fitted = over_losses(*zip(*known, strict=True))
        low, high = (-end for end in fitted.interval[::-1])
        law = {"b_star": fitted.scale, "exponent": -fitted.exponent, "low": low, "high": high}
    return {
        "params_non_embedding": int(runs["params_non_embedding"].iloc[0]),
        "losses": [row for row, _ in pairs],
        "law": law,
    }


def shared_losses(runs: pd.DataFrame, curves: list[list[tuple[int, float]]], folder: Path) -> np.ndarray:
    """Losses that every batch reaches with all seeds of a rate, and that no run reaches before its point `FIRST`.

    Raises:
        UserError: there is none.
    """
    ends = runs.assign(least=[min(loss for _, loss in curve) for curve in curves])
    low = ends.groupby([BATCH, RATE])["least"].max().groupby(BATCH).min().max()
    high = min(curve[FIRST][1] for curve in curves)
    if not low < high:
        raise UserError(f"{folder}: no loss is reached by every batch after {FIRST} evaluations; train for longer")
    return np.geomspace(high, low * (1 + 1e-9), LOSSES)


def at_loss(
    runs: pd.DataFrame, loss: float, steps_R: np.ndarray, token: float, folder: Path
) -> tuple[dict[str, Any], Critical]:
    """What is found at one loss, with its critical batch.

    ``inside``: B_crit lies between the smallest and the largest batch. ``misfit``: root mean square of log S beside the
    fit. ``kaplan``: B_crit by the law of Kaplan et al., whose token has 4.3 characters. None: not determined.
    """
    chosen, edges = fewest(runs, steps_R)
    tokens = runs[BATCH].to_numpy(float)[chosen] * runs["train.context_length"].to_numpy(float)[chosen]
    steps, seeds = steps_R[chosen], runs[SEED].to_numpy()[chosen]
    one = critical(tokens, steps)
    squares = [squared_norm(folder / runs["run_id"].iloc[i], steps_R[i]) for i in chosen]
    noise = critical(tokens, squares)
    by_seed = [critical(tokens[seeds == seed], steps[seeds == seed], bootstrap=0).batch for seed in np.unique(seeds)]
    columns = tokens, steps, runs[RATE].to_numpy()[chosen], seeds
    longer = KAPLAN_CHARACTERS / token
    return {
        "loss": float(loss),
        "steps": one.least,
        "tokens": one.least_tokens,
        **_with_interval(one),
        "by_seed": [_finite(batch) for batch in by_seed],
        "misfit": float(np.sqrt(np.mean(np.log(steps / (one.least + one.least_tokens / tokens)) ** 2))),
        "inside": bool(tokens.min() < one.batch < tokens.max()),
        "rates_at_an_edge": edges,
        "kaplan": float(critical_batch(loss * longer) * longer),
        "noise_scale": _with_interval(noise),
        "runs": [
            dict(zip(("batch", "steps", "rate", "seed"), map(float, row), strict=True))
            for row in zip(*columns, strict=True)
        ],
    }, one


def _with_interval(found: Critical) -> dict[str, float | None]:
    return {"batch": _finite(found.batch), "low": _finite(found.interval[0]), "high": _finite(found.interval[1])}


def _finite(value: float) -> float | None:
    """The value; None where the steps or gradients do not determine it."""
    return float(value) if np.isfinite(value) and 0 < value < 1e12 else None


def as_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown, and a line for the law of each family."""
    lines = ["| model | loss | S_min | E_min | B_crit, tokens | by seed | misfit of S | gradient noise, tokens "
             "| best rate at an edge, at |", "|---" * 9 + "|"]  # fmt: skip
    for kind, family in found.items():
        for row in family["losses"]:
            low, high = sorted({run["batch"] for run in row["runs"]})[:: len({run["batch"] for run in row["runs"]}) - 1]
            outside = "" if row["inside"] else f", outside of {low:,.0f} to {high:,.0f}"
            cells = (
                label_of(kind), f"{row['loss']:.2f}", f"{row['steps']:.0f}", f"{row['tokens']:,.0f}",
                _bracket(row) + outside, ", ".join(map(_number, row["by_seed"])), f"{row['misfit']:.1%}",
                _bracket(row["noise_scale"]), ", ".join(f"{batch:,.0f}" for batch in row["rates_at_an_edge"]) or "-",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for kind, family in found.items():
        if law := family["law"]:
            lines.append(f"{label_of(kind)}: B_crit = {power(law['b_star'], 2)} / L^{law['exponent']:.1f} "
                         f"({law['low']:.1f} to {law['high']:.1f}); Kaplan et al.: 4.8.")  # fmt: skip
        else:
            lines.append(f"{label_of(kind)}: fewer than {LEAST} critical batches are determined; no law.")
    return "\n".join(lines) + "\n"


def _bracket(row: Mapping[str, float | None]) -> str:
    return f"{_number(row['batch'])} ({_number(row['low'])} to {_number(row['high'])})"


def _number(value: float | None) -> str:
    """Three digits; a dash for what is not determined."""
    return "-" if value is None else f"{float(f'{value:.3g}'):,.0f}"


def fewest(runs: pd.DataFrame, steps_R: np.ndarray) -> tuple[list[int], list[float]]:
    """Places of the runs at the rate of each batch whose seeds need the fewest steps on average, and the batches
    (tokens) whose best rate is at an edge of those tried."""
    found, edge = [], []
    at = pd.DataFrame({"steps": np.log(steps_R), BATCH: runs[BATCH].to_numpy(), RATE: runs[RATE].to_numpy()})
    for batch, here in at.groupby(BATCH):
        means = here.groupby(RATE)["steps"].agg(lambda steps: steps.mean(skipna=False)).dropna()
        if means.empty:
            continue
        best = means.idxmin()
        found += list(here.index[here[RATE] == best])
        if len(rates := np.unique(here[RATE])) > 1 and best in (rates[0], rates[-1]):
            edge.append(float(batch) * float(runs["train.context_length"].iloc[0]))
    return found, edge


def squared_norm(run: Path, step: float) -> float:
    """Mean of |g|^2 over the lines of metrics.jsonl around a step; of the nearest line if there is none."""
    lines = [(line["step"], line["grad_norm"]) for line in read_metrics(run) if line.get("grad_norm") is not None]
    near = [norm for at, norm in lines if step / AROUND <= at <= step * AROUND]
    near = near or [min(lines, key=lambda line: abs(line[0] - step))[1]]
    return float(np.mean(np.square(near)))


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("batch_size", "batch-size", __doc__, analyse)))
