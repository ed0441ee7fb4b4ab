"""Rows and columns of a run table as they are asked for on the command line."""

from __future__ import annotations

import pandas as pd

from seqjax.errors import UserError, did_you_mean
from seqjax.laws.run_rows import at_best_rates
from seqjax.laws.selecting import SHORT, select


def chosen(table: pd.DataFrame, where: str | None, best: bool, sort: str | None) -> pd.DataFrame:
    """The rows for which ``where`` is true; of these the runs at the best rate of each model; in the order of a column.

    Raises:
        UserError: a condition that cannot be evaluated or is true for no row; an unknown column; no finished run.
    """
    found = table[select(table, where, "the table")[0]]
    if best:
        found = at_best_rates(found)
        if found.empty:
            raise UserError("--best: no run has finished")
    return (
        found if sort is None else found.sort_values(column_of(table, "sort", sort), kind="stable", na_position="last")
    )


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
