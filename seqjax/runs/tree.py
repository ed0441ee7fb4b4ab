"""Trees of plain values with the place each came from: YAML files, dotted options, and one laid over another."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from seqjax.config import Config
from seqjax.config.fields import kind_of, leaves
from seqjax.config.plain import Unreadable, load_yaml, scalar
from seqjax.errors import UserError, did_you_mean, utf8
from seqjax.families import Family, known
from seqjax.families import own as own_families
from seqjax.host.own_code import class_of
from seqjax.runs.places import other_than_config
from seqjax.tasks import own as own_tasks

RIVALS = (
    ("train.steps", "horizon.tokens", "horizon.flops", "horizon.kaplan_flops", "horizon.tokens_per_parameter"),
    ("optimizer.warmup_steps", "horizon.warmup_fraction"),
    ("evaluation.every", "horizon.evaluations"),
    ("train.evaluate_every", "horizon.evaluations"),
)
"""Alternative keys for one value. A key in an upper tree removes all its alternatives below. Of two in one file the
first in this order is used."""
_TAKES_AWAY = (
    *((rivals, rivals) for rivals in RIVALS),
    (("size.non_embedding", "model.d_model"), ("size.non_embedding",)),
)
"""(winners, losers): the first winner in an upper tree removes the losers below. A width removes a size, but a size
does not remove a width, which it needs for the proportions."""


OWN = {"task.name": own_tasks.shelf, "model.family": own_families.shelf}
"""Keys whose values may name code of the user's own."""


