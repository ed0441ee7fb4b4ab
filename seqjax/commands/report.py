"""`seqjax report`: fits a scaling law and writes one self-contained HTML page of it."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import fitting, tables
from seqjax.commands import options as shared
from seqjax.errors import UserError, printable
from seqjax.host.streams import fitted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "report",
        """
        seqjax report runs/first --html laws.html
        seqjax report runs/first --law kaplan-n --by family --html laws.html
        seqjax report table.csv --law chinchilla --params 'Model Size' --flops 'Training FLOP' --html points.html
        """,
    )
    parser.add_argument("--html", type=Path, metavar="FILE", required=True, help="where to write the page")
    parser.add_argument("--title", help="of the page [the name of the table]")
    fitting.add_law(parser)
    tables.add_options(parser)
    fitting.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Read, fit, write the page."""
    shared.no_more(rest)
    tables.check(options)
    if options.html.suffix not in (".html", ".htm"):
        raise UserError(f"--html {options.html}: expected a name that ends in .html")
    from seqjax.host.disk import check_place, storage_errors, write_atomically

    check_place(options.html)
    fits = dict(fitting.each(options))
    if not fits:
        return tables.exit_code(options)
    from seqjax.laws.summary import sentence
    from seqjax.plots.fit_page import fit_page

    title = options.title or f"Scaling law of {', '.join(place.name for place in options.places)}"
    page = fit_page(fits, printable(title), printable(shlex.join(["seqjax", *sys.argv[1:]])), options.by)
    with storage_errors(options.html):
        write_atomically(options.html, page)
    for group, found in fits.items():
        print(fitted(sentence(found, group), sys.stdout))
    print(f"wrote {options.html}", file=sys.stderr)
    return tables.exit_code(options)
