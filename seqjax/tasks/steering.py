"""Steering from video: the angle of the wheel from the last k frames (Heylen et al. 2018, "From pixels to actions").

    loss = mean over the batch, and over every step of a window, of (y_t - s_t / sigma)^2

s_t is the steering at frame t and sigma its standard deviation over the training part. Reported errors are in the units
of s squared. Parts are split by time (:mod:`seqjax.data.blocks`). Each window lies within one stretch.

A stacked model sees k frames as k channels and predicts for the last one. A sequence model is trained on windows of k
frames with the loss on every step. Its j-th prediction is the one after j frames. With `task.past_steering` the
steering before each frame, s_{t-1} / sigma, is appended to its encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ConfigDict, NonNegativeInt, PositiveInt

from seqjax.config import STRICT, Fraction, TaskConfig
from seqjax.data.blocks import Parts, Stretch, deal, window_ends
from seqjax.data.driving import Drive, load_log, load_recording
from seqjax.data.road import drive_road
from seqjax.errors import UserError
from seqjax.families.family import Impossible
from seqjax.host.folders import data_folder, expanded
from seqjax.layers.heads import Regressor
from seqjax.layers.vision import FrameEncoder, VideoRegressor
from seqjax.models.backbone import Backbone
from seqjax.tasks.task import NOWHERE, Found, Objective, Task, Tree, Where, count_parameters, digest, found

CHUNK = 256  # frames or windows in one call of the test
ROWS = 64  # windows in one call of an evaluation


@dataclass(frozen=True)
class SteeringTask:
    """The inputs of the model, and the augmentation of the training set."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["steering"] = "steering"
    """The task."""
    frames: PositiveInt = 16
    """k, frames in a window; at most data.history."""
    stacked: bool = False
    """The k frames are channels of one input, a sequence of one element."""
    past_steering: bool = False
    """The steering before each frame is an input too."""
    flip: bool = True
    """Half of the training windows are mirrored, with the steering negated."""
    shift: NonNegativeInt = 2
    """Training windows are shifted sideways by at most this many pixels. The steering is unchanged."""


@dataclass(frozen=True)
class SteeringData:
    """The frames, and how they are split into parts."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: str = "road"
    """road: generated; driving: driving.npz in the data folder; else the log folder of a simulator."""
    road_frames: PositiveInt = 4000
    """Frames of the generated road."""
    blocks: PositiveInt = 25
    """Contiguous blocks, assigned to the parts in turn."""
    folds: PositiveInt = 5
    """One block in this many is test, the next one validation."""
    fold: NonNegativeInt = 0
    """Blocks whose number is `fold` modulo `folds` are test."""
    history: PositiveInt = 16
    """Least number of frames in its stretch up to an evaluated frame, itself included; also the gap between parts."""


@dataclass(frozen=True)
class EncoderConfig:
    """The convolutional network over each frame."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    channels: tuple[PositiveInt, ...] = (8, 16)
    """Output channels of each convolution."""
    kernels: tuple[PositiveInt, ...] = (5, 3)
    """Width of each convolution, pixels."""
    strides: tuple[PositiveInt, ...] = (4, 2)
    """Stride of each convolution, pixels."""
    dropout: Fraction = 0.2
    """Dropout rate on the output of the convolutions."""


@dataclass(frozen=True)
class Config(TaskConfig):
    """A run."""

    task: SteeringTask = field(default_factory=SteeringTask)
    data: SteeringData = field(default_factory=SteeringData)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)


def load(config: Config, where: Where = NOWHERE) -> Drive:
    """The frames of a config's source. Raises UserError as :mod:`seqjax.data.driving` does."""
    source = where.corpus or config.data.source
    if source == "road":
        return drive_road(config.data.road_frames)
    return load_recording(data_folder()) if source == "driving" else load_log(expanded(source))


def check(config: Config) -> None:
    """Raise `Impossible` for settings that do not fit together."""
    task, encoder = config.task, config.encoder
    if task.frames > config.data.history:
        raise Impossible("task.frames", f"{task.frames} frames, but data.history is {config.data.history}")
    if task.stacked and task.past_steering:
        raise Impossible("task.past_steering", "stacked frames are one step; allowed: false, or task.stacked false")
    if task.past_steering and config.model.d_model < 2:
        raise Impossible("model.d_model", "needs at least 2, one of them for the past steering")
    counts = [len(values) for values in (encoder.channels, encoder.kernels, encoder.strides)]
    if len(set(counts)) > 1:
        told = "{} channels, {} kernels and {} strides".format(*counts)
        raise Impossible("encoder", f"{told}; each convolution needs one of each")


def make_model(config: Config) -> VideoRegressor:
    """Encoder, backbone and head of a config."""
    encoder, model, n_known = config.encoder, config.model, int(config.task.past_steering)
    return VideoRegressor(
        FrameEncoder(model.d_model - n_known, encoder.channels, encoder.kernels, encoder.strides, encoder.dropout),
        Backbone(model, 1 if config.task.stacked else config.task.frames, compute_dtype=config.train.compute_dtype),
        Regressor(dropout=model.dropout),
    )


