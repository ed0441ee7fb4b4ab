"""A task of two numbers, y = 3 x + 1, that trains in no time. Its loss has noise, so that a wrong key would show."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import runs
from seqjax.config import OptimizerConfig, TaskTrain
from seqjax.families import LSTM
from seqjax.tasks.task import Found, Objective, Task, found
from seqjax.trained.opened import _restored


@dataclass(frozen=True)
class Toy:
    name: str = "toy"


@dataclass(frozen=True)
class Config:
    task: Toy = field(default_factory=Toy)
    model: LSTM = field(default_factory=LSTM)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=0.1, weight_decay=0.01))
    train: TaskTrain = field(default_factory=lambda: TaskTrain(steps=60, evaluate_every=20, log_every=7, batch_size=8))


def loss(params: Any, batch: Any, carry: Any, key: jax.Array) -> tuple[jax.Array, None]:
    noise_B = 0.1 * jax.random.normal(key, batch["x"].shape)
    return jnp.mean((params["W"] * batch["x"] + params["b"] + noise_B - batch["y"]) ** 2), None


OBJECTIVE = Objective(
    init=lambda key: {"W": jax.random.normal(key), "b": jnp.zeros(())},
    loss=loss,
    score=lambda params, batch, carry: ((params["W"] - 3) ** 2 + (params["b"] - 1) ** 2, None),
)


def check(config: Config) -> None: ...


def load(config: Config, where: Any = None) -> None: ...


def make_task(
    config: Config,
    data: None = None,
    *,
    stop_at: int | None = None,
    explode_at: int | None = None,
    evaluated: Callable[[float], float] = lambda loss: loss,
    final: Callable[[Any], dict[str, Any]] = lambda params: {"test": {"W": float(params["W"])}},
) -> Task:
    """``evaluated``: held-out loss -> what is said instead."""

    def batch(step: int) -> dict[str, np.ndarray]:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x_B = np.random.default_rng(step).normal(size=config.train.batch_size).astype(np.float32)
        return {"x": x_B, "y": (3 * x_B + (np.nan if step == explode_at else 1)).astype(np.float32)}

    def summary(scores: Sequence[Any], final: bool) -> Found:
        return found(evaluated(float(scores[0])), accuracy=float("nan"))

    return Task(
        objective=OBJECTIVE,
        batch=batch,
        held_out=lambda final: [np.zeros(1, np.float32)],
        summary=summary,
        final=final,
        evaluate_every=config.train.evaluate_every,
        parameters={"total": 2, "non_embedding": 1},
        unit="points",
        per_step=config.train.batch_size,
    )


def best_params(folder: Path) -> Any:
    return _restored(folder, Config(), make_task(Config()).objective, "best", print)[1]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in runs.read_metrics(folder)]
