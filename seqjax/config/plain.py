"""Reading of numbers, truth values and YAML: one rule for files, options and sweeps.

Numbers are decimal, in ASCII digits: 100, 0.5, 3e-4. Truth values are true and false. Everything else is text, which a
field for numbers refuses: 0x1F, 1_000, 1:30, yes. It is the core of YAML 1.2 without other bases, .inf and .nan.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

_WHOLE = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_MOST_DIGITS = 300  # of a whole number; larger numbers exceed a float
_MOST_VALUES = 100_000  # in one file, repeated aliases included
_TEXT, _PLAIN, _MERGE = "tag:yaml.org,2002:str", "plain", "<<"
_DEFAULT_TAGS = (_TEXT, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", _PLAIN)

Note = Callable[[tuple[str, ...], int], None]
"""Called with each key (and the keys above it) and its line."""


class Unreadable(ValueError):
    """A value that cannot be read; the message has the place and the reason."""


def scalar(text: str) -> Any:
    """A word as int, float, bool or None; else the word itself.

    Raises:
        Unreadable: a number too large for a float.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        if len(text) > _MOST_DIGITS:
            raise Unreadable(f"a number of {len(text)} digits is too large")
        return int(text)
    if _NUMBER.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise Unreadable(f"{text} is too large for a number")
        return value
    return text


def whole(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """The type of an argparse option for whole numbers within these bounds; 1e3 is allowed."""
    return _argument("a whole number", lambda value: value == int(value), int, least, most)


def number(least: float | None = None, most: float | None = None, above: float | None = None) -> Callable[[str], float]:
    """The type of an argparse option for finite numbers within these bounds."""
    return _argument("a number", lambda value: above is None or value > above, float, least, most, above)


def _argument(
    what: str,
    fits: Callable[[Any], bool],
    kind: Callable[[Any], Any],
    least: float | None,
    most: float | None,
    above: float | None = None,
) -> Callable[[str], Any]:
    bounds = [
        f"{word} {bound}"
        for word, bound in (("of at least", least), ("above", above), ("at most", most))
        if bound is not None
    ]

    def read(text: str) -> Any:
        try:
            value = scalar(text.strip(" "))
        except Unreadable:
            value = None
        if type(value) in (int, float) and fits(value):
            if (least is None or value >= least) and (most is None or value <= most):
                return kind(value)
        raise argparse.ArgumentTypeError(f"expected {' '.join([what, ' and '.join(bounds)]).strip()}, got {text!r}")

    return read


class _Loader(yaml.SafeLoader):
    """Marks plain scalars (without quotes and tag); :func:`scalar` reads them."""


_Loader.yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))], "": [(_PLAIN, re.compile(""))]}


class _Dumper(yaml.SafeDumper):
    """Quotes text that this module or another reader of YAML would read as something else; flat lists on one line."""


_Dumper.yaml_implicit_resolvers = {
    first: list(found) for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"(?:{_WHOLE.pattern})\Z"), list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{_NUMBER.pattern})\Z"), list("-+.0123456789"))
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=not any(isinstance(item, dict | list) for item in data)
    ),
)


def dump_yaml(values: Any) -> str:
    """Plain values as YAML; :func:`load_yaml` is the inverse."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=110)


def load_yaml(text: str, source: str = "", note: Note = lambda keys, line: None) -> Any:
    """The plain values of one YAML document: dicts with text keys, lists, and results of :func:`scalar`.

    Args:
        source: the file, for messages.
        note: called with every key in mappings, except within lists.
    Raises:
        Unreadable: not YAML, a key written twice, a tag, a recursive alias, or too many values.
    """
    reader = _Reader(source, note)
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else reader.value(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        if problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        raise reader.error(mark.line + 1 if mark else 0, f"not valid YAML: {problem}") from None
    except RecursionError:
        raise reader.error(0, "nested too deeply") from None


class _Reader:
    """Reads the nodes of one document."""

    def __init__(self, source: str, note: Note) -> None:
        self.source, self.note = source, note
        self.count = 0
        self.open: list[yaml.Node] = []

    def place(self, line: int) -> str:
        """File and line; line 0: only the file."""
        return f"{self.source}:{line}" if self.source and line else self.source or f"line {line or 1}"

    def error(self, line: int, message: str) -> Unreadable:
        """An error, with its place if there is a file."""
        return Unreadable(f"{self.place(line)}: {message}" if self.source else message)

    def value(self, node: yaml.Node, keys: tuple[str, ...] | None) -> Any:
        """The plain value of a node below these keys; ``keys`` is None within a list."""
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > _MOST_VALUES:
            raise self.error(line, f"more than {_MOST_VALUES:,} values, counting what aliases repeat")
        if node.tag not in _DEFAULT_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.error(line, f"the tag {tag} is not allowed; write the value without it")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        if any(node is above for above in self.open):
            raise self.error(line, "an alias names what it is part of")
        self.open.append(node)
        if isinstance(node, yaml.MappingNode):
            found: Any = self._mapping(node, keys)
        else:
            found = [self.value(item, None) for item in node.value]
        self.open.pop()
        return found

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        if node.tag != _PLAIN:
            return node.value
        try:
            return scalar(node.value)
        except Unreadable as error:
            raise self.error(line, str(error)) from None

    def _mapping(self, node: yaml.MappingNode, keys: tuple[str, ...] | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(line, "expected a name before the colon")
            key = key_node.value
            if key in first:
                whole_key = ".".join([*(keys or ()), key])
                raise self.error(line, f"{whole_key}: written twice, first at {self.place(first[key])}")
            first[key] = line
            if key == _MERGE and key_node.tag == _PLAIN:
                merged = self._merged(self.value(value_node, keys), line)
                continue
            path = None if keys is None else (*keys, key)
            if path is not None:
                self.note(path, line)
            found[key] = self.value(value_node, path)
        return {**merged, **found}

    def _merged(self, value: Any, line: int) -> dict[str, Any]:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self.error(line, "<<: expected an alias of keys and values")
        return {key: item for part in reversed(parts) for key, item in part.items()}


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings, in their order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
