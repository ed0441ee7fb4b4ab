"""The families of sequence models: one file each. Every part of the package knows the families in `FAMILIES`.

A family may also come from a file outside the package, see `seqjax.families.own`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from seqjax.errors import UserError, did_you_mean
from seqjax.families import own
from seqjax.families.elman import Elman
from seqjax.families.family import Family
from seqjax.families.gated_deltanet import GatedDeltaNet
from seqjax.families.gru import GRU
from seqjax.families.lstm import LSTM
from seqjax.families.mamba2 import Mamba2
from seqjax.families.mingru import MinGRU
from seqjax.families.minlstm import MinLSTM
from seqjax.families.mlstm import MLSTM
from seqjax.families.recurrent import Recurrent
from seqjax.families.retention import Retention
from seqjax.families.rg_lru import RGLRU
from seqjax.families.slstm import SLSTM
from seqjax.families.stacked import HYBRID, Stacked
from seqjax.families.transformer import Transformer
from seqjax.families.window import Window
from seqjax.host import own_code

FAMILIES: dict[str, type[Family]] = {
    family.family: family
    for family in (
        *(LSTM, Transformer, GRU, Elman, Window),
        *(MinGRU, MinLSTM, RGLRU),  # a vector for a state, without the state in its gates
        *(Mamba2, MLSTM, SLSTM, GatedDeltaNet, Retention),  # a matrix for a state, and the mLSTM's companion
    )
}
"""By name, in the order of figures."""

THROUGH_TIME = ("nonlinear", "diagonal", "matrix state", "attention", "window")
"""Ways of the past to the present, in the order of figures: a nonlinear recurrence, a linear one with a vector or a
matrix for a state, attention, a fixed window."""

HUES_OF_OWN = ("#882255", "#44AA99", "#999933", "#332288", "#AA4499", "#117733", "#661100", "#6699CC")  # Tol, "muted"


def family_of(name: str) -> type[Family]:
    """The family of a name: one in `FAMILIES`, ``FILE.py:CLASS``, or the name of a family loaded from a file.

    Raises:
        UserError: there is no such family, or its code fails.
    """
    found = known(name)
    if found is None and own.shelf.names_file(name):
        found = own.shelf.known(own.shelf.load(name))
    if found is None:
        allowed = f"{', '.join(FAMILIES)}, or a family of your own as FILE.py:CLASS"
        raise UserError(f"{name!r} is not allowed; allowed: {allowed}{did_you_mean(name, FAMILIES)}")
    return found


def known(name: object) -> type[Family] | None:
    """The family of a name in configs. No code is run. None: this process does not know it."""
    return (FAMILIES.get(name) or own.shelf.known(name)) if isinstance(name, str) else None


def history(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """`later` and `retired` of a family. A family of the user's own has the `later` of `Recurrent`."""
    return (Recurrent.later, {}) if own_code.is_own(name) else (FAMILIES[name].later, FAMILIES[name].retired)


def kind_of(name: str, values: Mapping[str, Any]) -> str:
    """The name of a family, followed by the name of its form where it has several: ``lstm``, ``transformer gpt2``.

    `label_of`, `labels_of`, `in_order` and `hues_of` know kinds as well as families.

    Args:
        values: of the fields of the section `model`, by name.
    """
    return f"{name} {FAMILIES[name].form_of(values)}".rstrip() if name in FAMILIES else name


def parts_of(kind: str) -> tuple[str, str]:
    """Family and form of a kind. A name that is none of the package has no form."""
    family, _, form = kind.partition(" ")
    return (family, form) if family in FAMILIES else (kind, "")


def label_of(name: str) -> str:
    """The name of a family in figures and sentences."""
    family, form = parts_of(name)
    if family in FAMILIES:
        return f"{FAMILIES[family].label} {form}".rstrip()
    return own.look_of(name).get("label", own_code.class_of(name))


def labels_of(names: Iterable[str]) -> dict[str, str]:
    """A label for each family. Versions of one class get the first digits of their sha256 as well."""
    found = {name: label_of(name) for name in in_order(names)}
    twice = {label for label in found.values() if list(found.values()).count(label) > 1}
    return {name: f"{label} {name.partition('@')[2][:4]}".rstrip() if label in twice else label
            for name, label in found.items()}  # fmt: skip


def way_of(kind: str) -> str:
    """The way through time of a kind, a word of `THROUGH_TIME`; "" if unknown. A hybrid has attention."""
    family, form = parts_of(kind)
    found = known(family)
    return "attention" if HYBRID in form else "" if found is None else found.through_time


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once, in the order of figures: the package's, by family and form, then the user's own."""
    return sorted(dict.fromkeys(names), key=_place)


def by_way(kinds: Iterable[str]) -> list[str]:
    """As `in_order`, with the kinds of each way through time together, in the order of `THROUGH_TIME`."""
    ways = (*THROUGH_TIME, "")
    return sorted(in_order(kinds), key=lambda kind: ways.index(way_of(kind)))


def _place(name: str) -> tuple[int, int, str]:
    family, form = parts_of(name)
    if family not in FAMILIES:
        return len(FAMILIES), 0, name
    return list(FAMILIES).index(family), rank_of(family, form), form


def rank_of(family: str, form: str) -> int:
    """Place of a form among the named ones; after them, if it has no name of its own."""
    forms = list(FAMILIES[family].forms)
    return forms.index(form) if form in forms else len(forms) if form else 0


def hues_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each family, the same in all figures. Forms after the first are lighter.

    The user's own families without a colour get the free colours of `HUES_OF_OWN`, in order.
    """
    found = {name: kind.colour for name, kind in FAMILIES.items()}
    ordered = in_order(names)
    for name in ordered:
        family, form = parts_of(name)
        if family in FAMILIES:
            found[name] = lighter(FAMILIES[family].colour, min(0.45 * rank_of(family, form), 0.75))
    taken = {found[name] for name in ordered if name in found}
    free = [hue for hue in HUES_OF_OWN if hue not in taken] or HUES_OF_OWN
    others = [name for name in ordered if name not in found]
    in_turn = {name: free[number % len(free)] for number, name in enumerate(others)}
    return found | {name: own.look_of(name).get("colour", hue) for name, hue in in_turn.items()}


def lighter(colour: str, share: float) -> str:
    """A colour ``#rrggbb`` mixed with a share of white."""
    mixed = [round(int(colour[i : i + 2], 16) * (1 - share) + 255 * share) for i in (1, 3, 5)]
    return "#{:02X}{:02X}{:02X}".format(*mixed) if share else colour


__all__ = ["FAMILIES", "GRU", "LSTM", "MLSTM", "RGLRU", "SLSTM", "Elman", "Family", "GatedDeltaNet", "Mamba2", "MinGRU"]
__all__ += ["MinLSTM", "Recurrent", "Retention", "Stacked", "Transformer", "Window", "family_of"]
__all__ += ["THROUGH_TIME", "by_way", "history", "hues_of", "in_order", "kind_of", "known", "label_of", "labels_of"]
__all__ += ["own", "parts_of", "rank_of", "way_of"]
