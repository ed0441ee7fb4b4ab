"""The task loop: a resumed run equals an uninterrupted one, a finished one is not repeated, mistakes are named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import runs
from seqjax.config import OptimizerConfig
from seqjax.errors import UserError
from seqjax.stopping import Interrupted
from seqjax.task_config import TaskTrain, canonical
from seqjax.training.tasks import Task, fit


@dataclass(frozen=True)
class Line:
    """A line to be fitted: y = 3 x + 1."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=0.1, weight_decay=0.01))
    train: TaskTrain = field(default_factory=lambda: TaskTrain(steps=60, evaluate_every=20, log_every=7))


def line_task(stop_at: int | None = None, explode_at: int | None = None) -> Task:
    """With noise in the loss from the step's key, so that a wrong key on resume would show."""

    def batch(step: int) -> dict[str, np.ndarray]:
        if step == stop_at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        x_B = np.random.default_rng(step).normal(size=8).astype(np.float32)
        return {"x": x_B, "y": 3 * x_B + (np.nan if step == explode_at else 1)}

    def loss(params: Any, batch: Any, carry: Any, key: jax.Array) -> tuple[jax.Array, None]:
        noise_B = 0.1 * jax.random.normal(key, batch["x"].shape)
        return jnp.mean((params["W"] * batch["x"] + params["b"] + noise_B - batch["y"]) ** 2), None

    def evaluate(params: Any) -> dict[str, float]:
        return {"validation_loss": float((params["W"] - 3) ** 2 + (params["b"] - 1) ** 2)}

    return Task(
        lambda key: {"W": jax.random.normal(key), "b": jnp.zeros(())},
        loss,
        batch,
        evaluate,
        lambda params: {"test": {"W": float(params["W"])}},
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in runs.read_metrics(folder)]


def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    config = Line()
    whole = fit(line_task(), config, config.optimizer, config.train, tmp_path / "whole", quiet=True)
    for stop_at in (25, 44):
        with pytest.raises(Interrupted):
            task = line_task(stop_at)
            fit(task, config, config.optimizer, config.train, tmp_path / "cut", quiet=True)
    found = fit(line_task(), config, config.optimizer, config.train, tmp_path / "cut", quiet=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, found.params, whole.params)
    assert found.result["test"] == whole.result["test"]
    assert whole.result["validation"]["validation_loss"] < 0.1 and whole.result["status"] == "finished"


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    config = Line()
    whole = fit(line_task(), config, config.optimizer, config.train, tmp_path / "whole", quiet=True)

    class Killed(Exception):
        pass

    def killed(params: Any) -> dict[str, float]:
        found = line_task().evaluate(params)
        calls.append(found)
        if len(calls) == 3:  # after the checkpoints of steps 20 and 40
            raise Killed
        return found

    calls: list[dict[str, float]] = []
    with pytest.raises(Killed):
        task = line_task()._replace(evaluate=killed)
        fit(task, config, config.optimizer, config.train, tmp_path / "cut", quiet=True)
    found = fit(line_task(), config, config.optimizer, config.train, tmp_path / "cut", quiet=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, found.params, whole.params)


def test_a_finished_run_is_read_and_gives_its_best_parameters(tmp_path: Path) -> None:
    config, calls = Line(), []

    def rising(params: Any) -> dict[str, float]:  # the first evaluation is the best
        calls.append(jax.device_get(params))
        return {"validation_loss": float(len(calls))}

    task = line_task()._replace(evaluate=rising)
    first = fit(task, config, config.optimizer, config.train, tmp_path / "run", quiet=True)
    again = fit(task, config, config.optimizer, config.train, tmp_path / "run", quiet=True)
    assert len(calls) == 3 and first.result == again.result and first.result["best_step"] == 20
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    np.testing.assert_array_equal(first.params["W"], calls[0]["W"])


def test_a_diverged_run_ends_with_what_was_good(tmp_path: Path) -> None:
    config = Line()
    found = fit(line_task(explode_at=33), config, config.optimizer, config.train, tmp_path / "run", quiet=True)
    assert found.result["status"] == "diverged" and found.result["steps"] == 33
    assert np.isfinite(found.params["W"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "diverged"


def test_a_folder_belongs_to_one_config(tmp_path: Path) -> None:
    config = Line()
    fit(line_task(), config, config.optimizer, config.train, tmp_path / "run", quiet=True)
    other = Line(train=TaskTrain(steps=61, evaluate_every=20))
    with pytest.raises(UserError, match="holds a run of another config"):
        fit(line_task(), other, other.optimizer, other.train, tmp_path / "run", quiet=True)


def test_a_folder_of_before_a_key_came_is_still_the_same_run() -> None:
    found = canonical({"model": {"family": "transformer", "norm_position": "before", "d_model": 8}, "train": {}})
    assert found == {"model": {"family": "transformer", "d_model": 8}, "train": {}}
    after = {"model": {"family": "transformer", "norm_position": "after"}}
    assert canonical(after) == after
