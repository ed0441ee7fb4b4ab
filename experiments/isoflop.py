"""IsoFLOP profiles of LSTMs and Transformers, and the best size of each (Hoffmann et al. 2022, approach 2).

    python experiments/isoflop.py                # about 15 minutes of one CPU core; stop and start it at will
    python experiments/isoflop.py --dry-run
    python experiments/isoflop.py --record       # and keep the numbers and the figures

Four budgets of FLOPs (exact count) over a factor of 30, five sizes around the expected best of each, at least three
learning rates for each; the tokens follow (configs/sweeps/isoflop-families.yaml). Parabolas through the losses of one
budget give the best size, and a line through those N ~ C^a.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import run, runs_at_best

from seqjax.errors import UserError
from seqjax.families import label_of, parts_of
from seqjax.host.guard import guarded
from seqjax.host.wording import power
from seqjax.laws import read_points
from seqjax.laws.isoflop import IsoFlops, isoflops
from seqjax.laws.run_rows import at_best_rates
from seqjax.plots.fits import draw_isoflops
from seqjax.plots.style import amount


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Profiles and exponents of each family; a family without minima is told and left out."""
    best = at_best_rates(table)
    found: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for kind, runs in best.groupby("kind"):
        points = read_points(runs, {"params": "non-embedding", "flops": "exact"}, ("params", "tokens", "flops"))
        try:
            profiles = isoflops(points)
        except UserError as error:
            print(f"{label_of(kind)}: {error}")
            found[kind] = {"problem": str(error)}
            continue
        found[kind] = in_numbers(profiles)
        print(f"{label_of(kind)}: {in_words(found[kind])}; " + "; ".join(profiles.flags))
        figures[parts_of(kind)[0]] = draw_isoflops(profiles, "non-embedding")
    figures["minima.md"] = as_table(found)
    return found | {"at_best": runs_at_best(best)}, figures


def as_table(found: dict[str, Any]) -> str:
    """N ~ C^a, and the best size at each budget that has one, as Markdown."""
    lines = ["| | | compute-optimal N |", "|---|---|---|"]
    for kind, of_kind in found.items():
        best = "; ".join(f"{amount(row['params'])} at {power(row['flops'])} FLOPs" for row in of_kind.get("best", ()))
        lines.append(f"| {label_of(kind)} | {in_words(of_kind) if best else 'no minima'} | {best} |")
    return "\n".join(lines) + "\n"


def in_numbers(profiles: IsoFlops) -> dict[str, Any]:
    """What results.json keeps of a family: N ~ C^a, and the minima of its parabolas."""
    minima = [
        {"flops": p.flops, "params": p.best_params, "tokens": p.best_tokens, "loss": p.best_loss}
        for p in profiles.profiles
        if not p.problem
    ]
    return {
        "a": profiles.params.exponent,
        "interval": [x if np.isfinite(x) else None for x in profiles.params.interval],
        "akima": profiles.akima_exponent,
        "best": minima,
        "flags": list(profiles.flags),
    }


def in_words(found: dict[str, Any]) -> str:
    """N ~ C^0.61 (0.52 to 0.70), the interval where it is known."""
    sure = " ({:.2f} to {:.2f})".format(*found["interval"]) if None not in found["interval"] else ""
    return f"N ~ C^{found['a']:.2f}{sure}"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("isoflop", "isoflop-families", __doc__, analyse)))
