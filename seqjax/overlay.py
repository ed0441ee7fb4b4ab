"""From YAML files and dotted options to a checked :class:`~seqjax.config.Config`.

One mechanism for files, command line and sweeps: a tree of plain values with the place each came from, overlaid from
left to right (base file, file, axes of a sweep, dotted options), then validated once. An error names that place, the
dotted key, what is allowed and what is near.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from seqjax.config import Config, RunConfig, check_shared
from seqjax.config import check as check_text
from seqjax.errors import UserError, did_you_mean, utf8
from seqjax.families import FAMILIES, Family, known
from seqjax.families import own as own_families
from seqjax.families.family import Impossible
from seqjax.fields import TARGETS, adapter_of, kind_of, leaves
from seqjax.own_code import class_of, is_own
from seqjax.plain import Unreadable, load_yaml, scalar
from seqjax.plain import dump_yaml as dump_yaml
from seqjax.tasks import TASKS, task_module
from seqjax.tasks import own as own_tasks

RIVALS = (
    ("train.steps", "horizon.tokens", "horizon.flops", "horizon.kaplan_flops", "horizon.tokens_per_parameter"),
    ("optimizer.warmup_steps", "horizon.warmup_fraction"),
    ("evaluation.every", "horizon.evaluations"),
    ("train.evaluate_every", "horizon.evaluations"),
)
"""Keys that say the same thing in different ways: what lies above takes away all that lies below. Of two in one file
the first in this order is taken."""
_TAKES_AWAY = (
    *((rivals, rivals) for rivals in RIVALS),
    (("size.non_embedding", "model.d_model"), ("size.non_embedding",)),
)
"""The first of these keys that is given above takes away those below. A width takes away a size, but not the other way
round: the size needs the width for the proportions."""


OWN = {"task.name": own_tasks.shelf, "model.family": own_families.shelf}
"""Keys whose values may name code of the user's own."""
_FAMILIES = f"{', '.join(FAMILIES)}, or FILE.py:CLASS of your own"


@dataclass
class Tree:
    """Nested plain values and, for each dotted key, the place (``file:line`` or ``command line``) it came from."""

    values: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    source: str = ""
    overruled: tuple[str, ...] = ()
    """Rivals that gave way, in words."""

    def get(self, key: str) -> Any:
        """The value of a dotted key, or None."""
        value: Any = self.values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def place(self, key: str) -> str:
        """The place of a dotted key or of its nearest written ancestor."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return self.source


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of a run of any task.

    A YAML or JSON file is read (with one level of ``base:``), dotted options are laid over it, and all is checked.

    Args:
        path: the file; ``base: other.yaml`` in it names a file, relative to it, that it overlays.
        options: dotted keys (``model.d_model``) and their values; text is read as YAML.
    Raises:
        UserError: file absent or not YAML, unknown key, wrong type, impossible combination.
    """
    return validate(with_options(read_tree(Path(path)), options or {}))


Schema = TypeVar("Schema")


def load_as(schema: type[Schema], path: str | Path, options: Mapping[str, Any] | None = None) -> Schema:
    """As :func:`load_config`, of the task with this ``Config``, which the file need not name.

    Raises:
        UserError: as :func:`load_config`; or the file is of another task.
    """
    name = schema.__module__.rpartition(".")[2]
    tree = read_tree(Path(path))
    if schema is not Config:
        tree = overlay(Tree({"task": {"name": name}}, source=tree.source), tree)
    found = validate(with_options(tree, options or {}))
    if not isinstance(found, schema):
        raise UserError(f"{path}: is of another task than {name}")
    return found


def with_options(tree: Tree, options: Mapping[str, Any]) -> Tree:
    """A tree with dotted options over it."""
    if "task.name" in options:
        options = {**options, "task.name": loaded("task.name", options["task.name"], "command line")}
        tree = overlay(tree, Tree({"task": {"name": options["task.name"]}}, {"task.name": "command line"}))
    return overlay(tree, options_tree(options, schema=schema_of(tree)))


