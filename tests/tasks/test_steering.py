"""Steering: windows stay in their stretch, no model sees what it must not, all answer for the same frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from seqjax.config import OptimizerConfig, TaskTrain
from seqjax.data.driving import Drive
from seqjax.data.road import drive_road
from seqjax.errors import UserError
from seqjax.families import LSTM, Transformer, Window
from seqjax.runs.config_file import load_config
from seqjax.tasks import steering
from seqjax.tasks.steering import Config, EncoderConfig, SteeringData, SteeringTask
from seqjax.training import loop

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = SteeringData(road_frames=240, blocks=6, folds=3, history=4)
MODELS = {
    "lstm": LSTM(d_model=6, n_layers=1),
    "transformer": Transformer(d_model=6, n_layers=1, n_heads=2, d_ff=8),
}
Make = Callable[..., Config]


@pytest.fixture(scope="module")
def drive() -> Drive:
    return drive_road(240)


def make(family: str = "lstm", **task: object) -> Config:
    model = Window(d_model=6, window=1, d_ff=8) if task.get("stacked") else MODELS[family]
    return Config(
        model,
        OptimizerConfig(learning_rate=1e-2),
        TaskTrain(steps=30, batch_size=16, evaluate_every=15),
        SteeringTask(**{"frames": 4, **task}),
        DATA,
        EncoderConfig((3,), (5,), (4,), 0.0),
    )


def fresh(config: Config, drive: Drive) -> dict:
    return jax.jit(steering.make_task(config, drive).objective.init)(jax.random.key(0))


def answers(config: Config, drive: Drive, params: dict) -> np.ndarray:
    parts = steering.parts_of(config.data, drive)
    return steering.predict(config, steering.make_model(config), params, drive, parts.test, 0.5)


def test_windows_of_training_hold_training_frames_alone(drive: Drive) -> None:
    """Frames are made to say which they are."""
    index_T = np.arange(240)
    marked = drive._replace(frames_TxYxX=np.broadcast_to(index_T[:, None, None], (240, 2, 2)), steer_T=index_T / 240)
    config = make(flip=False, shift=0)
    train = {t for a, b in steering.parts_of(DATA, drive).train for t in range(a, b)}
    task = steering.make_task(config, marked)
    seen = np.concatenate([task.batch(step)["frames"][:, :, 0, 0, 0] for step in range(60)])
    assert set(seen.ravel()) == train  # all of them come
    assert (np.diff(seen, axis=1) == 1).all()
    steer = task.batch(3)["steer"] * steering._scale(marked, steering.parts_of(DATA, drive))
    np.testing.assert_allclose(steer * 240, task.batch(3)["frames"][:, :, 0, 0, 0], rtol=1e-5)


def test_batches_are_a_function_of_seed_and_step(drive: Drive) -> None:
    config = make()
    one, again = (steering.make_task(config, drive).batch(5) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (steering.make_task(config, drive).batch(6)["frames"] != one["frames"]).any()
    other = replace(config, train=replace(config.train, seed=1))
    assert (steering.make_task(other, drive).batch(5)["frames"] != one["frames"]).any()


def test_stacked_frames_are_channels_oldest_first(drive: Drive) -> None:
    batch = steering.make_batch(make(stacked=True), drive, np.array([10, 20]), 0.5)
    assert batch["frames"].shape == (2, 1, 32, 64, 4) and batch["known"].shape == (2, 1, 0)
    for c in range(4):
        np.testing.assert_array_equal(batch["frames"][1, 0, :, :, c], drive.frames_TxYxX[17 + c])
    np.testing.assert_allclose(batch["steer"], drive.steer_T[[10, 20]][:, None] / 0.5)


def test_past_steering_is_of_the_frame_before(drive: Drive) -> None:
    batch = steering.make_batch(make(past_steering=True), drive, np.array([3, 20]), 0.5)
    np.testing.assert_allclose(batch["known"][1, :, 0], drive.steer_T[16:20] / 0.5)
    np.testing.assert_allclose(batch["known"][0, :, 0], [0.0, *(drive.steer_T[:3] / 0.5)])


def test_mirrored_windows_have_mirrored_steering(drive: Drive) -> None:
    config = make(past_steering=True)
    batch = steering.make_batch(config, drive, np.arange(30, 94), 0.5)
    found = steering.augment(batch, *steering.moves(replace(config.task, shift=0), 64, np.random.default_rng(0)))
    sign_B = np.sign(found["steer"][:, 0] * batch["steer"][:, 0])
    assert 16 < (sign_B < 0).sum() < 48
    for b, sign in enumerate(sign_B):
        np.testing.assert_array_equal(found["frames"][b], batch["frames"][b][:, :, :: int(sign)])
        np.testing.assert_array_equal(found["steer"][b], sign * batch["steer"][b])
        np.testing.assert_array_equal(found["known"][b], sign * batch["known"][b])


def test_windows_are_moved_as_one_by_a_few_columns(drive: Drive) -> None:
    config = make(flip=False, shift=2)
    batch = steering.make_batch(config, drive, np.arange(30, 94), 0.5)
    found = steering.augment(batch, *steering.moves(config.task, 64, np.random.default_rng(0)))
    moves = []
    for before, after in zip(batch["frames"], found["frames"], strict=True):
        fits = [m for m in range(-2, 3) if (after[:, :, 2:-2] == before[:, :, 2 + m : 62 + m]).all()]
        assert len(fits) == 1
        moves += fits
    assert set(moves) == {-2, -1, 0, 1, 2}
    np.testing.assert_array_equal(found["steer"], batch["steer"])


@pytest.mark.parametrize(("family", "past"), [("lstm", False), ("lstm", True), ("transformer", True)])
def test_an_answer_after_j_frames_is_that_of_a_window_of_j_frames(drive: Drive, family: str, past: bool) -> None:
    config = make(family, past_steering=past)
    params, apply = fresh(config, drive), jax.jit(steering.make_model(config).apply)
    y_KxN = answers(config, drive, params)
    targets = steering.targets_of(DATA, steering.parts_of(DATA, drive).test)
    assert steering.seen(config.task) == [1, 2, 4] and y_KxN.shape == (3, len(targets))
    for place, k in enumerate([1, 2, 4]):
        for n in (1, 5, len(targets) - 1):
            index = np.arange(targets[n] - k + 1, targets[n] + 1)
            frames = drive.frames_TxYxX[index][None, ..., None]
            known = drive.steer_T[index - 1][None, :, None] / 0.5 if past else np.zeros((1, k, 0), np.float32)
            y = apply({"params": params}, frames, known)
            assert y_KxN[place, n] == pytest.approx(0.5 * float(y[0, -1, 0]), abs=1e-5)


@pytest.mark.parametrize("past", [False, True])
def test_nobody_sees_the_steering_that_is_asked_for(drive: Drive, past: bool) -> None:
    config = make(past_steering=past)
    params = fresh(config, drive)
    targets = steering.targets_of(DATA, steering.parts_of(DATA, drive).test)
    changed = drive.steer_T.copy()
    changed[targets[7]] += 0.3
    moved = np.abs(answers(config, drive, params) - answers(config, drive._replace(steer_T=changed), params)).max(
        axis=0
    )
    assert moved[7] == 0 and (moved[8] > 1e-6) == past


def test_stacked_answers_are_those_of_the_model(drive: Drive) -> None:
    config = make(stacked=True)
    params, model = fresh(config, drive), steering.make_model(config)
    targets = steering.targets_of(DATA, steering.parts_of(DATA, drive).test)
    batch = steering.make_batch(config, drive, targets[5:6], 0.5)
    y = jax.jit(model.apply)({"params": params}, batch["frames"], batch["known"])
    assert answers(config, drive, params)[0, 5] == pytest.approx(0.5 * float(y[0, 0, 0]), abs=1e-5)
    assert steering.seen(config.task) == [4]


def test_a_run_tells_its_error_and_its_floors(drive: Drive, tmp_path: Path) -> None:
    config = make()
    result = loop.train(config, tmp_path / "run", task=steering.make_task(config, drive), quiet=True)
    test, parts = result["test"], steering.parts_of(DATA, drive)
    steer_N = drive.steer_T[test["targets"]]
    assert set(test["targets"]) == {t for a, b in parts.test for t in range(a + 3, b)}
    errors = ((np.array(test["predicted"]) - steer_N) ** 2).mean(axis=1)
    np.testing.assert_allclose(test["mse"], errors, rtol=1e-3)
    mean = np.concatenate([drive.steer_T[a:b] for a, b in parts.train]).mean()
    assert test["floors"]["mean"] == pytest.approx(float(((steer_N - mean) ** 2).mean()))
    last = drive.steer_T[np.array(test["targets"]) - 1]
    assert test["floors"]["persistence"] == pytest.approx(float(((steer_N - last) ** 2).mean()))
    assert len(result["validation"]) == 1 and result["validation"]["loss"] > 0


@pytest.mark.slow
def test_training_learns_the_road(tmp_path: Path) -> None:
    """Ten times as many steps as it needs to be well below the mean's error."""
    drive = drive_road(400)
    config = replace(make(), data=replace(DATA, road_frames=400), encoder=EncoderConfig((6,), (5,), (4,), 0.0))
    config = replace(config, train=TaskTrain(steps=120, batch_size=16, evaluate_every=120))
    task = steering.make_task(config, drive)
    test = loop.train(config, tmp_path / "run", task=task, quiet=True)["test"]
    assert test["mse"][-1] < 0.5 * test["floors"]["mean"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": {"frames": 5}}, "task.frames: 5 frames, but data.history is 4"),
        ({"task": {"stacked": True, "past_steering": True}}, "task.past_steering: stacked frames are one step"),
        ({"encoder": {"strides": (4, 2)}}, "encoder: 1 channels, 1 kernels and 2 strides"),
        ({"data": {"blocks": 60}}, "use at most"),
    ],
)
def test_what_cannot_be_is_said(drive: Drive, changes: dict[str, dict], words: str) -> None:
    config = make()
    for section, values in changes.items():
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    with pytest.raises(UserError, match=words):
        loop._check(config)
        steering.make_task(config, drive)


def test_sources_are_found_by_their_name(tmp_path: Path) -> None:
    assert len(steering.load(Config(data=DATA)).steer_T) == 240
    with pytest.raises(UserError, match=r"driving\.npz: absent"):
        steering.load(Config(data=replace(DATA, source="driving")))
    with pytest.raises(UserError, match=r"driving_log\.csv: no such log"):
        steering.load(Config(data=replace(DATA, source=str(tmp_path))))


def test_the_shipped_config_is_one() -> None:
    config = load_config(ROOT / "configs" / "tasks" / "steering.yaml", {"encoder.channels": "[4, 8]"})
    assert config.encoder.channels == (4, 8)
    with pytest.raises(UserError, match=r"task.frame: unknown key; .*did you mean 'frames'"):
        load_config(ROOT / "configs" / "tasks" / "steering.yaml", {"task.frame": 3})
