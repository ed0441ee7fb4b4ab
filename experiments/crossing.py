"""The map of two families: which leads at each size and number of tokens, and from how many tokens one overtakes.

    python experiments/crossing.py                       # see --dry-run for the time; stop and start it at will
    python experiments/crossing.py --dry-run

One sweep: an LSTM and a Transformer (rotary positions, RMSNorm, SwiGLU), two sizes, five horizons of 0.5 to 8 M tokens,
three seeds, one learning rate. Each horizon is a run of its own with its own schedule. A single-seed pilot at 100 k put
the crossing between 1 and 2 M tokens. The same analysis of any table: seqjax crossing TABLE --families A B.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import run

from seqjax.commands.crossing import budgets_of, compared
from seqjax.host.guard import guarded
from seqjax.laws.clusters import clusters_of
from seqjax.laws.crossing import Place, common_sizes, crossings, direct
from seqjax.laws.points import at_best_rates, read_points
from seqjax.laws.surfaces import fit_surface
from seqjax.plots.crossing import draw_map

FAMILIES = ("lstm", "transformer")  # the one that is overtaken first
COLUMNS = {"params": "non-embedding", "flops": "exact", "seconds": "seconds"}


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Surfaces, crossings over tokens, FLOPs and seconds, and the map."""
    best = at_best_rates(table)
    surfaces = []
    for seed, family in enumerate(FAMILIES):  # families are resampled independently
        runs = best[best["model.family"] == family]
        points = read_points(runs, COLUMNS, ("params", "tokens"), cluster=clusters_of(runs).rename("cluster"))
        surfaces.append(fit_surface(points, seed=seed))
    print("\n".join(compared(FAMILIES, tuple(surfaces))))
    a, b = (surface.points for surface in surfaces)
    sizes = [n for n, _, _ in common_sizes(a, b)]
    found: dict[str, Any] = {"surfaces": {f: s.constants for f, s in zip(FAMILIES, surfaces, strict=True)}}
    for budget in budgets_of(*surfaces):
        readings = {"law": crossings(*surfaces, FAMILIES, sizes, budget), "direct": direct(a, b, FAMILIES, budget)}
        found[budget] = {name: [_record(place) for place in places] for name, places in readings.items()}
    return found, {"map": draw_map(tuple(surfaces), FAMILIES, budgets_of(*surfaces))}


def _record(place: Place) -> dict[str, Any]:
    """A crossing for results.json; what is infinite or unknown is null, and the verdict says which."""
    values = {key: None if isinstance(x, float) and not np.isfinite(x) else x for key, x in asdict(place).items()}
    return values | {"beyond": place.beyond, "verdict": place.verdict}


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("crossing", "crossing", __doc__, analyse)))
