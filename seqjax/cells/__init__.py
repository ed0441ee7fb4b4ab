"""Recurrent cells: pure functions of arrays, one cell a file."""

from __future__ import annotations

from seqjax.cells import elman, gru, lstm
from seqjax.cells.cell import Cell, Params, State
from seqjax.cells.recurrence import tabulate, unroll

CELLS: dict[str, Cell] = {"elman": elman.CELL, "lstm": lstm.CELL, "gru": gru.CELL}

__all__ = ["CELLS", "Cell", "Params", "State", "tabulate", "unroll"]
