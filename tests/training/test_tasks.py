"""The loop on a task that is not text: resumed equals uninterrupted, a finished run is not repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from toy_task import Config, best_params, lines, make_task

from seqjax import runs
from seqjax.config import canonical
from seqjax.errors import UserError
from seqjax.host.stopping import Interrupted
from seqjax.training.loop import train


def run(folder: Path, config: Any = Config(), **how: Any) -> dict[str, Any]:  # noqa: B008
    return train(config, folder, task=make_task(config, **how), quiet=True, wandb_mode="disabled")


def assert_same(a: Path, b: Path) -> None:
    assert lines(a) == lines(b)
    jax.tree.map(np.testing.assert_array_equal, best_params(a), best_params(b))
    assert runs.read_result(a)["test"] == runs.read_result(b)["test"]


def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for stop_at in (25, 44):
        with pytest.raises(Interrupted):
            run(tmp_path / "cut", stop_at=stop_at)
    run(tmp_path / "cut")
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert whole["validation"]["loss"] < 0.1 and whole["status"] == "finished"


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    run(tmp_path / "whole")

    class Killed(Exception):
        pass

    def killed(loss: float) -> float:
        calls.append(loss)
        if len(calls) == 3:  # after the checkpoints of steps 20 and 40
            raise Killed
        return loss

    calls: list[float] = []
    with pytest.raises(Killed):
        run(tmp_path / "cut", evaluated=killed)
    run(tmp_path / "cut")
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_finished_run_is_read_and_gives_its_best_parameters(tmp_path: Path) -> None:
    calls: list[float] = []

    def rising(loss: float) -> float:  # the first evaluation is the best
        calls.append(loss)
        return float(len(calls))

    first = run(tmp_path / "run", evaluated=rising)
    again = run(tmp_path / "run", evaluated=rising)
    assert len(calls) == 3 and first == again and first["best"] == {"step": 20, "validation_loss": 1.0}
    assert first["validation"] == {"loss": 1.0, "accuracy": None}
    params = best_params(tmp_path / "run")
    assert first["test"]["W"] == float(params["W"])
    assert (params["W"] - 3) ** 2 + (params["b"] - 1) ** 2 == pytest.approx(calls[0])


def test_a_diverged_run_ends_with_what_was_good(tmp_path: Path) -> None:
    result = run(tmp_path / "run", explode_at=33)
    assert result["status"] == "diverged" and result["steps"] == 33
    assert np.isfinite(best_params(tmp_path / "run")["W"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "diverged"


def test_a_folder_belongs_to_one_config(tmp_path: Path) -> None:
    run(tmp_path / "run")
    other = Config()
    other = replace(other, train=replace(other.train, steps=61))
    with pytest.raises(UserError, match=r"holds a run of another config: train\.steps is 60 there and 61 here"):
        run(tmp_path / "run", other)


def test_tasks_are_accumulated_and_scaled_like_text(tmp_path: Path) -> None:
    """Four micro-batches give another noise, and the same line; the loss is the mean over the rows all the same."""
    config = Config()
    result = run(tmp_path / "run", replace(config, train=replace(config.train, accumulation=4)))
    assert result["status"] == "finished" and result["validation"]["loss"] < 0.1


def test_a_result_of_before_the_loops_were_one_is_read_in_todays_form(tmp_path: Path) -> None:
    before = {"status": "finished", "steps": 9, "best_step": 6, "parameters": 12,
              "validation": {"validation_loss": 0.5, "accuracy": 0.7}}  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(before))
    found = runs.read_result(tmp_path)
    assert found["validation"] == {"loss": 0.5, "accuracy": 0.7} and found["parameters"] == {"total": 12}
    assert found["best"] == {"step": 6, "validation_loss": 0.5}


def test_a_folder_of_before_a_key_came_is_still_the_same_run() -> None:
    found = canonical({"model": {"family": "transformer", "norm_position": "before", "d_model": 8}, "train": {}})
    assert found == {"model": {"family": "transformer", "d_model": 8}, "train": {}}
    after = {"model": {"family": "transformer", "norm_position": "after"}}
    assert canonical(after) == after
