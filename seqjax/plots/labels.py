"""Colours, marks and labels of families in figures: one look a family, in every figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from seqjax.families import FAMILIES, hues_of, in_order
from seqjax.host.own_code import is_own
from seqjax.plots.style import COLOURS, DASHES, MARKERS

HUES = {name: family.colour for name, family in FAMILIES.items()}
LABELS = {name: family.label for name, family in FAMILIES.items()}


class Look(NamedTuple):
    """Colour, marker and dash of a group."""

    colour: str
    marker: str
    dash: Any


def looks_of(groups: Iterable[str]) -> dict[str, Look]:
    """A look for each group. A family has its own, whatever is beside it; other groups take the free ones in order."""
    names = list(groups)
    family_of = {name: name if is_own(name) else name.lower() for name in names}
    family_of = {name: family for name, family in family_of.items() if is_own(family) or family in FAMILIES}
    hues, order = hues_of(family_of.values()), in_order([*FAMILIES, *family_of.values()])
    taken = {hues[family].upper() for family in family_of.values()}
    free = [colour for colour in COLOURS if colour.upper() not in taken]
    others = [name for name in names if name not in family_of]
    found = {}
    for name in names:
        family = family_of.get(name)
        place = order.index(family) if family else others.index(name)
        colour = hues[family] if family else free[place % len(free)]
        found[name] = Look(colour, MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])
    return found
