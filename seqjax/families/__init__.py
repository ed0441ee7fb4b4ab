"""The families of sequence models: one file each. A family that is in `FAMILIES` is known everywhere."""

from __future__ import annotations

from seqjax.families.elman import Elman
from seqjax.families.family import Family
from seqjax.families.gru import GRU
from seqjax.families.lstm import LSTM
from seqjax.families.transformer import Transformer
from seqjax.families.window import Window

FAMILIES: dict[str, type[Family]] = {family.family: family for family in (LSTM, Transformer, GRU, Elman, Window)}
"""By name, in the order of figures."""

__all__ = ["FAMILIES", "GRU", "LSTM", "Elman", "Family", "Transformer", "Window"]