@dataclass
class Tree:
    """Nested plain values, and the place (``file:line`` or ``command line``) of each dotted key."""

    values: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    source: str = ""
    overruled: tuple[str, ...] = ()
    """Alternative keys that were removed, in words."""

    def get(self, key: str) -> Any:
        """The value of a dotted key, or None."""
        value: Any = self.values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def place(self, key: str) -> str:
        """The place of a dotted key, or of its nearest ancestor with a place."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return self.source


def read_tree(path: Path, may_have_base: bool = True) -> Tree:
    """The tree of a file, overlaid on the tree of its ``base:`` if it names one."""
    tree = read_file(path)
    base = tree.values.pop("base", None)
    if base is None:
        return tree
    if not may_have_base:
        raise UserError(f"{tree.place('base')}: base: a base file cannot have a base of its own")
    if not isinstance(base, str):
        raise UserError(f"{tree.place('base')}: base: expected the name of a file, got {base!r}")
    return overlay(read_tree(beside(path, base), may_have_base=False), tree)


def beside(path: Path, name: str) -> Path:
    """The path of a file ``name`` that is given in the file ``path``."""
    return Path(os.path.normpath(path.parent / name))


def read_file(path: Path) -> Tree:
    if path.is_dir():
        raise UserError(f"{path}: {other_than_config(path)}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such config file{did_you_mean(path.name, siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the config file: {error}") from None
    places: dict[str, str] = {}
    try:
        values = load_yaml(text, str(path), lambda keys, line: places.setdefault(".".join(keys), f"{path}:{line}"))
    except Unreadable as error:
        raise UserError(str(error)) from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, got {type(values).__name__}")
    tree = Tree(values, places, str(path))
    for key in OWN:
        section, _, name = key.partition(".")
        if isinstance(part := values.get(section), dict) and name in part:
            part[name] = loaded(key, part[name], tree.place(key))
    return tree


def loaded(key: str, name: Any, place: str) -> Any:
    """The name of a family or a task in configs. A user's own file is run, and named by its text.

    Args:
        key: a key of `OWN`; the value of another key is returned as it is.
    Raises:
        UserError: the file has nothing of this kind, or its code fails.
    """
    shelf = OWN.get(key)
    if shelf is None or not shelf.names_file(name):
        return name
    try:
        return shelf.load(name)
    except UserError as error:
        raise UserError(f"{place}: {key}: {error}") from None


def options_tree(options: Mapping[str, Any], source: str = "command line", schema: type = Config) -> Tree:
    """The tree of dotted options; values are read as YAML unless the field is text."""
    tree = Tree({}, {}, source)
    texts = _text_fields(schema)
    for key, value in options.items():
        *parents, leaf = key.split(".")
        level = tree.values
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise UserError(f"{source}: {key}: '{parent}' is given as a value and as a group")
        if isinstance(value, str):
            utf8(value, f"{source}: {key}")
        level[leaf] = _value(value, source, key) if isinstance(value, str) and key not in texts else value
        level[leaf] = loaded(key, level[leaf], source)
        tree.places[key] = source
    return tree


def _value(text: str, source: str, key: str) -> Any:
    """The value of an option: a word, or a list or mapping in YAML."""
    try:
        return load_yaml(text) if text.lstrip()[:1] in ("[", "{", '"', "'") else scalar(text.strip())
    except Unreadable as error:
        raise UserError(f"{source}: {key}: cannot read the value {text!r}: {error}") from None


@cache
def _text_fields(of: type) -> frozenset[str]:
    return frozenset(key for key, schema in leaves(of) if schema.get("type") == "string" or "const" in schema)


def overlay(below: Tree, above: Tree) -> Tree:
    """``above`` overlaid on ``below``, key by key.

    A ``model`` section of another kind of family replaces the one below, since their options differ. Within a kind, the
    section below is kept, without the options that the new family does not have.
    A ``task`` section of another task replaces the one below; another version of its file does not.
    """
    below, overruled = _without_rivals(below, above)
    values = dict(below.values)
    places = dict(below.places)
    old, new = family_in(values), family_in(above.values)
    if old and new and old is not new:
        alike = kind_of(old) is kind_of(new)
        names = {field.name for field in fields(new)} if alike else set()
        values["model"] = {name: value for name, value in values["model"].items() if name in names}
        places = {k: place for k, place in places.items() if not k.startswith("model.") or k[6:] in names}
    tasks = [class_of(name) for tree in (below, above) if isinstance(name := tree.get("task.name"), str)]
    if len(set(tasks)) == 2:
        del values["task"]
        places = {key: place for key, place in places.items() if key.partition(".")[0] != "task"}
    source = above.source if above.values else below.source
    return Tree(
        _merge(values, above.values), places | above.places, source, below.overruled + above.overruled + overruled
    )


def dropped_fields(below: Tree, whole: Tree) -> str:
    """What `overlay` dropped and kept of the section ``model`` below for another family, in a line; "" if nothing."""
    old, new = below.values.get("model"), whole.values.get("model")
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)) or not (
        gone := [key for key in old if key not in new]
    ):
        return ""
    kept = [key for key in old if key != "family" and whole.places.get(f"model.{key}") == below.place(f"model.{key}")]
    lost = ", ".join(f"{key} {json.dumps(old[key])}" for key in gone)
    return (
        f"model.family {new.get('family')} in place of {old.get('family')} ({below.place('model.family')}): dropped "
        f"{lost}; kept {', '.join(kept) or 'nothing'} of the section model"
    )


def _without_rivals(below: Tree, above: Tree) -> tuple[Tree, tuple[str, ...]]:
    """``below`` without the keys whose alternatives are in ``above``."""
    overruled = []
    values = below.values
    for winners, losers in _TAKES_AWAY:
        winner = next((key for key in winners if above.get(key) is not None), None)
        for key in losers if winner else ():
            if below.get(key) is not None:
                section, _, name = key.partition(".")
                values = {**values, section: {k: v for k, v in values[section].items() if k != name}}
                if key != winner:
                    overruled.append(
                        f"{winner} ({above.place(winner)}) over {key} {below.get(key)} ({below.place(key)})"
                    )
    return Tree(values, below.places, below.source, below.overruled), tuple(overruled)


def family_in(values: Mapping[str, Any]) -> type[Family] | None:
    model = values.get("model")
    name = model.get("family") if isinstance(model, Mapping) else None
    return known(name)


def _merge(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merge(below.get(key), value) for key, value in above.items()}}
