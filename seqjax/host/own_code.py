"""Code from files outside the package: families, tasks and laws of the user's own.

A user names it ``path/to/my_cell.py:MyCell``, or ``package.module:MyCell``. In configs, tables and files its name is
the name of the class and a digest of the file:

    MyCell@0123456789abcdef        the class, and the first digits of the sha256 of the text

So the id of a run does not depend on the place of the file. A changed text has another name. Files that it imports do
not change the name. Paths are relative to the working directory, as for corpora.

Code is run only if the user names its file, or trusts the copy in a run folder (``--trust-code``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from seqjax.errors import UserError, did_you_mean

DIGITS = 16
NAME = re.compile(rf"[^\W\d]\w*@[0-9a-f]{{{DIGITS}}}")
Thing = TypeVar("Thing")


def is_own(name: object) -> bool:
    """Whether this is the name of code from outside the package."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def class_of(name: str) -> str:
    """``MyCell`` of ``MyCell@0123456789abcdef``; other names are unchanged."""
    return name.partition("@")[0]


def name_of(label: str, text: str) -> str:
    """``MyCell@0123456789abcdef``."""
    return f"{label}@{sha256_of(text)[:DIGITS]}"


def sha256_of(text: str) -> str:
    """The sha256 of a file's text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Shelf(Generic[Thing]):
    """The code of one kind that this process has loaded, by name.

    Attributes:
        kind: "family", "task" or "law".
        option: the option of the command line that names the file.
        form: the form of a reference to a file, for messages.
        example: a reference to a file, for messages.
        file: the name of its copy in a run folder.
        make: ``(module, part, text, path) -> (name, thing)``. The part is the word after the colon, or None.
            It raises UserError for a module without the thing, or with a wrong one.
    """

    kind: str
    option: str
    form: str
    example: str
    file: str
    make: Callable[[ModuleType, str | None, str, Path], tuple[str, Thing]]
    _known: dict[str, Thing] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)
    _references: dict[str, str] = field(default_factory=dict)

    @property
    def has_part(self) -> bool:
        """Whether a name needs a colon and a part after it."""
        return ":" in self.form

    def names_file(self, word: object) -> bool:
        """Whether a word names a file or a module: it has a colon, or (of tasks) a dot or a slash."""
        return isinstance(word, str) and any(sign in word for sign in (":" if self.has_part else ":./"))

    def known(self, name: str) -> Thing | None:
        """The thing of a name; None: this process has not loaded its code."""
        return self._known.get(name)

    def text_of(self, name: str) -> str | None:
        """The text of its file; None: this process has not loaded it."""
        return self._texts.get(name)

    def texts(self) -> dict[str, str]:
        """Texts by name of all loaded files, for `adopt` in another process."""
        return dict(self._texts)

    def reference(self, name: str) -> str:
        """The reference that it was last loaded by, or the name itself if there is none."""
        return self._references.get(name, name)

    def forget(self) -> None:
        """Forget all that was loaded."""
        for kept in (self._known, self._texts, self._references):
            kept.clear()

    def load(self, words: str) -> str:
        """Run the file that the words refer to, and return the name of its thing.

        Raises:
            UserError: no such file, module or part; the code fails; it is not of this kind.
        """
        place, _, part = words.rpartition(":") if self.has_part else (words, "", "")
        if not place or (self.has_part and not part.isidentifier()) or (not self.has_part and ":" in place):
            raise UserError(f"{words!r}: expected {self.form}, such as {self.example}")
        path = Path(place).expanduser() if place.endswith(".py") else _file_of_module(place)
        name = self._take(part or None, _read(path), path)
        self._references[name] = words
        return name

    def adopt(self, name: str, text: str, path: Path) -> Thing:
        """Run the text of a file, and return the thing of this name.

        Args:
            path: of the text, for messages.
        Raises:
            UserError: the text has another name, or as `load`.
        """
        label = class_of(name)
        found = name_of(label, text)
        if found == name:
            found = self._take(label if self.has_part else None, text, path)
        if found != name:
            raise UserError(f"{path}: its text is not that of {name} but of {found}: it was changed")
        return self._known[name]

    def adopt_file(self, name: str, path: Path) -> Thing:
        """As :meth:`Shelf.adopt`, from a file.

        Raises:
            UserError: it is absent, or as `adopt`.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None
        return self.adopt(name, text, path)

    def _take(self, part: str | None, text: str, path: Path) -> str:
        found = name_of(part, text) if part else None
        if found is None or found not in self._known:
            found, thing = self.make(_module(text, path), part, text, path)
            self._known.setdefault(found, thing)
            self._texts[found] = text
        return found


def place_of(found: Any, path: Path) -> str:
    """``FILE:LINE`` of a class or a function of a file."""
    try:
        return f"{path}:{inspect.getsourcelines(found)[1]}"
    except (OSError, TypeError):
        return str(path)


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [""])[0]


def told(error: BaseException, path: Path) -> str:
    """An error of the user's code in one line, with the last line of their file in its traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line, said = (lines[-1] if lines else None), str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, said = error.lineno, error.msg
    where = path if line is None else f"{path}:{line}"
    return f"{where}: {type(error).__name__}: {(said.splitlines() or [''])[0]}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.py")])
        raise UserError(f"{path}: no such file, seen from {Path.cwd()}{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _file_of_module(module: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"{module}: no such module: {error}") from None
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        hint = f"; of a file, write {module}.py" if Path(f"{module}.py").exists() else ""
        raise UserError(f"{module}: no such module{hint}")
    return Path(str(spec.origin))


def _module(text: str, path: Path) -> ModuleType:
    """The module of a text. It is run once, under a name made from its sha256."""
    name = f"seqjax_own_{sha256_of(text)}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))  # as it was run
    sys.modules[name] = module  # dataclasses and pydantic look up annotations here
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (Exception, SystemExit)):
            raise UserError(told(error, path)) from None
        raise
    return module
