"""From YAML files and dotted options to a checked :class:`~seqjax.config.Config`.

Files, command line and sweeps use one mechanism: trees of plain values with their places. They are overlaid in order
(base file, file, axes of a sweep, dotted options), then validated once. An error has the place, the dotted key, what is
allowed, and a similar name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from seqjax.config import Config, RunConfig, check_shared
from seqjax.config import check as check_text
from seqjax.config.fields import TARGETS, adapter_of, leaves
from seqjax.errors import UserError, did_you_mean
from seqjax.families import FAMILIES, known
from seqjax.families.family import Impossible
from seqjax.host.own_code import is_own
from seqjax.runs.tree import Tree, family_in, loaded, options_tree, overlay, read_tree
from seqjax.tasks import TASKS, task_module
from seqjax.tasks import own as own_tasks

FAMILY_NAMES = f"{', '.join(FAMILIES)}, or FILE.py:CLASS of your own"


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of a run of any task.

    A YAML or JSON file is read (with one level of ``base:``), dotted options override it, and all is checked.

    Args:
        path: the file. ``base: other.yaml`` in it names a file, relative to it, whose values it overrides.
        options: dotted keys (``model.d_model``) and their values; text is read as YAML.
    Raises:
        UserError: file missing or not YAML, unknown key, wrong type, impossible combination.
    """
    return validate(with_options(read_tree(Path(path)), options or {}))


def with_options(tree: Tree, options: Mapping[str, Any]) -> Tree:
    """A tree with dotted options overlaid."""
    if "task.name" in options:
        options = {**options, "task.name": loaded("task.name", options["task.name"], "command line")}
        tree = overlay(tree, Tree({"task": {"name": options["task.name"]}}, {"task.name": "command line"}))
    return overlay(tree, options_tree(options, schema=schema_of(tree)))


def schema_of(tree: Tree) -> type:
    """The config class of a tree: of the task it names, or of text if it has no section `task`.

    Runs that were recorded before tasks had names are recognized by their keys. The class
    of a task whose code is not loaded is made of the sections of the tree.

    Raises:
        UserError: no task with this name.
    """
    section = tree.values.get("task")
    if section is None:
        return Config
    name = section.get("name") if isinstance(section, Mapping) else None
    if name is None:
        name = _task_by_its_keys(tree.values)
    if is_own(name):
        found = own_tasks.shelf.known(name)
        sections = {name: section for name, section in tree.values.items() if name not in TARGETS}
        return own_tasks.absent(sections) if found is None else found.Config
    if name not in TASKS[1:]:
        said = "missing" if name is None else f"{name!r} is not allowed"
        raise UserError(
            f"{tree.place('task.name')}: task.name: {said}; allowed: {', '.join(TASKS[1:])}, or FILE.py of "
            f"your own{did_you_mean(str(name), TASKS[1:])}; text has no section task"
        )
    return task_module(name).Config


def _task_by_its_keys(values: Mapping[str, Any]) -> str | None:
    """The only task whose config has all of these sections and keys of `task`; None if there is not exactly one."""
    fitting = []
    for name in TASKS[1:] if isinstance(values["task"], Mapping) else ():
        sections = {part.name: part for part in fields(task_module(name).Config)}
        known = {part.name for part in fields(sections["task"].default_factory)}
        if values["task"] and {*values} <= {*sections, "horizon", "size"} and {*values["task"]} <= known:
            fitting.append(name)
    return fitting[0] if len(fitting) == 1 else None


def parse(tree: Tree) -> Any:
    """The typed values of a tree: the config of its task, with `horizon` and `size`.

    Combinations of values are checked by :func:`checked`.

    Raises:
        UserError: one line for the first mistake, with its place, key, what is allowed and a similar name.
    """
    schema = schema_of(tree)
    adapter = adapter_of(schema)
    try:
        values = _whole(_without_retired(tree.values))
        for section in values:  # without the code the types of its fields are unknown
            if _has_no_code(section, tree, schema):
                values[section] = tree.values[section]
        # JSON in strict mode: lists become tuples and whole numbers floats, but text never becomes a number.
        return adapter.validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UserError(_describe(error, tree, schema)) from None


def _has_no_code(section: str, tree: Tree, schema: type) -> bool:
    if section != "model":
        return own_tasks.as_written(schema, section)
    return is_own(name := tree.get("model.family")) and known(name) is None


def _without_retired(values: dict[str, Any]) -> dict[str, Any]:
    """The values without fields of recorded runs that their family no longer has, if they have the only value left."""
    family = family_in(values)
    if family is None:
        return values
    missing = object()
    model = {name: value for name, value in values["model"].items() if family.retired.get(name, missing) != value}
    return {**values, "model": model}


def _whole(value: Any) -> Any:
    """The same values with whole floats, such as 1e3, as ints: int and float fields accept them."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def check(config: RunConfig) -> None:
    """Raise `Impossible` for an impossible combination of valid values."""
    if isinstance(config, Config):
        check_text(config)
        return
    check_shared(config)
    name = config.task.name
    if name in TASKS or own_tasks.shelf.known(name) is not None:
        task_module(name).check(config)


def checked(config: RunConfig, tree: Tree, rule: Callable[[RunConfig], None] = check) -> RunConfig:
    """The config, if its combination of values is possible by a rule; an error has the place in the tree."""
    try:
        rule(config)
    except Impossible as error:
        raise UserError(f"{tree.place(error.key)}: {error.key}: {error}") from None
    return config


def validate(tree: Tree) -> RunConfig:
    """The config of a tree without targets (`horizon`, `size`); :func:`seqjax.runs.targets.resolve` handles those.

    Raises:
        UserError: as :func:`parse` and :func:`checked`.
    """
    request = parse(tree)
    for section in TARGETS:
        if tree.values.get(section):
            raise UserError(
                f"{tree.place(section)}: {section}: is resolved when a run is planned; a run does not have it"
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
            return f"{where}: {found['ctx']['tag']!r} is not allowed; allowed: {FAMILY_NAMES}{near}"
        case "union_tag_not_found":
            return f"{where}.family: missing; allowed: {FAMILY_NAMES}"
        case "missing":
            return f"{where}: missing"
        case "bool_type":
            return f"{where}: expected true or false, got {found['input']!r}"
    is_word = found["type"] in ("int_type", "float_type") and isinstance(found["input"], str)
    hint = "; numbers are decimal and finite: 100, 0.5, 3e-4" if is_word else ""
    return f"{where}: {found['msg'][0].lower()}{found['msg'][1:]}, got {found['input']!r}{hint}"


def _owners(location: list[str]) -> str:
    """A hint on the other families that have this field, or ""."""
    owners = [name for name, family in FAMILIES.items() if location[-1] in {field.name for field in fields(family)}]
    if location[:-1] != ["model"] or not owners:
        return ""
    return f"; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"


def _siblings(location: list[str], tree: Tree, of: type) -> list[str]:
    group = ".".join(location[:-1])
    if group == "model" and (family := family_in(tree.values)):
        return ["family", *(field.name for field in fields(family) if field.name != "family")]
    prefix = f"{group}." if group else ""
    names = [key[len(prefix) :].partition(".")[0] for key, _ in leaves(of) if key.startswith(prefix)]
    return list(dict.fromkeys(names))
