"""Families from files outside the package: ``path/to/my_cell.py:MyCell``, or ``package.module:MyCell``.

The name of such a family in configs, tables and run folders is made of its class and of the text of its file:

    MyCell@0123456789abcdef        the class, and the first digits of the sha256 of the text

So a run has the same id wherever the file lies, and a changed text is another family. The file stands alone: what it
imports is no part of the name. Paths are relative to the working directory, as those of corpora are.

Code is run only where the user names its file, or trusts the copy in a run folder. Without its code a family is known
by its name and by the fields of its config (`Absent`): enough for tables, fits and figures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, NoReturn

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from seqjax.errors import UserError, did_you_mean
from seqjax.families.family import Family

DIGITS = 16
NAME = re.compile(rf"[^\W\d]\w*@[0-9a-f]{{{DIGITS}}}")
COMMON = ("d_model", "n_layers", "tied_embeddings", "dropout")

_known: dict[str, type[Family]] = {}  # by name: what this process has loaded
_texts: dict[str, str] = {}  # by name
_references: dict[str, str] = {}  # by name: as the user wrote them last


def is_own(name: object) -> bool:
    """Whether this is the name of a family from outside the package."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def known(name: str) -> type[Family] | None:
    """The family of a name, where this process has loaded its code."""
    return _known.get(name)


def text_of(name: str) -> str | None:
    """The text of the file of a family that this process has loaded."""
    return _texts.get(name)


def texts() -> dict[str, str]:
    """All that this process has loaded, for `adopt` in another one: texts by name."""
    return dict(_texts)


def reference(name: str) -> str:
    """``FILE.py:CLASS`` of a family that this process has loaded from there."""
    return _references.get(name, name)


def class_of(name: str) -> str:
    """``MyCell`` of ``MyCell@0123456789abcdef``."""
    return name.partition("@")[0]