def parts_of(data: SteeringData, drive: Drive) -> Parts:
    """The stretches of each part of a drive."""
    return deal(len(drive.steer_T), data.blocks, data.folds, data.fold, data.history)


def targets_of(data: SteeringData, stretches: tuple[Stretch, ...]) -> np.ndarray:
    """The frames on which models are evaluated: those with a full history in their stretch, int64 [n]."""
    return window_ends(stretches, data.history)


def floors(drive: Drive, train: tuple[Stretch, ...], targets: np.ndarray) -> dict[str, float]:
    """Mean squared errors over the targets of two baselines: the mean of the training part, and the last value."""
    mean = np.concatenate([drive.steer_T[a:b] for a, b in train]).mean()
    steer = drive.steer_T[targets]
    return {
        "mean": float(((steer - mean) ** 2).mean()),
        "persistence": float(((steer - drive.steer_T[targets - 1]) ** 2).mean()),
    }


def make_task(config: Config, drive: Drive) -> Task:
    """The held-out loss is the error after k frames, in the units of the steering squared.

    The final numbers are "test": the error after each number of frames in `seen`, the floors on the same frames, the
    frames, and the predictions for them.

    Raises:
        UserError: the training or validation part has no window.
    """
    parts = parts_of(config.data, drive)
    ends, judged = window_ends(parts.train, config.task.frames), targets_of(config.data, parts.validation)
    if not (len(ends) and len(judged)):
        raise UserError(f"{drive.source}: too few frames: no window of training, or none of validation")
    scale, model = _scale(drive, parts), make_model(config)
    objective = make_objective(config, model, drive, scale)

    def batch(step: int, rows: slice = slice(None)) -> Tree:
        rng, size = np.random.default_rng((config.train.seed, step)), config.train.batch_size
        ends_B, flip_B, shift_B = rng.choice(ends, size), *moves(config.task, size, rng)
        return augment(make_batch(config, drive, ends_B[rows], scale), flip_B[rows], shift_B[rows])

    def held_out(final: bool) -> Iterator[Tree]:
        for first in range(0, len(judged), ROWS):
            rows = np.minimum(np.arange(first, first + ROWS), len(judged) - 1)  # the last batch is filled up
            yield make_batch(config, drive, judged[rows], scale)

    def summary(scores: Sequence[np.ndarray], final: bool) -> Found:
        y_N = scale * np.concatenate(scores)[: len(judged)]
        return found(float(((y_N - drive.steer_T[judged]) ** 2).mean()))

    def final(params: Tree) -> dict[str, Any]:
        targets = targets_of(config.data, parts.test)
        y_KxN = predict(config, model, params, drive, parts.test, scale)
        errors_K = ((y_KxN - drive.steer_T[targets]) ** 2).mean(axis=1)
        return {
            "test": {
                "seen": seen(config.task),
                "mse": [float(e) for e in errors_K],
                "floors": floors(drive, parts.train, targets),
                "targets": targets.tolist(),
                "predicted": np.round(y_KxN.astype(float), 5).tolist(),
            }
        }

    return Task(
        objective=objective,
        batch=batch,
        batch_rows=batch,
        held_out=held_out,
        summary=summary,
        final=final,
        evaluate_every=config.train.evaluate_every,
        parameters=count_parameters(objective),
        unit="windows",
        per_step=config.train.batch_size,
        available=len(ends),
        digests={"data_sha256": digest(drive.frames_TxYxX, drive.steer_T)},
    )


def make_objective(config: Config, model: VideoRegressor, drive: Drive, scale: float) -> Objective:
    """Squared error over every step of a window; held-out windows are scored by the prediction for the last frame."""
    one = make_batch(config, drive, np.array([config.task.frames - 1]), scale)

    def loss(params: Tree, batch: Tree, carry: None, key: jax.Array) -> tuple[jax.Array, None]:
        y_BxT = model.apply({"params": params}, batch["frames"], batch["known"], True, rngs={"dropout": key})[..., 0]
        return jnp.mean((y_BxT - batch["steer"]) ** 2), None

    def score(params: Tree, batch: Tree, carry: None) -> tuple[jax.Array, None]:
        return model.apply({"params": params}, batch["frames"], batch["known"])[:, -1, 0], None

    return Objective(
        init=lambda key: model.init(key, one["frames"], one["known"])["params"],
        loss=loss,
        score=score,
        elements=config.train.batch_size * one["frames"].size,
    )


def seen(task: SteeringTask) -> list[int]:
    """Numbers of frames after which a model is evaluated: 1, 2, 4 ... k for a sequence model, k for a stacked one."""
    return [task.frames] if task.stacked else [2**i for i in range(16) if 2**i < task.frames] + [task.frames]