def schema_of(tree: Tree) -> type:
    """The dataclass of a tree's values: that of the task it names, or of text where it has no section `task`.

    Runs that were recorded before tasks had names are known by their keys. Of a task whose code is not loaded it is
    made of the sections that the tree has.

    Raises:
        UserError: no task of this name.
    """
    section = tree.values.get("task")
    if section is None:
        return Config
    name = section.get("name") if isinstance(section, Mapping) else None
    if name is None:
        name = _task_by_its_keys(tree.values)
    if is_own(name):
        found = own_tasks.shelf.known(name)
        return own_tasks.absent(_without_targets(tree.values)) if found is None else found.Config
    if name not in TASKS[1:]:
        said = "missing" if name is None else f"{name!r} is not allowed"
        raise UserError(
            f"{tree.place('task.name')}: task.name: {said}; allowed: {', '.join(TASKS[1:])}, or FILE.py of "
            f"your own{did_you_mean(str(name), TASKS[1:])}; text has no section task"
        )
    return task_module(name).Config


def _without_targets(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section for name, section in values.items() if name not in TARGETS}


def _task_by_its_keys(values: Mapping[str, Any]) -> str | None:
    """The one task whose config has all of these sections, and in `task` all of these keys."""
    fitting = []
    for name in TASKS[1:] if isinstance(values["task"], Mapping) else ():
        sections = {part.name: part for part in fields(task_module(name).Config)}
        known = {part.name for part in fields(sections["task"].default_factory)}
        if values["task"] and {*values} <= {*sections, "horizon", "size"} and {*values["task"]} <= known:
            fitting.append(name)
    return fitting[0] if len(fitting) == 1 else None


def read_tree(path: Path, may_have_base: bool = True) -> Tree:
    """The tree of a file, overlaid on that of its ``base:`` if it names one."""
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
    """The file that ``name`` means in the file ``path``."""
    return Path(os.path.normpath(path.parent / name))


def read_file(path: Path) -> Tree:
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
    """The name in configs of a family or a task; the file of one of the user's own is run, and named by its text.

    Args:
        key: of `OWN`; of another one the value is as it is.
    Raises:
        UserError: there is nothing of this kind in the file, or its code fails.
    """
    shelf = OWN.get(key)
    if shelf is None or not shelf.names_file(name):
        return name
    try:
        return shelf.load(name)
    except UserError as error:
        raise UserError(f"{place}: {key}: {error}") from None


def options_tree(options: Mapping[str, Any], source: str = "command line", schema: type = Config) -> Tree:
    """The tree of dotted options; text is read as YAML where the field is not itself text."""
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
    """The value of an option: a word, or a list or mapping as YAML writes them."""
    try:
        return load_yaml(text) if text.lstrip()[:1] in ("[", "{", '"', "'") else scalar(text.strip())
    except Unreadable as error:
        raise UserError(f"{source}: {key}: cannot read the value {text!r}: {error}") from None


@cache
def _text_fields(of: type) -> frozenset[str]:
    return frozenset(key for key, schema in leaves(of) if schema.get("type") == "string" or "const" in schema)


def overlay(below: Tree, above: Tree) -> Tree:
    """``above`` laid over ``below``, key by key.

    A ``model`` section of another kind of family replaces the one below: the options of one kind mean nothing to
    another. Among recurrent families the section below stays, without the options that the new family does not have.
    A ``task`` section of another task replaces the one below; another version of its file does not.
    """
    below, overruled = _without_rivals(below, above)
    values = dict(below.values)
    places = dict(below.places)
    old, new = _family(values), _family(above.values)
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


def _without_rivals(below: Tree, above: Tree) -> tuple[Tree, tuple[str, ...]]:
    """``below`` without the keys whose rivals ``above`` gives."""
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


def _family(values: Mapping[str, Any]) -> type[Family] | None:
    model = values.get("model")
    name = model.get("family") if isinstance(model, Mapping) else None
    return known(name)


def _merge(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merge(below.get(key), value) for key, value in above.items()}}


def parse(tree: Tree) -> Any:
    """The values of a tree with their types: the config of its task, with `horizon` and `size` beside it.

    Whether they can stand together is for :func:`checked`.

    Raises:
        UserError: one line for the first thing that is wrong, with its place, key, what is allowed and what is near.
    """
    schema = schema_of(tree)
    adapter = adapter_of(schema)
    try:
        values = _whole(_without_retired(tree.values))
        for section in values:  # without code nobody says which of its numbers are whole
            if _has_no_code(section, tree, schema):
                values[section] = tree.values[section]
        # JSON in strict mode: lists may be tuples and whole numbers floats, but no text becomes a number.
        return adapter.validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UserError(_describe(error, tree, schema)) from None


