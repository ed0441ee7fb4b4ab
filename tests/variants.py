"""Families under the names that tests go through."""

from __future__ import annotations

from typing import Any

from seqjax.families import FAMILIES
from seqjax.families.recurrent import Recurrent

TRAINED = ("lstm", "transformer", "window", "rg_lru", "gated_deltanet")
"""Families that whole runs are tested with: of cells, of diagonal and of matrix states, one stands for all."""


def recurrent(family: str, *widths: Any, reset: str = "after", **fields: Any) -> Recurrent:
    """A recurrent family; `reset` is for the GRU alone."""
    return FAMILIES[family](*widths, **fields, **({"reset": reset} if family == "gru" else {}))
