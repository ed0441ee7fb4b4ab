"""Rows and columns of a run table as they are asked for on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from seqjax.errors import UserError, did_you_mean
from seqjax.laws.run_columns import SHORT
from seqjax.laws.run_rows import at_best_rates
from seqjax.laws.selecting import select


def chosen(table: pd.DataFrame, where: str | None, best: bool, sort: str | None) -> pd.DataFrame:
    """The rows for which ``where`` is true; of these the runs at the best rate of each model; in the order of a column.

    Raises:
        UserError: a condition that cannot be evaluated or is true for no row; an unknown column; no finished run.
    """
    found = table[select(table, where, "the table")[0]]
    if best:
        found = at_best_rates(found)
        if found.empty:
            raise UserError("--best: no run has finished, or a run of every learning rate has diverged")
    return (
        found if sort is None else found.sort_values(column_of(table, "sort", sort), kind="stable", na_position="last")
    )


def kept(rows: Sequence[Mapping[str, Any]], where: str) -> list[Mapping[str, Any]]:
    """The rows of :func:`seqjax.sweeps.columns.listed` for which ``where`` is true.

    Empty if the whole table is needed: there is a mistake in it, it is true for no row, or some row lacks a column.
    """
    names = [name for name in rows[0] if name != "kind" and all(name in row for row in rows)]
    columns = {name: _typed([row[name] for row in rows]) for name in names}
    table = pd.DataFrame({name: cells for name, cells in columns.items() if cells is not None})
    try:
        keep, _ = select(table, where, "the table")
    except UserError:
        return []
    return [row for row, true in zip(rows, keep, strict=True) if true]


def _typed(cells: list[Any]) -> pd.Series | None:
    """A column of a run table; None if its cells are objects or lists."""
    found = {type(cell) for cell in cells if cell is not None}
    for types, name in (({bool}, "boolean"), ({int}, "Int64"), ({int, float}, "Float64"), ({str}, "string")):
        if found <= types:
            return pd.Series(cells, dtype=name if found else "object")
    return None


def column_of(table: pd.DataFrame, option: str, name: str) -> str:
    """A column by its name or its short name.

    Raises:
        UserError: there is no such column.
    """
    column = name if name in table.columns else SHORT.get(name, name)
    if column not in table.columns:
        near = did_you_mean(name, [*map(str, table.columns), *SHORT])
        raise UserError(f"--{option} {name}: there is no such column{near}; seqjax runs --columns lists them")
    return column
