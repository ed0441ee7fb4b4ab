"""Colours and labels of the package's families in figures."""

from __future__ import annotations

from seqjax.families import FAMILIES

HUES = {name: family.colour for name, family in FAMILIES.items()}
LABELS = {name: family.label for name, family in FAMILIES.items()}