def make_batch(config: Config, drive: Drive, ends_B: np.ndarray, scale: float) -> Tree:
    """Windows that end at these frames: "frames" BxTxYxXxC, "known" BxTxP and "steer" BxT, both over ``scale``.

    Stacked: T = 1, C = k, oldest first. Else T = k, C = 1. P is 1 with past steering, else 0.
    """
    k = config.task.frames
    index_Bxk = np.asarray(ends_B)[:, None] + np.arange(-k + 1, 1)
    if config.task.stacked:
        frames = np.moveaxis(drive.frames_TxYxX[index_Bxk], 1, -1)[:, None]
        index_BxT = index_Bxk[:, -1:]
    else:
        frames, index_BxT = drive.frames_TxYxX[index_Bxk][..., None], index_Bxk
    known = _past(drive, index_BxT, config.task.past_steering) / np.float32(scale)
    return {"frames": frames, "known": known, "steer": drive.steer_T[index_BxT] / np.float32(scale)}


def moves(task: SteeringTask, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which of the windows of a batch are mirrored, about half, and by how many columns each is moved: [B], [B]."""
    flip_B = rng.random(size) < (0.5 if task.flip else 0.0)
    return flip_B, rng.integers(-task.shift, task.shift + 1, size)


def augment(batch: Tree, flip_B: np.ndarray, shift_B: np.ndarray) -> Tree:
    """Mirror windows, with steering (and past steering) negated, and move each sideways."""
    frames, known, steer = batch["frames"], batch["known"], batch["steer"]
    width = frames.shape[3]
    column_BxX = np.clip(np.arange(width)[None, :] + shift_B[:, None], 0, width - 1)  # edges are repeated
    column_BxX = np.where(flip_B[:, None], width - 1 - column_BxX, column_BxX)
    frames = np.stack([window.take(columns, axis=2) for window, columns in zip(frames, column_BxX, strict=True)])
    sign_B = np.where(flip_B, np.float32(-1), np.float32(1))
    return {"frames": frames, "known": known * sign_B[:, None, None], "steer": steer * sign_B[:, None]}


def predict(
    config: Config, model: VideoRegressor, params: Tree, drive: Drive, stretches: tuple[Stretch, ...], scale: float
) -> np.ndarray:
    """Steering at every target of these stretches after each number of frames in `seen`: KxN, float32.

    A sequence model's prediction after j frames comes from the window that begins j - 1 frames before the target. So
    all predictions are for the same targets, and each has seen exactly j frames. Each frame is encoded once.
    """
    targets_N, task = targets_of(config.data, stretches), config.task
    if task.stacked:
        batch = make_batch(config, drive, targets_N, scale)
        return scale * _in_chunks(model, "__call__", params, batch["frames"], batch["known"])[:, 0, 0][None]
    x_TxE = _in_chunks(model, "encode", params, drive.frames_TxYxX[:, None, :, :, None])[:, 0]
    last = max(stop for _, stop in stretches) - 1
    starts_W = np.unique(np.concatenate([targets_N - k + 1 for k in range(1, task.frames + 1)]))
    index_WxT = np.minimum(starts_W[:, None] + np.arange(task.frames), last)  # those after the target are not used
    known = _past(drive, index_WxT, task.past_steering) / np.float32(scale)
    y_WxT = _in_chunks(model, "read", params, x_TxE[index_WxT], known)[..., 0]
    return scale * np.stack([y_WxT[np.searchsorted(starts_W, targets_N - k + 1), k - 1] for k in seen(task)])


def _past(drive: Drive, index_BxT: np.ndarray, given: bool) -> np.ndarray:
    """The steering before each frame, BxTx1 (zero before the recording), or nothing, BxTx0."""
    if not given:
        return np.zeros((*index_BxT.shape, 0), np.float32)
    return np.where(index_BxT > 0, drive.steer_T[index_BxT - 1], np.float32(0))[..., None]


def _scale(drive: Drive, parts: Parts) -> float:
    """Standard deviation of the steering over the training part."""
    return float(max(np.concatenate([drive.steer_T[a:b] for a, b in parts.train]).std(), 1e-3))


@partial(jax.jit, static_argnums=(0, 1))
def _apply(model: VideoRegressor, method: str, params: Tree, *inputs: jax.Array) -> jax.Array:
    return model.apply({"params": params}, *inputs, method=method)


def _in_chunks(model: VideoRegressor, method: str, params: Tree, *arrays: np.ndarray) -> np.ndarray:
    """A method of the model for CHUNK rows at a time; the last call is filled up, so one compiled program is enough."""
    n_rows, pieces = len(arrays[0]), []
    for start in range(0, n_rows, CHUNK):
        index = np.minimum(np.arange(start, start + CHUNK), n_rows - 1)
        pieces.append(np.asarray(_apply(model, method, params, *(a[index] for a in arrays))))
    return np.concatenate(pieces)[:n_rows]
