"""`seqjax optimal`: the best split of a compute budget between parameters and tokens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import number
from seqjax.host.wording import si


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "optimal",
        """
        seqjax optimal fit.json --flops 1e21
        seqjax optimal fit.json --flops 1e18 1e19 1e20
        """,
    )
    parser.add_argument("fit", type=Path, metavar="FIT.json", help="written by seqjax fit --json")
    shared.add_law(parser)
    parser.add_argument(
        "--flops", type=number(above=0), nargs="+", required=True, metavar="C", help="budgets, C = 6 N D"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print a table with a row per budget, for each fit in the file."""
    shared.no_more(rest)
    import numpy as np

    from seqjax.laws.files import read_fits
    from seqjax.laws.summary import other_flops, too_narrow

    for group, fit in read_fits(options.fit, options.law, options.trust_code, options.group).items():
        found = fit.optimal(options.flops)
        if np.isnan(found.params).any():
            print(f"{group + ': ' if group else ''}the law falls for ever towards one side of N / D: no best split")
            continue
        counted = fit.points.conventions.get("params", "as given")
        print(f"{group + ': ' if group else ''}{fit.law.equation}; C = 6 N D, N: {counted}; 95 % intervals")
        if doubt := too_narrow(fit):
            print(f"  {doubt}")
        if remark := other_flops(fit.points):
            print(f"  C = 6 N D{remark}")
        print(f"  {'C':>10}{'N':>11}{'':<23}{'D':>11}{'':<23}{'D/N':>10}{'loss':>9}")
        for row in range(len(found.flops)):
            n, d = found.params[row], found.tokens[row]
            (n_low, n_high), (d_low, d_high) = found.params_interval[row], found.tokens_interval[row]
            print(
                f"  {si(found.flops[row]).strip():>10}{si(n).strip():>11}{_range(n_low, n_high):<23}"
                f"{si(d).strip():>11}{_range(d_low, d_high):<23}{d / n:>10.3g}{found.loss[row]:>9.4f}"
            )
        measured = fit.points.variables["params"] * fit.points.variables["tokens"] * 6.0
        if np.max(found.flops) > measured.max():
            print(f"  beyond {si(measured.max())}FLOP, the largest measured, this is extrapolated")
        if np.min(found.flops) < measured.min():
            print(f"  below {si(measured.min())}FLOP, the smallest measured, this is extrapolated")
    return 0


def _range(low: float, high: float) -> str:
    return f" ({si(low).strip()} to {si(high).strip()})" if low == low else ""
