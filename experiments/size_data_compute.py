"""L(N), L(D) and L(C) of LSTMs and Transformers with their fits: Kaplan et al. 2020, figure 1, for two families.

    python experiments/size_data_compute.py              # about 15 minutes of one CPU core; stop and start it at will
    python experiments/size_data_compute.py --dry-run
    python experiments/size_data_compute.py --record     # and keep the numbers and the figure

One sweep (configs/sweeps/size-data.yaml): four sizes of 3.5 k to 50 k parameters by four horizons of 0.25 to 2 M bytes,
at least three learning rates for each, and a second seed at the best. The horizons of a size, rate and seed share one
trunk. Each byte is seen once. L(N) is taken at the longest horizon, L(D) at the largest size, L(C) on the runs that no
other of the family beats with as little compute. Runs this small are far from convergence: the exponents describe this
range and no other. No exponent is expected to be the paper's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import at_an_edge, constants, exponent, run, runs_at_best

from seqjax.families import in_order, label_of
from seqjax.host.guard import guarded
from seqjax.laws import fit, read_points
from seqjax.laws.fitting import Fit
from seqjax.laws.ratios import crossing, frontier
from seqjax.laws.run_rows import RATE, at_best_rates
from seqjax.laws.summary import describe
from seqjax.plots.scaling import draw_laws

N, D = "params_non_embedding", "tokens"
LAWS = {"L(C)": "kaplan-c", "L(D)": "kaplan-d", "L(N)": "kaplan-n"}
TITLES = {"L(C)": "L(C): the best for the compute", "L(D)": "L(D): the largest size", "L(N)": "L(N): the longest runs"}


def analyse(table: pd.DataFrame, _folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit the three laws for each family; say where they cross."""
    best = at_best_rates(table)
    kinds = in_order(best["kind"])
    fits: dict[str, dict[str, Fit]] = {name: {} for name in LAWS}
    every = {}
    for seed, kind in enumerate(kinds):  # families are resampled independently
        runs = best[best["kind"] == kind]
        every[kind] = read_points(runs, {"flops": "exact", "params": "non-embedding"}, ("tokens",), unique=False)
        points = {
            "L(C)": frontier(every[kind]),
            "L(D)": read_points(runs[runs[N] > 0.9 * runs[N].max()]),
            "L(N)": read_points(runs[runs[D] > 0.9 * runs[D].max()], {"params": "non-embedding"}),
        }
        for name, law in LAWS.items():
            fits[name][kind] = fit(points[name], law, objective="least-squares", seed=seed)  # points are few
    found: dict[str, Any] = {}
    for name, by_kind in fits.items():
        for kind, of_kind in by_kind.items():
            print(f"== {name} {label_of(kind)}\n{describe(of_kind)}\n")
        found[name] = {kind: constants(of_kind) for kind, of_kind in by_kind.items()}
        if len(kinds) == 2:
            found[name]["crossing"] = crossing(*by_kind.values(), tuple(map(label_of, kinds))).verdict
            print(f"== {name}: {found[name]['crossing']}\n")
    text = as_table(found, kinds)
    print(text)
    found["at_best"], found["rates"] = runs_at_best(best), sorted(map(float, table[RATE].unique()))
    found["edge"] = at_an_edge(table)
    print(found["edge"])
    return found, {"exponents.md": text, "laws": draw_laws({TITLES[name]: fits[name] for name in LAWS}, every)}


def as_table(found: dict[str, Any], kinds: list[str]) -> str:
    """The exponents with their intervals, a row a law, as Markdown."""
    lines = [f"| | {' | '.join(map(label_of, kinds))} |", "|---" * (1 + len(kinds)) + "|"]
    for law, title in TITLES.items():
        cells = [exponent(found[law][kind], f"alpha_{law[2]}") for kind in kinds]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("size_data_compute", "size-data", __doc__, analyse)))