def load(words: str) -> type[Family]:
    """The family that ``FILE.py:CLASS`` or ``MODULE:CLASS`` names; its code is run.

    Raises:
        UserError: no such file, module or class; the code fails; the class is no family.
    """
    place, _, class_name = words.rpartition(":")
    if not place or not class_name.isidentifier():
        raise UserError(f"{words!r}: expected FILE.py:CLASS or MODULE:CLASS, such as my_cell.py:MyCell")
    path = Path(place).expanduser() if place.endswith(".py") else _file_of_module(place)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.py")])
        raise UserError(f"{path}: no such file, seen from {Path.cwd()}{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    found = _from_text(class_name, text, path)
    _references[found.family] = words
    return found


def adopt(name: str, text: str, path: Path) -> type[Family]:
    """The family of this name from the text of its file, which is run.

    Args:
        path: where the text is from, for messages.
    Raises:
        UserError: the text is another one, or as `load`.
    """
    if (now := _name(class_of(name), text)) != name:
        raise UserError(f"{path}: its text is not that of {name} but of {now}: it was changed")
    return _from_text(class_of(name), text, path)


def absent(section: Mapping[str, Any]) -> Family:
    """The model of a section `model` without the code of its family.

    Raises:
        UserError: a section that no family has written.
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
    """Layers and width, by fields alone: the same with and without the code."""
    return f"{family.n_layers}x{getattr(family, 'd_hidden', None) or family.d_model}"


class Absent(Family):
    """A family whose code this process has not run: its fields are known, its equations are not."""

    recurrent: ClassVar[bool] = True  # nothing that a config says is refused for want of code
    shape = property(_shape)

    def _refuse(self, *_args: Any, **_options: Any) -> NoReturn:
        raise UserError(
            f"model.family: {self.family} is code outside of the package: name its file with --model.family "
            f"FILE.py:{class_of(self.family)}, or run the copy in the run folder with --trust-code; in Python, call "
            "seqjax.families.family_of with that name before the run is opened"
        )

    init = run = zero_state = no_nudges = widened = width = extra_flops = on_accelerator = _refuse


def _name(class_name: str, text: str) -> str:
    return f"{class_name}@{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def _file_of_module(module: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"{module}: no such module: {error}") from None
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        hint = f"; of a file, write {module}.py" if Path(f"{module}.py").exists() else ""
        raise UserError(f"{module}: no such module{hint}")
    return Path(str(spec.origin))


def _from_text(class_name: str, text: str, path: Path) -> type[Family]:
    name = _name(class_name, text)
    if name not in _known:
        _known[name] = _named(_checked(_module(text, path), class_name, path), name)
        _texts[name] = text
    return _known[name]


def _module(text: str, path: Path) -> ModuleType:
    """The module of a text, run once under a name of its own."""
    name = f"seqjax_own_{hashlib.sha256(text.encode()).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))  # what was run, not later
    sys.modules[name] = module  # dataclasses and pydantic look their annotations up there
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (Exception, SystemExit)):
            raise UserError(_told(error, path)) from None
        raise
    return module


def _told(error: BaseException, path: Path) -> str:
    """An error of the user's code in one line, with the last line of their file that it came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line, said = (lines[-1] if lines else None), str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, said = error.lineno, error.msg
    where = path if line is None else f"{path}:{line}"
    return f"{where}: {type(error).__name__}: {(said.splitlines() or [''])[0]}"


def _checked(module: ModuleType, class_name: str, path: Path) -> type[Family]:
    """The class, once it is what a family has to be."""
    found = getattr(module, class_name, None)
    if found is None:
        there = [name for name, value in vars(module).items() if _is_theirs(value, module)]
        allowed = f"; it has {', '.join(there)}" if there else "; it has no families"
        raise UserError(f"{path}: has no class {class_name}{allowed}{did_you_mean(class_name, there)}")
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise UserError(
            f"{_place(found, path)}: {class_name} is no family; derive it from seqjax.families.Recurrent or Family"
        )
    where = _place(found, path)
    if "__dataclass_params__" not in vars(found) or not vars(found)["__dataclass_params__"].frozen:
        raise UserError(f"{where}: {class_name} is no frozen dataclass; write @dataclass(frozen=True) above it")
    fields = {field.name: field for field in dataclasses.fields(found)}
    if missing := [name for name in COMMON if name not in fields]:
        raise UserError(f"{where}: {class_name} lacks the field {missing[0]}; every family has {', '.join(COMMON)}")
    for name, field in fields.items():
        if name != "family" and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: {class_name}.{name} has no default; every field of a family has one")
    try:
        TypeAdapter(found).rebuild(force=True, raise_errors=True)
    except (PydanticUserError, NameError, TypeError) as error:
        raise UserError(f"{where}: {class_name}: a field cannot be read from a config: {_first_line(error)}") from None
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _is_theirs(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, Family) and value.__module__ == module.__name__


def _place(found: Any, path: Path) -> str:
    try:
        return f"{path}:{inspect.getsourcelines(found)[1]}"
    except (OSError, TypeError):
        return str(path)


def _named(found: type[Family], name: str) -> type[Family]:
    """The class with the field `family` of its name."""
    members = {"__doc__": found.__doc__, "shape": property(_shape), "label": class_of(name)}
    if _definer(found, "step") < _definer(found, "backprop"):
        members["backprop"] = None  # it belongs to the `step` of a base
    made = dataclasses.make_dataclass(
        found.__name__, [("family", Literal[name], name)], bases=(found,), frozen=True, namespace=members
    )
    made.__module__ = found.__module__
    return made


def _definer(found: type, attribute: str) -> float:
    """How many bases up an attribute is defined; infinite: nowhere."""
    return next((place for place, base in enumerate(found.__mro__) if attribute in vars(base)), float("inf"))


def _fixed(value: Any) -> Any:
    """Lists as tuples, which can be defaults."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value
