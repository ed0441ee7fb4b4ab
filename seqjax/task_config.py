"""What the configs of all tasks have in common, and the identity of a task's run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, PositiveInt

from seqjax.families import history

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


@dataclass(frozen=True)
class TaskTrain:
    """How long, and in which pieces."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """B, examples in one optimizer step."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial parameters, the data order and dropout."""
    evaluate_every: PositiveInt = 100
    """Steps between two evaluations, each with a checkpoint; the last step is always evaluated."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics.jsonl (each line holds the mean over the steps since the last)."""


LATER_KEYS = {"norm_position": "before"}
"""Keys of the model that came after the first recorded runs of tasks, with their defaults. At its default such a key is
no part of the canonical form, so that the ids of runs recorded before it stay what they were."""


def canonical(config: dict[str, Any]) -> dict[str, Any]:
    """The tree of a config, new or read from config.json, as runs are told apart by."""
    if "model" not in config:
        return config
    model = {key: value for key, value in config["model"].items() if LATER_KEYS.get(key, ...) != value}
    _, retired = history(model["family"])
    return {**config, "model": {**retired, **model}}


def canonical_json(config: Any) -> str:
    """One canonical text for each config dataclass: sorted keys, no spaces."""
    return json.dumps(canonical(dataclasses.asdict(config)), sort_keys=True, separators=(",", ":"))


def task_run_id(name: str, config: Any) -> str:
    """``name`` and ten digits of the sha256 of the canonical config: the same config has the same folder."""
    return f"{name}-{hashlib.sha256(canonical_json(config).encode()).hexdigest()[:10]}"
