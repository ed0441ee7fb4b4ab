"""Losses can be compared if they have the same text, tokens, batching and task, with the same held-out data.

A task whose data have no digest is the same if all its fields are: one cannot tell which of them the data depend on.

Contexts may differ: experiments compare them on purpose. But the context must be known for all rows or for none.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from seqjax.errors import UserError
from seqjax.host.wording import numbers_by_size
from seqjax.laws.run_columns import SHORT

IDENTITY = {
    "tokenizer": ("data.tokenizer", "tokenizer_sha256"),
    "corpus": ("data.corpus", "corpus_sha256"),
    "batching": ("data.batching", None),
    "task": ("task.name", None),
    "data of the task": ("task.corpus", "data_sha256"),
    "vocabulary": ("task.vocabulary", None),
}
"""A property that losses depend on -> its columns of a run table: its name and its digest."""
ANY_TOKENS = "bits_per_byte"
"""The column of losses that can be compared between tokenizers."""


CONTEXT = ("train.context_length", "context")
EMPTY = "(empty)"
_LISTED = 4


def differences(table: pd.DataFrame, loss: str = "loss") -> dict[str, list[str]]:
    """Columns that make the losses of these rows incomparable -> their values. Empty if they can be compared.

    Texts and tokenizers are compared by digest if all rows have one, else by name and digest. Columns that are missing,
    or empty in all rows, are not compared. A column that is empty in some rows has the value "(empty)" there.
    """
    found = {}
    for what, name, digest in _columns(table, loss):
        names = _written(table, name).dropna()
        digests = _written(table, digest).dropna()
        if digests.nunique() > 1:
            by_name = names.nunique() == digests.nunique()
            found[name if by_name else digest] = sorted(set(names if by_name else digests.str[:12]))
        elif names.nunique() > 1 and len(digests) < len(table) and what != "context":
            found[name] = sorted(set(names))
    for column in _fields_of_the_task(table):
        if column not in found and (values := _written(table, column).dropna()).nunique() > 1:
            found[column] = sorted(set(values))
    for column in unknown(table, loss):
        found[column] = [*found.get(column, sorted(set(_written(table, column).dropna()))), EMPTY]
    return found


def unknown(table: pd.DataFrame, loss: str = "loss") -> dict[str, pd.Series]:
    """Columns that are known for some rows only -> whether each row lacks it.

    A digest in every row is enough, and so is a name in every row.
    """
    found = {}
    for _, name, digest in _columns(table, loss):
        lacks = [_written(table, name).isna(), _written(table, digest).isna()]
        if all(lack.any() for lack in lacks) and not all(lack.all() for lack in lacks):
            column, lack = (name, lacks[0]) if lacks[0].sum() <= lacks[1].sum() else (digest, lacks[1])
            found[column] = lack
    return found


def _columns(table: pd.DataFrame, loss: str) -> Iterator[tuple[str, str, str | None]]:
    """The properties that a loss depends on, each with its columns of this table for the name and the digest."""
    for what, (name, digest) in (IDENTITY | {"context": (CONTEXT[0], None)}).items():
        if what != "tokenizer" or loss != ANY_TOKENS:
            yield what, what if name not in table.columns and what in table.columns else name, digest


def _fields_of_the_task(table: pd.DataFrame) -> list[str]:
    """Columns of the task's fields, where no row has a digest of its data."""
    if _written(table, IDENTITY["data of the task"][1]).notna().any():
        return []
    return [column for column in map(str, table.columns) if column.startswith("task.")]


def _written(table: pd.DataFrame, column: str | None) -> pd.Series:
    """The cells of a column as text; missing if they are empty or blank, or if there is no such column."""
    if column not in table.columns:
        return pd.Series(None, index=table.index, dtype="string")
    cells = table[column].astype("string")
    if pd.api.types.is_float_dtype(table[column]):
        cells = cells.str.removesuffix(".0")
    return cells.mask(cells.str.strip() == "")


def refuse_incomparable(table: pd.DataFrame, loss: str = "loss", source: str = "the table") -> None:
    """Raise UserError if the losses of these rows cannot be compared."""
    lacking = unknown(table, loss)
    for column, values in differences(table, loss).items():
        known = [value for value in values if value != EMPTY]
        shown = ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
        shown += f", and empty in {_rows(table, lacking[column])}; fill it in, or" if column in lacking else ";"
        what = next((what for what, columns in IDENTITY.items() if column in (what, *columns)), column)
        is_name = column in (what, *IDENTITY.get(what, ())[:1]) and what in IDENTITY
        way = f"--by {what if SHORT.get(what) == column else column}"
        way += f" or --where '`{column}` == \"{known[0]}\"'" if is_name else ""
        bytes_too = f", or --loss {ANY_TOKENS}" if what == "tokenizer" and ANY_TOKENS in table.columns else ""
        raise UserError(
            f"{source}: losses that cannot be compared: {column} is {shown} take them apart with {way}{bytes_too}"
        )


def contexts_of(table: pd.DataFrame) -> list[str]:
    """The context lengths of these rows, from the shortest; empty if they are not known."""
    column = next((name for name in CONTEXT if name in table.columns), None)
    return sorted(set(_written(table, column).dropna()), key=numbers_by_size)


def several_contexts(table: pd.DataFrame) -> list[str]:
    """A note if the rows have several context lengths: they can be compared, but a fit mixes them."""
    found = contexts_of(table)
    return [f"several contexts in one fit: {', '.join(found)}"] if len(found) > 1 else []


def _rows(table: pd.DataFrame, lack: pd.Series) -> str:
    """The number of rows that lack something, and the first of them, in words."""
    rows = [row if isinstance(row, str) else f"row {row + 1}" for row in table.index[lack]]
    more = ", ..." * (len(rows) > _LISTED)
    return f"{len(rows)} of {len(table)} rows ({', '.join(rows[:_LISTED])}{more})"
