"""Which column of a table holds a variable, how it was counted, and its values as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from seqjax.errors import UserError, did_you_mean
from seqjax.laws.table_file import number_of

CONVENTIONS = {
    "params": {
        "non-embedding": "params_non_embedding",
        "with-readout": "params_with_readout",
        "total": "params_total",
    },
    "flops": {"kaplan": "flops_kaplan", "exact": "flops_exact"},
}
"""Short names for ways to count, and their columns of a run table."""
DEFAULTS = {
    "params": ("params_non_embedding", "params"),
    "tokens": ("tokens",),
    "loss": ("loss",),
    "flops": ("flops_exact", "flops"),
    "steps": ("steps",),
    "position": ("position",),
    "unique_tokens": ("unique_tokens",),
    "other_loss": ("other_loss",),
}
"""The default columns of each variable: the first that exists."""


def column_of(table: pd.DataFrame, name: str, given: str, source: str) -> str:
    """The column that is meant for the variable ``name``: ``given``, or what it is short for.

    Raises:
        UserError: there is none.
    """
    if given in table.columns:
        return given
    short = CONVENTIONS.get(name, {})
    if short.get(given) in table.columns:
        return short[given]
    raise UserError(
        f"{source}: {name}: there is no column '{given}'{did_you_mean(given, [*table.columns, *short])}; "
        f"it has {listed(table.columns)}"
    )


def usual_column(table: pd.DataFrame, name: str) -> str | None:
    """The first of the default columns of a variable that the table has; None: it has none of them."""
    return next((column for column in DEFAULTS.get(name, ()) if column in table.columns), None)


def listed(columns: Iterable[Any], most: int = 12, letters: int = 160) -> str:
    """Names of columns for a sentence: the first ``most``, or as many as have ``letters`` in all, and one at least."""
    names = [str(column) for column in columns]
    shown = names[:most]
    while len(shown) > 1 and len(", ".join(shown)) > letters:
        shown.pop()
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def numbers(column: pd.Series, name: str, labels: Sequence[str], source: str) -> np.ndarray:
    """A column as positive finite float64, before products are formed: 6 N D of large runs overflows int64."""
    found = np.empty(len(column))
    integers = pd.api.types.is_integer_dtype(column.dtype)
    for place, (label, value) in enumerate(zip(labels, column, strict=True)):
        where = f"{source}: column '{name}', {label}"
        if pd.isna(value):
            raise UserError(f"{where}: is empty; leave such rows out, e.g. --where '`{name}`.notna()'")
        try:
            number = number_of(value) if isinstance(value, str) else float(value)
        except ValueError as error:
            reason = str(error) if isinstance(value, str) else f"{value!r} is not a number"
            raise UserError(f"{where}: {reason}") from None
        except TypeError:
            raise UserError(f"{where}: {value!r} is not a number") from None
        if not np.isfinite(number) or number <= 0:
            hint = " (did an integer overflow? write large numbers as 1.2e21)" if integers and number < 0 else ""
            raise UserError(f"{where}: {value} is not a positive number{hint}")
        found[place] = number
    return found


def convention_of(name: str, column: str) -> str:
    """How a variable was counted: a short name of `CONVENTIONS`, or its column."""
    short = next((short for short, own in CONVENTIONS.get(name, {}).items() if own == column), None)
    return short or f"column '{column}'"


def named_count(convention: str) -> str:
    """A way to count FLOPs, in words."""
    return convention if convention.startswith("column") else f"{convention} FLOPs"
