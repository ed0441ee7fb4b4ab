"""Which losses may be compared: those on one text, in the same tokens, held out in the same way.

Context length is not part of it: experiments compare contexts on purpose.
"""

from __future__ import annotations

import pandas as pd

from seqjax.errors import UserError

IDENTITY = {
    "tokenizer": ("data.tokenizer", "tokenizer_sha256"),
    "corpus": ("data.corpus", "corpus_sha256"),
    "batching": ("data.batching", None),
}
"""What a loss depends on, and the columns of a run table that name it and hold its digest."""
ANY_TOKENS = "bits_per_byte"
"""The column of losses that compare between tokenizers."""


def differences(table: pd.DataFrame, loss: str = "loss") -> dict[str, list[str]]:
    """What makes the losses of these rows incomparable: its column -> its values. Empty where they compare.

    Texts and tokenizers are told apart by their digests where all rows have one, else by name and digest. Columns
    that a table does not have are not compared.
    """
    found = {}
    for what, (name, digest) in IDENTITY.items():
        if what == "tokenizer" and loss == ANY_TOKENS:
            continue
        if name not in table.columns and what in table.columns:  # tables of others
            name = what
        names = table[name].dropna().astype(str) if name in table.columns else pd.Series(dtype=str)
        digests = table[digest].dropna().astype(str) if digest in table.columns else pd.Series(dtype=str)
        if digests.nunique() > 1:
            by_name = names.nunique() == digests.nunique()
            found[name if by_name else digest] = sorted(set(names if by_name else digests.str[:12]))
        elif names.nunique() > 1 and len(digests) < len(table):
            found[name] = sorted(set(names))
    return found


def refuse_incomparable(table: pd.DataFrame, loss: str = "loss", source: str = "the table") -> None:
    """Raise UserError where the losses of these rows cannot be compared."""
    for column, values in differences(table, loss).items():
        shown = ", ".join(values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
        what = next(what for what, columns in IDENTITY.items() if column in (what, *columns))
        by = what if column in (what, IDENTITY[what][0]) else column
        way = f"--by {by} or --where '`{column}` == \"{values[0]}\"'" if by == what else f"--by {by}"
        bytes_too = f", or --loss {ANY_TOKENS}" if what == "tokenizer" and ANY_TOKENS in table.columns else ""
        raise UserError(
            f"{source}: losses that cannot be compared: {column} is {shown}; take them apart with {way}{bytes_too}"
        )