def _has_no_code(section: str, tree: Tree, schema: type) -> bool:
    if section != "model":
        return own_tasks.as_written(schema, section)
    return is_own(name := tree.get("model.family")) and known(name) is None


def _without_retired(values: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that recorded runs have and their family no longer has, where they say what always holds."""
    family = _family(values)
    if family is None:
        return values
    missing = object()
    model = {name: value for name, value in values["model"].items() if family.retired.get(name, missing) != value}
    return {**values, "model": model}


def _whole(value: Any) -> Any:
    """The same values with whole floats, such as 1e3, as ints: fields of both kinds take them."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def check(config: RunConfig) -> None:
    """Raise `Impossible` when values that are right one by one cannot stand together."""
    if isinstance(config, Config):
        check_text(config)
        return
    check_shared(config)
    name = config.task.name
    if name in TASKS or own_tasks.shelf.known(name) is not None:
        task_module(name).check(config)


def checked(config: RunConfig, tree: Tree) -> RunConfig:
    """The config, once its values can stand together; an error names the place in the tree it came from."""
    try:
        check(config)
    except Impossible as error:
        raise UserError(f"{tree.place(error.key)}: {error.key}: {error}") from None
    return config


def validate(tree: Tree) -> RunConfig:
    """The config of a tree without targets (`horizon`, `size`); :func:`seqjax.targets.resolve` takes those too.

    Raises:
        UserError: as :func:`parse` and :func:`checked`.
    """
    request = parse(tree)
    for section in TARGETS:
        if tree.values.get(section):
            raise UserError(
                f"{tree.place(section)}: {section}: is resolved when a run is planned, and is no part of one"
            )
    return checked(without_targets(request), tree)


def without_targets(request: Any) -> RunConfig:
    """The config that was parsed, without `horizon` and `size`."""
    schema = type(request).__bases__[0]
    return schema(**{part.name: getattr(request, part.name) for part in fields(schema)})


def _describe(error: ValidationError, tree: Tree, schema: type) -> str:
    found = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = [str(part) for part in found["loc"]]
    key = ".".join(location)
    where = f"{tree.place(key)}: {key}"
    match found["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            names = _siblings(location, tree, schema)
            near = did_you_mean(location[-1], names) or _owners(location)
            return f"{where}: unknown key; allowed: {', '.join(names)}{near}"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", found["ctx"]["expected"])
            near = did_you_mean(str(found["input"]), allowed)
            return f"{where}: {found['input']!r} is not allowed; allowed: {', '.join(allowed)}{near}"
        case "union_tag_invalid":
            near = did_you_mean(str(found["ctx"]["tag"]), FAMILIES)
            where = f"{tree.place(f'{key}.family')}: {key}.family"
            return f"{where}: {found['ctx']['tag']!r} is not allowed; allowed: {_FAMILIES}{near}"
        case "union_tag_not_found":
            return f"{where}.family: missing; allowed: {_FAMILIES}"
        case "missing":
            return f"{where}: missing"
        case "bool_type":
            return f"{where}: expected true or false, got {found['input']!r}"
    is_word = found["type"] in ("int_type", "float_type") and isinstance(found["input"], str)
    hint = "; numbers are decimal and finite: 100, 0.5, 3e-4" if is_word else ""
    return f"{where}: {found['msg'][0].lower()}{found['msg'][1:]}, got {found['input']!r}{hint}"


def _owners(location: list[str]) -> str:
    """Which other families have a field that this one does not have."""
    owners = [name for name, family in FAMILIES.items() if location[-1] in {field.name for field in fields(family)}]
    if location[:-1] != ["model"] or not owners:
        return ""
    return f"; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"


def _siblings(location: list[str], tree: Tree, of: type) -> list[str]:
    group = ".".join(location[:-1])
    if group == "model" and (family := _family(tree.values)):
        return ["family", *(field.name for field in fields(family) if field.name != "family")]
    prefix = f"{group}." if group else ""
    names = [key[len(prefix) :].partition(".")[0] for key, _ in leaves(of) if key.startswith(prefix)]
    return list(dict.fromkeys(names))
