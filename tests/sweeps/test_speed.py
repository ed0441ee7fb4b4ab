"""Predicted times: what is measured, and what is made of it, against closed forms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqjax.config import Config, TaskTrain, to_dict
from seqjax.errors import UserError
from seqjax.families import Elman
from seqjax.sweeps.speed import Speeds, calibrate, measure, shape_of
from seqjax.tasks import delays

V = 257


def measured(speeds: Speeds, config: Config, lanes: int, step: float, compilation: float = 3.0) -> None:
    speeds.add(config, lanes, {"step_seconds": step, "compile_seconds": compilation})


@pytest.fixture
def batch(make_config: Any) -> Callable[[int], Config]:
    """An LSTM with so many sequences in a batch: FLOPs in proportion."""
    return lambda size: make_config("lstm", **{"train.batch_size": size, "train.accumulation": 1})


def test_least_and_most_costly_step_of_each_family_are_measured(batch: Any, make_config: Any, tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speeds.json", "here")
    wanted = speeds.missing([(batch(size), size // 4) for size in (16, 4, 8, 32)] + [(make_config("gru"), 1)])
    assert wanted == [(batch(4), 1), (batch(32), 1), (batch(32), 8), (make_config("gru"), 1)]
    measured(speeds, batch(32), 8, 1.0)
    measured(speeds, batch(4), 1, 0.1)
    assert speeds.missing([(batch(4), 1), (batch(32), 8)]) == [(batch(32), 1)]
    again = Speeds(tmp_path / "speeds.json", "here")
    assert again.missing([(batch(4), 1), (batch(32), 8)]) == [(batch(32), 1)]
    longer = dataclasses.replace(batch(4), train=dataclasses.replace(batch(4).train, steps=10**6, seed=3))
    assert again.missing([(longer, 1)]) == []  # a step is a step
    assert Speeds(tmp_path / "speeds.json", "there").missing([(batch(4), 1)]) == [(batch(4), 1)]


def test_steps_of_tasks_are_measured_shape_by_shape(tmp_path: Path) -> None:
    """What is timed is positive; a run takes its steps and evaluations; the length and the seed are no shape."""
    speeds = Speeds(tmp_path / "speeds.json", "here")
    config = delays.Config(
        model=Elman(d_model=8, n_layers=1),
        task=delays.DelayTask(distance=2, held_out=4),
        train=TaskTrain(steps=10, batch_size=2, evaluate_every=4),
    )
    wider = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1010, seed=1))
    assert speeds.missing([(config, 1), (wider, 1), (longer, 1)]) == [(longer, 1), (wider, 1)]
    found = measure(to_dict(config), None, 1)
    found.pop("waited_share", None)
    assert found.keys() == {"compile_seconds", "step_seconds", "evaluation_seconds"} and min(found.values()) > 0
    speeds.add(config, 1, {"compile_seconds": 3.0, "step_seconds": 0.1, "evaluation_seconds": 0.2})
    assert speeds.missing([(config, 1), (wider, 1)]) == [(wider, 1)]
    checkpoints = 0.05 * (1 + 3 + 1)
    assert speeds.seconds(config, 1) == pytest.approx(1.3 * 3 + 10 * 0.1 + 3 * 0.2 + checkpoints)
    assert speeds.seconds(longer, 1) == pytest.approx(1.3 * 3 + 1010 * 0.1 + 253 * 0.2 + 0.05 * (1 + 253 + 1))


def test_predictions_are_exact_where_it_was_measured_and_a_power_law_between(batch: Any, tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speeds.json", "here")
    speeds.missing([(batch(4), 2), (batch(64), 8)])
    for size, lanes_, seconds in ((4, 1, 0.01), (4, 2, 0.015), (64, 1, 0.09), (64, 8, 0.3)):
        measured(speeds, batch(size), lanes_, seconds)
    for size, lanes_, seconds in (
        (4, 1, 0.01),  # as measured
        (4, 2, 0.015),
        (64, 1, 0.09),
        (64, 8, 0.3),
        (4, 5, 0.01 + 4 * 0.005),  # linear in the lanes
        (64, 3, 0.09 + 2 * 0.03),
        (16, 1, (0.01 * 0.09) ** 0.5),  # 16 is the geometric mean of 4 and 64
        (8, 1, 0.01 ** (3 / 4) * 0.09 ** (1 / 4)),
        (256, 1, 0.09 * 4),  # beyond, in proportion to the FLOPs
        (1, 1, 0.01 / 4),
    ):
        assert speeds.step_seconds(batch(size), lanes_) == pytest.approx(seconds)
    alone = [speeds.step_seconds(batch(size), 1) for size in range(1, 100)]
    assert alone == sorted(alone)
    together = [speeds.step_seconds(batch(16), lanes_) for lanes_ in range(1, 20)]
    assert together == sorted(together)


def test_a_run_is_compilation_steps_and_evaluations(batch: Any, tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speeds.json", "here")
    speeds.missing([(batch(8), 1)])
    measured(speeds, batch(8), 1, 0.5, compilation=0.0)

    def seconds(**changes: Any) -> float:
        config = batch(8)
        train = dataclasses.replace(config.train, steps=100, checkpoint_every=1000)
        evaluation = dataclasses.replace(config.evaluation, **{"every": 1000, "final_windows": 24} | changes)
        return speeds.seconds(dataclasses.replace(config, train=train, evaluation=evaluation), 1)

    forward = 0.5 / 3  # of 8 windows: a third of a step
    assert seconds() == pytest.approx(100 * 0.5 + 3 * forward, abs=0.2)  # and a checkpoint
    assert seconds(every=10, windows=16) == pytest.approx(100 * 0.5 + (3 + 10 * 2) * forward, abs=1.0)


def test_only_steps_that_were_asked_for_are_interpolated_between(batch: Any, tmp_path: Path) -> None:
    """An outlier of an earlier sweep does not bend the line of this one."""
    old = Speeds(tmp_path / "speeds.json", "here")
    measured(old, batch(16), 1, 1000.0)
    speeds = Speeds(tmp_path / "speeds.json", "here")
    speeds.missing([(batch(4), 1), (batch(64), 1)])
    measured(speeds, batch(4), 1, 0.01)
    measured(speeds, batch(64), 1, 0.09)
    assert speeds.step_seconds(batch(16), 1) == pytest.approx(0.03)
    assert shape_of(batch(16)).flops_per_step == pytest.approx(4 * shape_of(batch(4)).flops_per_step)


def test_a_time_beside_other_work_is_measured_again(batch: Any, tmp_path: Path) -> None:
    def answers(requests: list[dict[str, Any]], heard: Callable[[int, dict[str, Any]], None]) -> list[dict[str, Any]]:
        found = [{"outcome": "done", "step_seconds": 0.1, "compile_seconds": 1.0, **share} for share in shares]
        for index, answer in enumerate(found):
            heard(index, answer)
        return found

    programs = [(batch(4), 1), (batch(8), 1), (batch(8), 2)]
    shares: list[dict[str, float]] = [{"waited_share": 0.02}, {"waited_share": 0.6}, {}]
    speeds = Speeds(tmp_path / "speeds.json", "here")
    calibrate(speeds, programs, 1, answers)
    assert speeds.shared() == 1 and speeds.missing(programs) == []
    assert speeds.step_seconds(batch(8), 1) == pytest.approx(0.1)
    again = Speeds(tmp_path / "speeds.json", "here")
    assert again.missing(programs) == [(batch(8), 1)] and again.shared() == 0
    shares = [{"waited_share": 0.02}]
    calibrate(again, programs, 1, answers)
    assert Speeds(tmp_path / "speeds.json", "here").missing(programs) == []


DAMAGED = ("", "{", "[]", "3", "\x00\xff", '{"here": 3}', '{"here": {"1 x": 3}}', '{"here": {"1 x": {"lanes": 1}}}')


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_of_speeds_is_no_error(batch: Any, tmp_path: Path, content: str) -> None:
    file = tmp_path / "speeds.json"
    file.write_bytes(content.encode("latin-1"))
    speeds = Speeds(file, "here")
    assert speeds.missing([(batch(8), 1)]) == [(batch(8), 1)]
    measured(speeds, batch(8), 1, 0.5)
    assert speeds.step_seconds(batch(8), 1) == 0.5
    assert Speeds(file, "here").missing([(batch(8), 1)]) == []


def test_half_a_measurement_is_none(batch: Any, tmp_path: Path) -> None:
    file = tmp_path / "speeds.json"
    measured(Speeds(file, "here"), batch(8), 1, 0.5)
    ((key, entry),) = json.loads(file.read_text())["here"].items()
    for name in entry:
        file.write_text(json.dumps({"here": {key: {k: v for k, v in entry.items() if k != name}}}))
        assert Speeds(file, "here").missing([(batch(8), 1)]) == [(batch(8), 1)]


def test_speeds_that_cannot_be_kept_are_no_error(batch: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    speeds = Speeds(tmp_path / "file" / "speeds.json", "here")
    assert speeds.missing([(batch(8), 1)])
    measured(speeds, batch(8), 1, 0.5)
    assert speeds.step_seconds(batch(8), 1) == 0.5


def test_a_first_step_that_fails_is_told_before_anything_starts(batch: Any, tmp_path: Path) -> None:
    good = {"outcome": "done", "step_seconds": 0.1, "compile_seconds": 1.0}

    def answer(requests: list[dict[str, Any]], heard: Any) -> list[dict[str, Any]]:
        answers = [good if request["lanes"] == 1 else bad for request in requests]
        for index, one in enumerate(answers):
            heard(index, one)
        return answers

    bad = {"outcome": "error", "reason": "RESOURCE_EXHAUSTED"}
    speeds = Speeds(tmp_path / "speeds.json", "here")
    calibrate(speeds, [(batch(8), 4)], 1, answer)  # alone it can be trained
    assert speeds.step_seconds(batch(8), 4) == pytest.approx(4 * 0.1)
    with pytest.raises(UserError, match=r"^lstm-2x16-\w+: a first step was tried and failed \(RESOURCE_EXHAUSTED\)"):
        calibrate(speeds, [(batch(16), 1)], 1, lambda requests, heard: [bad for _ in requests])


def test_what_was_measured_is_kept_when_the_rest_is_stopped(batch: Any, tmp_path: Path) -> None:
    def stopped(requests: list[dict[str, Any]], heard: Any) -> list[dict[str, Any]]:
        heard(0, {"outcome": "done", "step_seconds": 0.1, "compile_seconds": 1.0})
        raise KeyboardInterrupt

    told: list[tuple[int, int]] = []
    programs = [(batch(8), 1), (batch(16), 1)]
    with pytest.raises(KeyboardInterrupt):
        calibrate(Speeds(tmp_path / "speeds.json", "here"), programs, 1, stopped, lambda *counts: told.append(counts))
    again = Speeds(tmp_path / "speeds.json", "here")
    assert told == [(1, 2)] and len(again.missing(programs)) == 1
