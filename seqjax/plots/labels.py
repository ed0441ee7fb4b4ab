"""Colours, marks and labels of families in figures: one look a family, in every figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from seqjax.families import FAMILIES, hues_of, in_order, parts_of, rank_of
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
    """A look for each group. A family has its own, whatever is beside it; other groups take the free ones in order.

    Forms of a family (see `seqjax.families.kind_of`) share its mark, and differ in shade and dash.
    """
    names = list(groups)
    kinds = {name: name if is_own(name) else name.lower() for name in names}
    kinds = {name: kind for name, kind in kinds.items() if is_own(kind) or parts_of(kind)[0] in FAMILIES}
    hues = hues_of(kinds.values())
    order = in_order([*FAMILIES, *(parts_of(kind)[0] for kind in kinds.values())])
    taken = {hues[kind].upper() for kind in kinds.values()}
    free = [colour for colour in COLOURS if colour.upper() not in taken]
    others = [name for name in names if name not in kinds]
    found = {}
    for name in names:
        if name in kinds:
            family, form = parts_of(kinds[name])
            place, colour = order.index(family), hues[kinds[name]]
            dash = place + (rank_of(family, form) if form else 0)
        else:
            place = dash = others.index(name)
            colour = free[place % len(free)]
        found[name] = Look(colour, MARKERS[place % len(MARKERS)], DASHES[dash % len(DASHES)])
    return found
