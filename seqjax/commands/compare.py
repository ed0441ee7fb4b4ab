"""`seqjax compare`: compares families by laws of one variable: ratio at matched loss, and crossing."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import fitting, tables
from seqjax.commands import options as shared
from seqjax.config.plain import number
from seqjax.errors import UserError
from seqjax.host.streams import fitted
from seqjax.host.wording import readable


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "compare",
        """
        seqjax compare runs/first --law kaplan-n --by family
        seqjax compare runs/first --law offset-c --flops exact --frontier --by family --plot families.png
        seqjax compare runs/depth --law kaplan-n --by layers --ratio ratio.png
        """,
    )
    tables.add_options(parser)
    parser.add_argument(
        "--law",
        default="kaplan-n",
        help="a law of one variable: kaplan-n, offset-n ... or FILE.py:LAW of your own [kaplan-n]",
    )
    fitting.add_options(parser)
    parser.add_argument(
        "--losses",
        type=number(above=0),
        nargs="+",
        metavar="L",
        help="compare at these losses, nats [over the range that both reach]",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw points, laws and the crossing (png, svg, pdf)")
    parser.add_argument("--ratio", type=Path, metavar="FILE", help="draw the ratio at matched loss")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Fit each group, then compare each pair."""
    shared.no_more(rest)
    tables.check(options)
    options.by = options.by or tables.family_column(options)[0]
    from seqjax.laws.fits import fit
    from seqjax.laws.law import LETTERS
    from seqjax.laws.ratios import crossing, matched_ratio
    from seqjax.laws.summary import describe
    from seqjax.plots.fits import check_name, draw_fits, draw_ratio

    for path in (options.plot, options.ratio):
        if path is not None:
            check_name(path)
    law = fitting.law_of(options)
    groups = tables.points_by_group(options, law.variables, compared=True)
    if len(groups) < 2:
        raise UserError(f"--by {options.by}: there is one group only, {', '.join(groups)}; two are needed")
    if (options.plot or options.ratio) and len(groups) > 2:
        raise UserError(f"command line: figures are of two groups; --by {options.by} makes {len(groups)}: use --where")
    fits = {}
    for place, (group, points) in enumerate(groups.items()):  # the noise of families is independent
        with tables.apart(options, group):
            fits[group] = fit(points, law, seed=options.seed + place, **fitting.how(options))
            print(fitted(f"== {options.by} {group}\n{describe(fits[group])}\n", sys.stdout), flush=True)
    for a, b in itertools.combinations(fits, 2):
        found = crossing(fits[a], fits[b], (a, b))
        print(fitted(f"== {a} against {b}\n{found.verdict}", sys.stdout))
        if options.plot:
            shared.write_figure(draw_fits(fits, found, by=options.by), options.plot)
        try:
            ratio = matched_ratio(fits[a], fits[b], options.losses)
        except UserError as error:
            print(fitted(f"no ratio at matched loss: {error}", sys.stdout))
            continue
        _print_ratio(ratio, f"{LETTERS[law.variables[0]]} of {a} / {b}", len(options.losses or range(5)))
        if options.ratio:
            shared.write_figure(draw_ratio(ratio, (a, b), law.variables[0]), options.ratio)
    return tables.exit_code(options)


def _print_ratio(ratio: Any, name: str, rows_shown: int) -> None:
    import numpy as np

    sure = bool(np.isfinite(ratio.low).any())
    print(f"  {'loss':>8}  {name:>24}" + "  95 %" * sure)
    rows = np.argsort(-ratio.loss, kind="stable")
    for row in rows[np.linspace(0, len(rows) - 1, min(len(rows), rows_shown)).round().astype(int)]:
        times = "not reached" if np.isnan(ratio.ratio[row]) else readable(ratio.ratio[row], 3)
        beyond = "" if ratio.within[row] else "  (extrapolated)"
        print(
            f"  {ratio.loss[row]:>8.4f}  {times:>24}"
            + f"  {readable(ratio.low[row], 3)} to {readable(ratio.high[row], 3)}" * sure
            + beyond
        )
