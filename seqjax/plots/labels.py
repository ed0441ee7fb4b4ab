"""Colours, marks and labels of families in figures: one look a family, in every figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex

from seqjax.families import FAMILIES, hues_of, in_order, label_of, parts_of, rank_of
from seqjax.host.own_code import is_own
from seqjax.laws.table_file import number_of
from seqjax.plots.style import COLOURS, DASHES, dash_of, marker_of

HUES = {name: family.colour for name, family in FAMILIES.items()}
NUMBERED = 3  # two groups of numbers keep colours that are far apart
LIGHTEST = 0.9  # of viridis: beyond it yellow is hard to see on white
LABELS = {name: family.label for name, family in FAMILIES.items()}


def named(group: str) -> str:
    """The name of a group in figures and pages: "LSTM" of lstm, "Transformer gpt2" of its form; others as they are."""
    return label_of(group.lower()) if parts_of(group.lower())[0] in FAMILIES else group


class Look(NamedTuple):
    """Colour, marker and dash of a group."""

    colour: str
    marker: str
    dash: Any


def looks_of(groups: Iterable[str]) -> dict[str, Look]:
    """A look for each group. A family has its own, whatever is beside it; other groups take the free colours in order.

    Three or more groups that are all numbers, such as budgets, have shades that darken with the number. More groups
    than there are colours have shades in their order, so that no two are alike.
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
    shaded = len(others) > len(free) or (len(others) >= NUMBERED and all(_number(name) is not None for name in others))
    colours = _shades(others) if shaded else dict(zip(others, free, strict=False))
    found = {}
    for name in names:
        if name in kinds:
            family, form = parts_of(kinds[name])
            place, colour = order.index(family), hues[kinds[name]]
            dash = place + (rank_of(family, form) if form else 0)
        else:
            place = dash = others.index(name)
            colour = colours[name]
        found[name] = Look(colour, marker_of(place), dash_of(dash))
    return found


def looks_of_named(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name that has a family in it, such as "LSTM, 1 layer of 128": that of the family.

    Names of one family differ in dash. Names without a family take free colours, as in :func:`looks_of`.
    """
    names = list(names)
    family = {name: next((w for w in re.findall(r"[a-z0-9_]+", name.lower()) if w in FAMILIES), name) for name in names}
    looks, found = looks_of(dict.fromkeys(family.values())), {}
    for name in names:
        alike = [other for other in found if family[other] == family[name]]
        dashes = [looks[family[name]].dash, *(dash for dash in DASHES if dash != looks[family[name]].dash)]
        found[name] = looks[family[name]]._replace(dash=dashes[len(alike) % len(dashes)])
    return found


def _shades(names: list[str]) -> dict[str, str]:
    """Shades from light to dark: by number if all are numbers, else in order."""
    numbers = [_number(name) for name in names]
    order = sorted(names, key=dict(zip(names, numbers, strict=True)).get) if None not in numbers else names
    places = (LIGHTEST * (1 - place / max(1, len(names) - 1)) for place in range(len(names)))
    return {name: to_hex(colormaps["viridis"](place)) for name, place in zip(order, places, strict=True)}


def _number(name: str) -> float | None:
    try:
        return number_of(name)
    except ValueError:
        return None
