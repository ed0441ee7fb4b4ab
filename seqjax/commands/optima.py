"""`seqjax optima`: the best learning rate, or batch, as a law of size and tokens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import whole
from seqjax.errors import UserError, did_you_mean
from seqjax.host.wording import numbers_by_size, readable, si


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "optima",
        """
        seqjax optima runs/rates
        seqjax optima runs/batches --of batch
        seqjax optima table.csv --of lr --params N --tokens D
        """,
    )
    parser.add_argument("places", type=Path, nargs="+", metavar="TABLE|DIR", help="CSV, parquet, or sweep folders")
    parser.add_argument("--of", default="rate", metavar="COLUMN", help="rate, batch, or a column [rate]")
    for name, column in (("params", "params_non_embedding or params"), ("tokens", "tokens"), ("loss", "loss")):
        parser.add_argument(f"--{name}", metavar="COLUMN", help=f"[{column}]")
    parser.add_argument("--by", metavar="COLUMN", help="separately for each value of it; all: together [family]")
    parser.add_argument("--where", metavar="EXPRESSION", help="keep the rows for which it is true")
    parser.add_argument("--bootstrap", type=whole(0), default=1000, metavar="R", help="refits for intervals [1000]")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of the noise of the refits [0]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Read, find the optima of each group, fit, print."""
    shared.no_more(rest)
    from seqjax.commands import tables
    from seqjax.laws.comparable import refuse_incomparable, several_contexts
    from seqjax.laws.optima import optima
    from seqjax.laws.run_columns import SEED, SHORT
    from seqjax.laws.run_rows import ended, has_status, is_run_table, keys_of, numbers_in, tried
    from seqjax.laws.selecting import select
    from seqjax.laws.variables import usual_column

    tables.apart_by_family(options)
    table, _ = tables.read_once(options)
    source = tables.source_of(options.places)
    table = table[select(table, options.where, source)[0]]
    n, d, loss = (
        _column(table, name, getattr(options, name) or usual_column(table, name) or name)
        for name in ("params", "tokens", "loss")
    )
    of = _column(table, "of", options.of if options.of in table.columns else SHORT.get(options.of, options.of))
    if is_run_table(table):
        table = ended(table)
    groups = [("", table)]
    if options.by not in (None, tables.TOGETHER):
        grouped = table.groupby(tables.label_column(table, "by", options.by))
        groups = sorted(grouped, key=lambda group: numbers_by_size(str(group[0])))
    for group, rows in groups:
        with tables.apart(options, str(group) if len(groups) > 1 else ""):
            refuse_incomparable(rows[~has_status(rows, "diverged")], loss, source)
            rows, values = tried(rows, (n, d, of, loss), source)
            models, seeds = keys_of(rows, _apart(rows, of)), numbers_in(rows, SEED)
            found = optima(*values.T, options.bootstrap, options.seed, models, seeds)
            lines = _lines(found, of, several_contexts(rows))
            print("\n".join([f"== {options.by} {group}"] * (group != "") + lines))
    return tables.exit_code(options)


def _apart(table: Any, of: str) -> list[str]:
    """The columns of a run table that tell models apart; of its training only the context, if steps follow from x."""
    from seqjax.laws.comparable import CONTEXT
    from seqjax.laws.run_columns import RATE, SEED

    names = [name for name in map(str, table.columns) if "." in name and name not in (of, RATE, SEED)]
    return [name for name in names if of == RATE or name.startswith(("model.", "data.", "task.")) or name == CONTEXT[0]]


def _column(table: Any, option: str, name: str) -> str:
    from seqjax.laws.variables import listed

    if name not in table.columns:
        near = did_you_mean(name, map(str, table.columns))
        raise UserError(f"--{option} {name}: there is no such column; there are {listed(table.columns)}{near}")
    return name


def _lines(found: Any, of: str, mixed: list[str]) -> list[str]:
    from seqjax.laws.summary import constant_rows

    lines = [f"N {si(one.params).strip()}, D {si(one.tokens).strip()}: {of} = {readable(one.x, 3)}, loss {one.loss:.4f}"
             + f"; left out: {one.problem}" * bool(one.problem) for one in found.found]  # fmt: skip
    law = found.fit.law
    lines.append(f"{of}: {law.equation}   [{law.source}]")
    lines += [f"  {name} = {value} ({interval})" for name, value, interval, _ in constant_rows(found.fit)]
    flags = [*found.fit.flags, *(f"mixed: {note}" for note in mixed)]
    return lines + ([f"FLAG {flag}" for flag in flags] or ["no flags"])
