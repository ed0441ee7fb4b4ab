"""What tells runs apart: the canonical form of a config, its run id, and what the runs of one program share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from seqjax.config.sections import Config, RunConfig
from seqjax.families import history
from seqjax.host.own_code import class_of, is_own


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The config as plain nested dicts with every field. -0.0 is 0.0, so that equal configs have equal texts."""
    return _positive_zeros(dataclasses.asdict(config))


def _positive_zeros(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _positive_zeros(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_positive_zeros, value))
    return value + 0.0 if isinstance(value, float) else value


def canonical_model(model: Mapping[str, Any], recorded: tuple[str, ...] = ()) -> dict[str, Any]:
    """The section `model` in the form for run ids: as when the first runs of its family were recorded.

    Later fields are left out at their defaults, and retired fields are added (see `Family`).

    Args:
        recorded: later fields that the first runs of this kind of task already had.
    """
    (later, retired), missing = history(model["family"]), object()
    later = {key: value for key, value in later.items() if key not in recorded}
    kept = {key: value for key, value in model.items() if later.get(key, missing) != value}
    return {**retired, **kept}


LATER_TEXT = {
    "train.bptt": None,
    "train.start": None,
    "optimizer.momentum": 0.95,
    "optimizer.decay_fraction": 0.2,
}
LATER_TASKS = {
    "train.accumulation": 1,
    "train.compute_dtype": "float32",
    "train.init_scale": 1.0,
    "train.start": None,
    "train.checkpoint_every": None,
    "task.score_test": True,
    "optimizer.momentum": 0.95,
    "optimizer.decay_fraction": 0.2,
}
"""Keys added after the first recorded runs, with their defaults: at these values they do not change a run's id."""
RECORDED_TASKS = {"transformer": ("attention_kernel",)}
"""Later fields that the first recorded runs of tasks had, by family; in other families `recurrence`."""


PLACED = ("train.mesh", "train.remat")
"""Keys for where and in how much memory a run is computed. They change its numbers by rounding alone, never its id: a
run may be resumed with others."""


def placed(tree: Mapping[str, Any]) -> list[Any]:
    """The values of `PLACED` in the tree of a config; None where its version did not have the key."""
    return [tree[section].get(name) for section, _, name in (key.partition(".") for key in PLACED)]


def placed_as(config: RunConfig, other: RunConfig) -> RunConfig:
    """The config with the other's values of `PLACED`."""
    train = dataclasses.replace(config.train, mesh=other.train.mesh, remat=other.train.remat)
    return dataclasses.replace(config, train=train)


def canonical(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a config, new or from config.json, in the form that identifies runs."""
    is_text = "evaluation" in tree and "task" not in tree
    found = {name: dict(section) if isinstance(section, Mapping) else section for name, section in tree.items()}
    if "family" in found.get("model", {}):
        recorded = RECORDED_TASKS.get(found["model"]["family"], ("recurrence",))
        found["model"] = canonical_model(found["model"], () if is_text else recorded)
    if not is_own(found.get("task", {}).get("name")):
        found.get("task", {}).pop("name", None)  # its other keys tell the task
    for key, default in (LATER_TEXT if is_text else LATER_TASKS).items():
        section, _, name = key.partition(".")
        if found.get(section, {}).get(name, default) == default:
            found.get(section, {}).pop(name, None)
    for key in PLACED:
        section, _, name = key.partition(".")
        found.get(section, {}).pop(name, None)
    return found


def canonical_json(config: RunConfig) -> str:
    """The canonical text of a config: sorted keys, no spaces, floats in their shortest exact form."""
    return json.dumps(canonical(to_dict(config)), sort_keys=True, separators=(",", ":"))


LANE_KEYS = (
    "optimizer.learning_rate",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.final_fraction",
    "optimizer.step_every",
    "optimizer.step_factor",
    "optimizer.decay_fraction",
    "optimizer.weight_decay",
    "train.seed",
    "train.init_scale",
)
"""Keys that may differ between the runs of one compiled program: they are traced values, not code."""


WITHOUT_SEED = tuple(key for key in LANE_KEYS if key != "train.seed")
"""`lane_keys` of a task whose shapes or held-out data depend on the seed."""


def lane_keys(config: RunConfig) -> tuple[str, ...]:
    """Keys that may differ between the runs of a bundle: `lane_keys` of the task's config, else `LANE_KEYS`."""
    return getattr(config, "lane_keys", LANE_KEYS)


def program_key(config: RunConfig) -> str:
    """The same text for all configs that can be lanes of one bundle (see `lane_keys`)."""
    return text_without(config, lane_keys(config))


def text_without(config: RunConfig, keys: Iterable[str]) -> str:
    """The same text for all configs that differ only in these dotted keys."""
    tree = to_dict(config)
    for key in keys:
        section, _, name = key.partition(".")
        tree[section].pop(name, None)
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def run_id(config: RunConfig) -> str:
    """A readable name with 10 hex digits of the config's sha256; equal configs have equal ids."""
    task = class_of(task_name(config))
    name = f"{class_of(config.model.family)}-{config.model.shape}"
    name = name if task == "text" else f"{task}-{name}"
    return f"{name}-{hashlib.sha256(canonical_json(config).encode()).hexdigest()[:10]}"


def task_name(config: RunConfig) -> str:
    """The name of a run's task."""
    return "text" if isinstance(config, Config) else config.task.name
