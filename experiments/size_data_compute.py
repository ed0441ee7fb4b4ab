"""L(N), L(D) and L(C) of LSTMs and Transformers with their fits: Kaplan et al. 2020, figure 1, for two families.

    python experiments/size_data_compute.py              # about 6 minutes on two CPU cores; stop and start it at will
    python experiments/size_data_compute.py --dry-run

One sweep, four sizes by four budgets of tokens, three learning rates each. L(N) is taken at the largest budget, L(D)
at the largest size, each token seen once; L(C) on the runs that no other beats with as little compute. Runs this small
are far from convergence: the exponents describe this range and no other. No exponent is
expected to be the paper's. `--record` keeps the results in experiments/results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import constants, run

from seqjax.host.guard import guarded
from seqjax.laws import fit, read_points
from seqjax.laws.points import at_best_rates
from seqjax.laws.ratios import crossing, frontier
from seqjax.laws.summary import describe
from seqjax.plots.fits import draw_fits

N, D = "params_non_embedding", "tokens"


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit the three laws for each family; say where they cross."""
    best = at_best_rates(table)
    fits: dict[str, dict[str, Any]] = {"L(N)": {}, "L(D)": {}, "L(C)": {}}
    for seed, (family, runs) in enumerate(best.groupby("model.family")):  # families are resampled independently
        most = runs[runs[D] > 0.9 * runs[D].max()]
        largest = runs[runs[N] > 0.9 * runs[N].max()]
        fits["L(N)"][family] = fit(read_points(most, {"params": "non-embedding"}), "kaplan-n", seed=seed)
        fits["L(D)"][family] = fit(read_points(largest), "kaplan-d", seed=seed)
        fits["L(C)"][family] = fit(frontier(read_points(runs, {"flops": "exact"}, unique=False)), "kaplan-c", seed=seed)
    found: dict[str, Any] = {}
    for name, by_family in fits.items():
        for family, of_family in by_family.items():
            print(f"== {name} {family}\n{describe(of_family)}\n")
        verdict = crossing(by_family["lstm"], by_family["transformer"], ("LSTM", "Transformer")).verdict
        print(f"== {name}: {verdict}\n")
        found[name] = {family: constants(f) for family, f in by_family.items()} | {"crossing": verdict}
    return found, {f"{name[2].lower()}-law": draw_fits(by_family) for name, by_family in fits.items()}


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("size_data_compute", "size-data", __doc__, analyse)))
