"""Learning curves of LSTMs and Transformers by size, and L(N, S) through their points (Kaplan et al. 2020, figure 4).

    python experiments/learning_curves.py                # about 4 minutes on two CPU cores; stop and start it at will
    python experiments/learning_curves.py --dry-run

The learning rate is constant after its warmup, so that every point of a curve is what a run that ends there would
have, but for the decay that it lacks. The law is fitted to the points from a tenth of the run on; points of one run
are resampled together.
`--record` keeps the results in experiments/results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import constants, run

from seqjax.comparison.figures import draw_learning_curves
from seqjax.host.guard import guarded
from seqjax.laws import fit, make_points
from seqjax.laws.points import at_best_rates
from seqjax.laws.summary import describe
from seqjax.runs import read_curve


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit L(N, S) to the curves of each family."""
    best = at_best_rates(table)
    found: dict[str, Any] = {}
    curves = {}
    for family, runs in best.groupby("model.family"):
        rows = []
        for _, row in runs.iterrows():
            points = read_curve(folder / row["run_id"])
            curves[row["run_id"]] = [p["tokens"] for p in points], [p["validation_loss"] for p in points]
            late = [p for p in points if p["step"] >= 0.1 * row["train.steps"]]
            rows += [(row["params_non_embedding"], p["step"], p["validation_loss"], row["run_id"]) for p in late]
        params, steps, losses, of_run = zip(*rows, strict=True)
        law = fit(make_points(losses, cluster=of_run, params=params, steps=steps), "kaplan-ns")
        print(f"== {family}\n{describe(law)}\n")
        found[family] = constants(law)
    return found, {"curves": draw_learning_curves(best, curves)}


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("learning_curves", "learning-curves", __doc__, analyse)))
