"""Families under the names that tests go through."""

from __future__ import annotations

from typing import Any

import pytest

from seqjax.families import FAMILIES
from seqjax.families.recurrent import Recurrent


def recurrent(family: str, *widths: Any, reset: str = "after", **fields: Any) -> Recurrent:
    """A recurrent family; `reset` is for the GRU alone."""
    return FAMILIES[family](*widths, **fields, **({"reset": reset} if family == "gru" else {}))


def only_quick(*names: str) -> list[Any]:
    """All families as values of a parameter; `make test` takes the named ones, `make test-slow` the others."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
