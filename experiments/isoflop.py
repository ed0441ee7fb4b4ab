"""IsoFLOP profiles of LSTMs and Transformers, and the best size of each (Hoffmann et al. 2022, approach 2).

    python experiments/isoflop.py                        # about 10 minutes of one CPU core; stop and start it at will
    python experiments/isoflop.py --dry-run
    python experiments/isoflop.py --record               # and keep the numbers and the figures

Four budgets of FLOPs (exact count) over a factor of 30, five sizes each, at least three learning rates for each; the
tokens follow (configs/sweeps/isoflop-families.yaml). Parabolas through the losses of one budget give the best size, and
a line through those N ~ C^a.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import run, runs_at_best

from seqjax.errors import UserError
from seqjax.host.guard import guarded
from seqjax.laws import read_points
from seqjax.laws.isoflop import isoflops
from seqjax.laws.points import at_best_rates
from seqjax.plots.fits import draw_isoflops


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Profiles and exponents of each family; a family without minima is told and left out."""
    best = at_best_rates(table)
    found: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for family, runs in best.groupby("model.family"):
        points = read_points(runs, {"params": "non-embedding", "flops": "exact"}, ("params", "tokens", "flops"))
        try:
            profiles = isoflops(points)
        except UserError as error:
            print(f"{family}: {error}")
            found[family] = {"problem": str(error)}
            continue
        ends = [x if np.isfinite(x) else None for x in profiles.params.interval]
        found[family] = {
            "a": profiles.params.exponent,
            "interval": ends,
            "akima": profiles.akima_exponent,
            "best": [
                {"flops": p.flops, "params": p.best_params, "loss": p.best_loss}
                for p in profiles.profiles
                if not p.problem
            ],
            "flags": list(profiles.flags),
        }
        low, high = profiles.params.interval
        print(f"{family}: N ~ C^{profiles.params.exponent:.2f} ({low:.2f} to {high:.2f}); " + "; ".join(profiles.flags))
        figures[family] = draw_isoflops(profiles, "non-embedding")
    return found | {"runs": runs_at_best(best)}, figures


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("isoflop", "isoflop-families", __doc__, analyse)))
