"""`seqjax fit`: fits a scaling law to a table of runs, with intervals and reasons to doubt it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import fitting, tables
from seqjax.commands import options as shared
from seqjax.host.streams import fitted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "fit",
        """
        seqjax fit runs/isoflop
        seqjax fit runs/first --law kaplan-n --by family --plot laws.png
        seqjax fit table.csv --law chinchilla --params 'Model Size' --flops 'Training FLOP' --loss loss \\
            --drop-highest 5 --json fit.json
        seqjax fit runs/first --law offset-c --flops exact --where '`model.n_layers` > 1' --checklist
        seqjax fit runs/isoflop --law chinchilla --fix E=1.9 --tie beta=alpha --errors nats --objective least-squares
        seqjax fit runs/first --law my_law.py:knee --json fit.json
        seqjax fit --laws
        """,
    )
    fitting.add_law(parser)
    parser.add_argument("--laws", action="store_true", help="list the laws")
    tables.add_options(parser)
    fitting.add_options(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE", help="write the fit(s): for seqjax predict and optimal")
    out.add_argument("--plot", type=Path, metavar="FILE", help="draw points, law and residuals (png, svg, pdf)")
    out.add_argument("--checklist", action="store_true", help="print the checklist of Li et al. 2025 with answers")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Read, fit, print, write."""
    shared.no_more(rest)
    from seqjax.laws.forms import LAWS

    if options.laws:
        width = max(map(len, LAWS))
        print("\n".join(f"{law.name:<{width}}  {law.equation}\n{'':<{width}}  {law.source}" for law in LAWS.values()))
        return 0
    tables.check(options)
    if options.json is not None:
        from seqjax.host.disk import check_place

        check_place(options.json)
    if options.plot is not None:
        from seqjax.plots.fits import check_name

        check_name(options.plot)
    from seqjax.laws.files import write_fits
    from seqjax.laws.summary import checklist, describe

    fits = {}
    for group, found in fitting.each(options):
        fits[group] = found
        if group:
            print(f"== {options.by} {group}")
        print(fitted(describe(found), sys.stdout))
        if options.checklist:
            print(f"\n{checklist(found)}")
        print(flush=True)
    if not fits:
        return tables.exit_code(options)
    if options.json:
        write_fits(options.json, fits)
        print(f"wrote {options.json}", file=sys.stderr)
    if options.plot:
        from seqjax.plots.fits import draw_fits

        shared.write_figure(draw_fits(fits, by=options.by), options.plot)
    return tables.exit_code(options)
