"""A row of `attention_kernels.py`: the same runs trained with the device's kernel and with whole scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

RATES = (4e-3, 1e-2, 2.7e-2)
KERNELS = ("fused", "whole")


def trained(form: str, width: int, batch: int, n_times: int, steps: int, rates: Sequence[float] = RATES) -> Any:
    """Runs of a Transformer with two blocks in bfloat16, one lane of a bundle for each rate; warm-up is a tenth.

    Returns: for "fused" and "whole" lists in the order of the rates: "last_loss", nats; "first_not_finite", the first
        step (from 1 on) with a loss, gradient or parameter that is not finite, None: there is none. A run that has one
        does not change after it.
    """
    from seqjax.config import Config, OptimizerConfig, TrainConfig
    from seqjax.families import Transformer
    from seqjax.tasks.text import make_objective
    from seqjax.training.lanes import make_bundle

    found: dict[str, Any] = {"rates": list(rates)}
    tokens = text(steps, batch, n_times + 1)
    for kernel in KERNELS:
        model = Transformer(d_model=width, n_layers=2, n_heads=2, attention_kernel=kernel, **Transformer.forms[form])
        train = TrainConfig(steps=steps, batch_size=batch, context_length=n_times, compute_dtype="bfloat16")
        config = Config(model, optimizer=OptimizerConfig(warmup_steps=steps // 10), train=train)
        lanes = [replace(config, optimizer=replace(config.optimizer, learning_rate=rate)) for rate in rates]
        found[kernel] = _ends(*_run(make_bundle(lanes, make_objective(config, VOCABULARY), devices=1), lanes, tokens))
    return found


VOCABULARY, FOLLOWERS = 256, 8


def text(steps: int, batch: int, length: int) -> np.ndarray:
    """Tokens SxBxL of a chain in which each token has eight that may follow it: log 8 = 2.08 nats can be reached."""
    rng = np.random.default_rng(0)
    following = rng.integers(0, VOCABULARY, (VOCABULARY, FOLLOWERS))
    tokens = np.empty((steps, batch, length), np.int32)
    tokens[..., 0] = rng.integers(0, VOCABULARY, (steps, batch))
    for t in range(1, length):
        tokens[..., t] = following[tokens[..., t - 1], rng.integers(0, FOLLOWERS, (steps, batch))]
    return tokens


def _run(program: Any, lanes: Sequence[Any], tokens_SxBxL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses and whether all is finite, RxS."""
    from seqjax.training.optimizer import learning_rates
    from seqjax.training.state import Hyper

    steps, at_once, runs = len(tokens_SxBxL), program.steps_at_once, len(lanes)
    state, resets, decay = program.init(), np.zeros(at_once, bool), np.zeros(runs, np.float32)
    rates_RxS = np.stack([learning_rates(lane.optimizer, steps) for lane in lanes])
    losses, alive = [], []
    for first in range(0, steps, at_once):
        count = min(at_once, steps - first)
        some = np.resize(tokens_SxBxL[first : first + count], (at_once, *tokens_SxBxL.shape[1:]))
        rates = np.resize(rates_RxS[:, first : first + count].T, (at_once, runs)).T
        batches = program.put(np.ascontiguousarray(np.broadcast_to(some, (runs, *some.shape))))
        state, metrics = program.steps(state, batches, Hyper(rates, decay), resets, count)
        losses.append(np.asarray(metrics["loss"])[:, :count])
        alive.append(np.asarray(metrics["alive"])[:, :count])
    return np.concatenate(losses, axis=1), np.concatenate(alive, axis=1)


def _ends(loss_RxS: np.ndarray, alive_RxS: np.ndarray) -> dict[str, list[Any]]:
    """The last losses, and the first steps that are not finite. A loss that is not finite is None."""
    last = [float(loss) if np.isfinite(loss) else None for loss in loss_RxS[:, -1]]
    return {"last_loss": last, "first_not_finite": [None if a.all() else int(a.argmin()) + 1 for a in alive_RxS]}
