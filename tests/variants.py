"""Families under the names that tests go through."""

from __future__ import annotations

from typing import Any

from seqjax.families import FAMILIES
from seqjax.families.recurrent import Recurrent

TRAINED = ("lstm", "transformer", "gru", "elman", "window", "rg_lru", "gated_deltanet")
"""Families that whole runs are tested with: of those with a vector or a matrix for a state, one stands for all."""


def recurrent(family: str, *widths: Any, reset: str = "after", **fields: Any) -> Recurrent:
    """A recurrent family; `reset` is for the GRU alone."""
    return FAMILIES[family](*widths, **fields, **({"reset": reset} if family == "gru" else {}))
