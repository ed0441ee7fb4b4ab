"""`seqjax runs`: one table of all runs in sweep folders."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.errors import UserError
from seqjax.host.disk import write_bytes_atomically
from seqjax.host.optional import need, need_parquet
from seqjax.host.streams import is_terminal


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "runs",
        """
        seqjax runs runs/first
        seqjax runs runs --best --sort loss --where 'family == "lstm"' --columns label,tokens,loss
        seqjax runs runs/first runs/second --format csv --output runs.csv
        seqjax runs runs/first earlier.parquet --format parquet --output all.parquet
        seqjax runs --columns
        """,
    )
    parser.add_argument("places", type=Path, nargs="*", metavar="DIR|TABLE", help="sweep or run folders, saved tables")
    parser.add_argument("--format", choices=("table", "csv", "parquet"), help="[by the name of --output, else table]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="[standard output]")
    parser.add_argument(
        "--best", action="store_true", help="only finished runs at the best learning rate of their model"
    )
    parser.add_argument("--where", metavar="EXPRESSION", help="only the rows for which it is true")
    parser.add_argument("--sort", metavar="COLUMN", help="rising in this column [family, size, tokens, loss]")
    parser.add_argument(
        "--columns", nargs="?", const="", metavar="A,B", help="only these; without names: print what each column means"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Gather, and print or write."""
    shared.no_more(rest)
    from seqjax.sweeps import table
    from seqjax.sweeps.overview import sweep_folders
    from seqjax.sweeps.rows import chosen, column_of, columns_text

    if options.columns == "":
        width = max(map(len, table.COLUMNS))
        print("\n".join(f"{name:<{width}}  {meaning}" for name, meaning in table.COLUMNS.items()))
        print(f"{'section.field':<{width}}  every field of the config, such as model.d_model: see seqjax train --help")
        return 0
    if not options.places:
        raise UserError("command line: expected at least one DIR, such as runs/first")
    form = options.format or (options.output.suffix[1:] if options.output else "table")
    if form not in ("table", "csv", "parquet"):
        raise UserError(f"command line: --output {options.output}: say --format csv, parquet or table")
    if form == "parquet" and options.output is None and sys.stdout.isatty():
        raise UserError("command line: --format parquet is not for a terminal; name a file with --output")
    need_parquet(options.places)
    if form == "parquet":
        need("pyarrow", "--format parquet")
    in_them = [sweep_folders(place) or [place] for place in options.places]
    found = table.gather(folder for folders in in_them for folder in folders)
    whole, found = found, chosen(found, options.where, options.best, options.sort)
    columns = [column_of(found, "columns", name) for name in (options.columns or "").split(",") if name]
    if halved := int(found["halved_from"].notna().sum()):
        print(
            f"note: {halved} run(s) of bundles that died were trained in other programs than planned: their losses "
            "differ in the last digits (column halved_from)",
            file=sys.stderr,
        )
    if form != "table":
        content = table.render(found[columns] if columns else found, form)
    elif columns:
        content = (columns_text(found, columns) + "\n").encode()
    else:
        rows = found.to_dict("records")
        width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else 80
        wide = options.output is not None
        text, out = table.as_text(rows if options.sort else table.by_size(rows), math.inf if wide else max(80, width))
        content = (text + "\n").encode()
        if out and is_terminal(sys.stdout):
            print(f"note: {', '.join(out)} left out to fit; --columns, csv and --output have all", file=sys.stderr)
    if options.output:
        try:
            write_bytes_atomically(options.output, content)
        except OSError as error:
            raise UserError(f"command line: --output {options.output}: {error.strerror}") from None
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    return _tell_damaged(whole)


def _tell_damaged(found: Any) -> int:
    """Print a line for each run with a damaged file; return 2 if there is one, else 0."""
    reasons = found.loc[found["status"] == "damaged", "reason"]
    for reason in reasons:
        print(f"error: {reason}", file=sys.stderr)
    return 2 if len(reasons) else 0
