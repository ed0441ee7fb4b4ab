"""Learning curves of LSTMs and Transformers by size, and L(N, S) through their points (Kaplan et al. 2020, figure 4).

    python experiments/learning_curves.py                # trains what experiments/size_data_compute.py trains
    python experiments/learning_curves.py --record       # and keep the numbers and the figure

The curves are those of the longest runs of configs/sweeps/size-data.yaml, from a tenth of the run to where the decay
of the learning rate begins. There the rate is constant after its warmup, so that every point is what a run that ends
there would have, but for the decay that it lacks. The figure shows the shorter runs, which end with their decay, beside
them. Points of one run, of a size and seed, are resampled together. Nothing is trained where the sweep has ended.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import constants, exponent, run

from seqjax.families import in_order, label_of
from seqjax.host.guard import guarded
from seqjax.laws import fit, make_points
from seqjax.laws.run_rows import at_best_rates
from seqjax.laws.summary import describe
from seqjax.plots.scaling import Curves, draw_learning_law
from seqjax.runs import read_curve

EARLIEST = 0.1  # share of a run before which its points are not fitted


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit L(N, S) to the curves of each family."""
    best = at_best_rates(table)
    families = {kind: curves_of(best[best["kind"] == kind], folder) for kind in in_order(best["kind"])}
    for kind, curves in families.items():
        print(f"== {label_of(kind)}\n{describe(curves.law)}\n")
    found = {kind: constants(curves.law) for kind, curves in families.items()}
    text = as_table(found)
    print(text)
    return found, {"exponents.md": text, "curves": draw_learning_law(families)}


def as_table(found: dict[str, Any]) -> str:
    """The exponents of L = (N_c / N)^alpha_N + (S_c / S)^alpha_S with their intervals, as Markdown."""
    lines = ["| | alpha_N | alpha_S |", "|---|---|---|"]
    for kind, law in found.items():
        lines.append(f"| {label_of(kind)} | {exponent(law, 'alpha_N')} | {exponent(law, 'alpha_S')} |")
    return "\n".join(lines) + "\n"


def curves_of(runs: pd.DataFrame, folder: Path) -> Curves:
    """The curves of a family's longest runs at a constant rate, their mean over seeds, and the law through all points.

    Points of one run are a cluster of the law.
    """
    steps, parts = "train.steps", []
    for run_index, (_, row) in enumerate(runs[runs[steps] == runs[steps].max()].iterrows()):
        last = (1 - row["optimizer.decay_fraction"]) * row[steps]
        points = [(p["step"], p["validation_loss"]) for p in read_curve(folder / row["run_id"])]
        kept = [point for point in points if EARLIEST * row[steps] <= point[0] <= last]
        parts.append(
            pd.DataFrame(kept, columns=["step", "loss"]).assign(params=row["params_non_embedding"], run=run_index)
        )
    curves = pd.concat(parts).astype(float)
    law = fit(
        make_points(
            curves["loss"],
            cluster=curves["run"].to_numpy(),
            params=curves["params"].to_numpy(),
            steps=curves["step"].to_numpy(),
        ),
        "kaplan-ns",
    )
    ended = runs.astype({steps: float, "loss": float}).rename(columns={"params_non_embedding": "params", steps: "step"})
    return Curves(_means(curves), _means(ended), law)


def _means(points: pd.DataFrame) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Of each size the steps, and the mean loss of its seeds."""
    means = points.groupby(["params", "step"])["loss"].mean().reset_index()
    return {
        int(size): (rows["step"].to_numpy(float), rows["loss"].to_numpy(float))
        for size, rows in means.groupby("params")
    }


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("learning_curves", "size-data", __doc__, analyse)))
