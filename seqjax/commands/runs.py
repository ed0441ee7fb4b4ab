"""`seqjax runs`: one table of all runs in sweep folders."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from seqjax.commands.parsing import add_parser as shared_parser
from seqjax.commands.parsing import no_more
from seqjax.errors import UserError
from seqjax.host.disk import write_bytes_atomically
from seqjax.host.optional import need, need_parquet
from seqjax.host.streams import is_terminal, tell_error, tell_note
from seqjax.host.wording import counted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared_parser(
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
    no_more(rest)
    from seqjax.laws.run_columns import SHORT
    from seqjax.sweeps.columns import COLUMNS

    if options.columns == "":
        width = max(map(len, COLUMNS))
        print("\n".join(f"{name:<{width}}  {meaning}" for name, meaning in COLUMNS.items()))
        print(f"{'section.field':<{width}}  every field of the config, such as model.d_model: see seqjax train --help")
        print("\n".join(f"{short:<{width}}  short for {name}" for short, name in SHORT.items()))
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
    rows, columns, reasons, content = _read(options, form)
    if halved := sum(row["halved_from"] is not None for row in rows):
        tell_note(
            f"{counted(halved, 'run')} of bundles that died, trained in other programs than planned: losses "
            "differ in the last digits (column halved_from)"
        )
    _tell_incomparable(rows, options.sort)
    content = content or _text(options, rows, columns)
    if options.output:
        try:
            write_bytes_atomically(options.output, content)
        except OSError as error:
            raise UserError(f"command line: --output {options.output}: {error.strerror}") from None
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    for reason in reasons:
        tell_error(reason)
    return 2 if reasons else 0


def _tell_incomparable(rows: list[dict[str, Any]], sort: str | None) -> None:
    """A note if the rows are in the order of losses that cannot be compared."""
    from seqjax.sweeps.columns import LOSSES, incomparable

    if sort in LOSSES and (differ := incomparable([row for row in rows if row[sort] is not None], sort)):
        tell_note(f"in the order of {sort}, which cannot be compared: several {', '.join(differ)}")


def _read(options: argparse.Namespace, form: str) -> tuple[list[dict[str, Any]], list[str], list[str], bytes | None]:
    """The rows in their order; the columns of --columns; why runs are damaged; the table as CSV or parquet, if asked.

    Rows whose columns are in the files of the runs are read without JAX.
    """
    from seqjax.sweeps.overview import sweep_folders

    in_them = [sweep_folders(place) or [place] for place in options.places]
    folders = [folder for several in in_them for folder in several]
    named = [name for name in (options.columns or "").split(",") if name]
    if form == "table" and (quick := _from_files(folders, named, options)) is not None:
        return *quick, [], None
    from seqjax.sweeps.selected import chosen, column_of
    from seqjax.sweeps.table import gather, render

    whole = gather(folders)
    found = chosen(whole, options.where, options.best, options.sort)
    columns = [column_of(found, "columns", name) for name in named]
    reasons = list(whole.loc[whole["status"] == "damaged", "reason"])
    content = None if form == "table" else render(found[columns] if columns else found, form)
    return found.astype(object).where(found.notna(), None).to_dict("records"), columns, reasons, content


def _from_files(
    folders: list[Path], named: list[str], options: argparse.Namespace
) -> tuple[list[Any], list[str]] | None:
    """The rows and columns from the files of the runs, with pandas for ``--where`` alone; None if that is not enough.

    It is not for mistakes: the whole table finds and tells them.
    """
    from seqjax.laws.run_columns import SHORT
    from seqjax.sweeps.columns import COLUMNS, SHOWN, at_best_rates, by_column, listed

    columns, sort = (
        [name if name in COLUMNS else SHORT.get(name, name) for name in names]
        for names in (named, [options.sort] if options.sort else [])
    )
    rows = listed(folders, [*(columns or SHOWN), *sort], alike=options.best)
    if rows and options.where is not None:
        from seqjax.sweeps.selected import kept

        rows = kept(rows, options.where)
    if rows and options.best:
        rows = at_best_rates(rows)
    if not rows:
        return None
    return (by_column(rows, *sort) if sort else rows), columns


def _text(options: argparse.Namespace, rows: list[dict[str, Any]], columns: list[str]) -> bytes:
    """The table as text: these columns, else those that fit."""
    from seqjax.sweeps.columns import as_text, by_size, columns_text

    if columns:
        return (columns_text(rows, columns) + "\n").encode()
    width = math.inf if options.output is not None else 80
    if options.output is None and is_terminal(sys.stdout):
        width = max(80, shutil.get_terminal_size().columns)
    text, out = as_text(rows if options.sort else by_size(rows), width)
    if out and is_terminal(sys.stdout):
        tell_note(f"{', '.join(out)} left out to fit; --columns, csv and --output have all")
    return (text + "\n").encode()
