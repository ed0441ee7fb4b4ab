"""Tasks from files outside the package: ``path/to/my_task.py``, or ``package.module`` (see `seqjax.host.own_code`).

The file has `Config` and `make_task`, and optionally `check` and `load` (see `seqjax.tasks.task`). The task's name is
the class of its section `task` with a digest of the file: ``Sums@0123456789abcdef``.

Without its code a task has only its name, and the sections of its configs are not checked (`absent`). Tables, fits and
figures need no more.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from seqjax.config import STRICT, WITHOUT_SEED, ModelConfig, OptimizerConfig, TaskTrain
from seqjax.errors import UserError
from seqjax.host.own_code import Shelf, first_line, name_of, place_of
from seqjax.tasks.task import Task

EVERY = ("task", "model", "optimizer", "train")  # sections


class OwnTask(NamedTuple):
    """The contents of a task's file, under the names that tasks of the package have."""

    Config: type
    make_task: Callable[[Any, Any], Task]
    check: Callable[[Any], None] = lambda config: None
    load: Callable[..., Any] = lambda config, where=None: None


def absent(values: Mapping[str, Any]) -> type:
    """The dataclass for the config of a run, when this process has not run the code of its task.

    Raises:
        UserError: a section is not a mapping of keys to values.
    """
    name, parts = values["task"]["name"], []
    for section, value in values.items():
        if section != "model" and not (isinstance(value, Mapping) and all(map(str.isidentifier, map(str, value)))):
            raise UserError(f"{name}: {section}: expected a section with keys and values")
        parts.append((section, tuple(value)))
    return _absent(tuple(parts))


@cache
def _absent(parts: tuple[tuple[str, tuple[str, ...]], ...]) -> type:
    kinds: dict[str, Any] = {"model": ModelConfig, "optimizer": OptimizerConfig, "train": TaskTrain}
    of_train = {field.name for field in dataclasses.fields(TaskTrain)}
    for section, keys in parts:
        if section not in kinds or (section == "train" and not {*keys} <= of_train):
            kinds[section] = dataclasses.make_dataclass("Written", [(key, Any) for key in keys], frozen=True)
    return dataclasses.make_dataclass("Absent", list(kinds.items()), frozen=True)


def as_written(schema: type, name: str) -> bool:
    """Whether a section is not checked because its code is missing."""
    kind = {field.name: field.type for field in dataclasses.fields(schema)}.get(name)
    return getattr(kind, "__name__", "") == "Written"


def refuse(name: str) -> UserError:
    """The error for a command that needs the code of a task that is not loaded."""
    return UserError(
        f"task.name: {name} is code outside of the package: name its file with --task.name FILE.py, or run the copy "
        "in the run folder with --trust-code; in Python, call seqjax.tasks.task_of(FILE) first"
    )


def _make(module: ModuleType, _part: str | None, text: str, path: Path) -> tuple[str, OwnTask]:
    found = getattr(module, "Config", None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"{path}: has no dataclass Config; a task has one, with the sections {', '.join(EVERY)}")
    functions = {name: getattr(module, name) for name in ("make_task", "check", "load") if hasattr(module, name)}
    if "make_task" not in functions:
        raise UserError(f"{path}: has no function make_task(config, data); a task has one")
    for name, function in functions.items():
        if not callable(function):
            raise UserError(f"{path}: {name} is no function")
    section, default = _checked(found, path)
    name = name_of(section.__name__, text)
    return name, OwnTask(Config=_named(found, section, default, name), **functions)


def _checked(found: type, path: Path) -> tuple[type, Any]:
    """The class of the section `task` and its default value, after checking `Config`."""
    where = place_of(found, path)
    _check_frozen(found, f"{where}: Config")
    names = [field.name for field in dataclasses.fields(found)]
    if missing := [name for name in EVERY if name not in names]:
        raise UserError(
            f"{where}: Config lacks the section {missing[0]}; derive it from seqjax.config.TaskConfig, and add task"
        )
    try:
        default = found()
        kinds = typing.get_type_hints(found, include_extras=True)
    except Exception as error:
        raise UserError(f"{where}: Config() fails, but every section has a default: {first_line(error)}") from None
    for name in names:
        if name == "model":
            continue
        if not (isinstance(kinds[name], type) and dataclasses.is_dataclass(kinds[name])):
            raise UserError(f"{where}: Config.{name}: expected a frozen dataclass; every section is one")
        _check_frozen(kinds[name], f"{where}: Config.{name}")
        if not isinstance(getattr(default, name), kinds[name]):
            raise UserError(f"{where}: Config.{name}: its default is no {kinds[name].__name__}")
        if not hasattr(kinds[name], "__pydantic_config__"):
            kinds[name].__pydantic_config__ = STRICT
    try:
        TypeAdapter(found).rebuild(force=True, raise_errors=True)
    except (PydanticUserError, NameError, TypeError) as error:
        raise UserError(f"{where}: Config: a field cannot be read from a config: {first_line(error)}") from None
    return kinds["task"], default.task


def _check_frozen(found: Any, where: str) -> None:
    if not found.__dataclass_params__.frozen:
        raise UserError(f"{where}: is no frozen dataclass; write @dataclass(frozen=True) above it")


def _named(found: type, section: type, default: Any, name: str) -> type:
    """The dataclass of configs. Its section `task` has got the field `name`."""
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(section) if field.init}
    values.pop("name", None)
    named_field = ("name", Literal[name], dataclasses.field(default=name, kw_only=True))
    named = dataclasses.make_dataclass(
        section.__name__, [named_field], bases=(section,), frozen=True, namespace={"__doc__": section.__doc__}
    )
    named.__module__ = section.__module__
    members = {"__doc__": found.__doc__, "__pydantic_config__": STRICT}
    if not hasattr(found, "lane_keys"):
        members["lane_keys"] = WITHOUT_SEED  # its held-out data may depend on the seed
    made = dataclasses.make_dataclass(
        found.__name__,
        [("task", named, dataclasses.field(default_factory=lambda: named(**values)))],
        bases=(found,),
        frozen=True,
        namespace=members,
    )
    made.__module__ = found.__module__
    return made


shelf = Shelf("task", "--task.name", "FILE.py or PACKAGE.MODULE", "my_task.py", "task.py", _make)
"""The user's own tasks that this process has loaded."""
