"""Families from files outside the package: ``path/to/my_cell.py:MyCell`` (see `seqjax.host.own_code`).

Without its code a family has only its name and the fields of its config (`Absent`). Tables, fits and figures need no
more. Its label and its colour then come from the results of its runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, NoReturn

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from seqjax.errors import UserError, did_you_mean, printable
from seqjax.families.family import Family
from seqjax.host.own_code import Shelf, class_of, first_line, name_of, place_of

COMMON = ("d_model", "n_layers", "tied_embeddings", "dropout")

LOOK = {"label": "a word of one line", "colour": "six hexadecimal digits after #, such as #882255"}

_looks: dict[str, dict[str, str]] = {}  # by name: label and colour from results and tables


def absent(section: Mapping[str, Any]) -> Family:
    """The model of a section `model` without the code of its family.

    Raises:
        UserError: the section cannot be one of a family.
    """
    name = section["family"]
    widths = [section.get(key) for key in ("d_model", "n_layers")]
    if not all(type(width) is int and width > 0 for width in widths):
        raise UserError(f"{name}: expected whole numbers d_model and n_layers in the section model")
    try:
        made = dataclasses.make_dataclass(
            class_of(name), [(key, Any, _fixed(value)) for key, value in section.items()], bases=(Absent,), frozen=True
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: the section model cannot be read: {error}") from None
    return made()


def _shape(family: Any) -> str:
    """Layers and width from the fields alone, so it is the same with and without the code."""
    return f"{family.n_layers}x{getattr(family, 'd_hidden', None) or family.d_model}"


class Absent(Family):
    """A family whose code this process has not run: its fields are known, its equations are not."""

    recurrent: ClassVar[bool] = True  # so that no config is refused because the code is missing
    shape = property(_shape)

    def _refuse(self, *_args: Any, **_options: Any) -> NoReturn:
        raise UserError(
            f"model.family: {self.family} is code outside of the package: name its file with --model.family "
            f"FILE.py:{class_of(self.family)}, or run the copy in the run folder with --trust-code; in Python, call "
            "seqjax.families.family_of with that name before the run is opened"
        )

    init = run = zero_state = no_nudges = widened = width = extra_flops = _refuse


def look_of(name: str) -> dict[str, str]:
    """The label and the colour of a family of the user's own, as far as they are known. No code is run."""
    found = shelf.known(name)
    return _looks.get(name, {}) if found is None else found.look


def note_look(name: str, look: Mapping[str, Any]) -> None:
    """Remember the label and the colour from a result or a table. Anything else in `look` is ignored."""
    if found := {key: value for key, value in look.items() if _is_look(key, value)}:
        _looks[name] = found


def _is_look(key: str, value: object) -> bool:
    if not isinstance(value, str):
        return False
    is_label = value.strip() != "" and printable(value) == value
    return re.fullmatch("#[0-9a-fA-F]{6}", value) is not None if key == "colour" else key == "label" and is_label


def _make(module: ModuleType, class_name: str | None, text: str, path: Path) -> tuple[str, type[Family]]:
    assert class_name is not None
    name = name_of(class_name, text)
    return name, _named(_checked(module, class_name, path), name)


def _checked(module: ModuleType, class_name: str, path: Path) -> type[Family]:
    """The class, after checking that it is a family."""
    found = getattr(module, class_name, None)
    if found is None:
        there = [name for name, value in vars(module).items() if _is_theirs(value, module)]
        allowed = f"; it has {', '.join(there)}" if there else "; it has no families"
        raise UserError(f"{path}: has no class {class_name}{allowed}{did_you_mean(class_name, there)}")
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise UserError(
            f"{place_of(found, path)}: {class_name} is no family; derive it from seqjax.families.Recurrent or Family"
        )
    where = place_of(found, path)
    if "__dataclass_params__" not in vars(found) or not vars(found)["__dataclass_params__"].frozen:
        raise UserError(f"{where}: {class_name} is no frozen dataclass; write @dataclass(frozen=True) above it")
    fields = {field.name: field for field in dataclasses.fields(found)}
    if missing := [name for name in COMMON if name not in fields]:
        raise UserError(f"{where}: {class_name} lacks the field {missing[0]}; every family has {', '.join(COMMON)}")
    for name, field in fields.items():
        if name != "family" and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: {class_name}.{name} has no default; every field of a family has one")
    for name, value in _own_look(found).items():
        if not _is_look(name, value):
            raise UserError(f"{where}: {class_name}.{name}: {value!r} is not {LOOK[name]}")
    try:
        TypeAdapter(found).rebuild(force=True, raise_errors=True)
    except (PydanticUserError, NameError, TypeError) as error:
        raise UserError(f"{where}: {class_name}: a field cannot be read from a config: {first_line(error)}") from None
    return found


def _is_theirs(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, Family) and value.__module__ == module.__name__


def _named(found: type[Family], name: str) -> type[Family]:
    """The class with a field `family` that holds its name."""
    look = _own_look(found)
    members = {"__doc__": found.__doc__, "shape": property(_shape), "label": class_of(name), **look, "look": look}
    made = dataclasses.make_dataclass(
        found.__name__, [("family", Literal[name], name)], bases=(found,), frozen=True, namespace=members
    )
    made.__module__ = found.__module__
    return made


def _own_look(found: type[Family]) -> dict[str, str]:
    """The label and the colour from the user's file. Those of bases in the package do not count."""
    theirs = [vars(base) for base in found.__mro__ if base.__module__ == found.__module__]
    return {key: next(own[key] for own in theirs if key in own) for key in LOOK if any(key in own for own in theirs)}


def _fixed(value: Any) -> Any:
    """The value with tuples for lists: a dataclass allows no list as a default."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value


shelf = Shelf("family", "--model.family", "FILE.py:CLASS or MODULE:CLASS", "my_cell.py:MyCell", "family.py", _make)
"""The user's own families that this process has loaded."""
