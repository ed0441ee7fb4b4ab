"""Rows of a table that an expression keeps, and the others with the rule that left them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seqjax.errors import UserError
from seqjax.laws.run_columns import SHORT


@dataclass(frozen=True)
class LeftOut:
    """A row that is not fitted, and the rule that left it out."""

    row: str
    rule: str


def in_brackets(left_out: Sequence[LeftOut]) -> str:
    """The rules that left out most rows, each with its number of rows; "" if there are none."""
    rules = Counter(gone.rule for gone in left_out)
    return f" (left out: {'; '.join(f'{count} x {rule}' for rule, count in rules.most_common(4))})" if rules else ""


def select(table: pd.DataFrame, where: str | None, source: str) -> tuple[np.ndarray, list[LeftOut]]:
    """Whether an expression keeps each row, and the other rows as left out.

    Raises:
        UserError: it cannot be evaluated, is not true or false, or is true for no row.
    """
    if where is None:
        return np.ones(len(table), bool), []
    try:
        own = set(table.columns)
        short = {name: table[column] for name, column in SHORT.items() if column in own and name not in own}
        found = table.eval(where, engine="python", resolvers=[short])
    except Exception as error:  # pandas raises many kinds of errors
        reason = str(error).partition("\n")[0]
        hint = "columns with dots or spaces go in `backticks`; equality is ==, text goes in quotes"
        raise UserError(f"--where {where!r}: {reason}; {hint}") from None
    if not isinstance(found, pd.Series) or (found.dtype.kind != "b" and str(found.dtype) != "boolean"):
        raise UserError(f"--where {where!r}: is not true or false for each row of {source}")
    keep = np.array(found.fillna(False), bool)
    if not keep.any():
        raise UserError(f"--where {where!r}: is true for no row of {source}")
    gone = [LeftOut(label, f"not {where}") for label, kept in zip(labels_of(table), keep, strict=True) if not kept]
    return keep, gone


def labels_of(table: pd.DataFrame) -> list[str]:
    """The name of each row in errors."""
    rows = [i if isinstance(i, str) else f"row {i + 1}" for i in table.index]
    if "run_id" in table.columns:
        return [f"{row} ({run})" for row, run in zip(rows, table["run_id"], strict=True)]
    return rows
