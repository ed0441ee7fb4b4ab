"""Update directions and learning-rate schedules.

The optimizer computes a direction u_t from the gradient. The train step applies it with learning rate eta_t and weight
decay lambda:

    theta_t = theta_{t-1} - eta_t (u_t + lambda theta_{t-1})        (Loshchilov & Hutter 2019, algorithm 2)

The rate is traced, so it may differ between the runs of a bundle.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from seqjax.config import OptimizerConfig, decay_begins
from seqjax.families.family import Family
from seqjax.models.accounting import group_of
from seqjax.training.muon import muon
from seqjax.training.width import scale_by_width

Tree = Any
_PIECE = 2**20  # steps whose rates are computed at once


def make_optimizer(config: OptimizerConfig, family: Family) -> optax.GradientTransformation:
    """The direction u_t, without learning rate and weight decay; with the family's width rule, if it has one.

    adam, adamw: m / (sqrt(v) + epsilon), bias corrected (Kingma & Ba 2015). adafactor: factored second moment with
    update clipping (Shazeer & Stern 2018), no momentum. sgd: the gradient with momentum beta1. muon: see
    `seqjax.training.muon`.
    """
    direction = _direction(config, family)
    if family.widening == 1.0:
        return direction
    return optax.chain(direction, scale_by_width(family, config.name))


def _direction(config: OptimizerConfig, family: Family) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    match config.name:
        case "adam" | "adamw":
            return adam
        case "muon":
            return muon(config.momentum, getattr(family, "hidden", None), adam)
        case "adafactor":
            return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
        case "sgd":
            return optax.trace(decay=config.beta1) if config.beta1 else optax.identity()
    raise ValueError(config.name)


def learning_rates(config: OptimizerConfig, steps: int) -> np.ndarray:
    """The learning rate of every step, float32 [steps].

    With w warmup steps, S steps in all, p = (t - w) / (S - w) and final fraction f, at step t = 0 .. S - 1:
    warmup eta (t + 1) / w; then constant eta; cosine eta (f + (1 - f) (1 + cos pi p) / 2) (Loshchilov & Hutter 2017,
    eq. 5); linear eta (1 - (1 - f) p); inverse_sqrt eta sqrt(w / (t + 1)) (Vaswani et al. 2017, eq. 3);
    step eta gamma^floor((t - w) / step_every); wsd eta until the decay of n steps begins (`decay_begins`), then
    eta (1 - (1 - f) (t - (S - n)) / n) (Hu et al. 2024, MiniCPM; linear as in Hagele et al. 2024).
    """
    rates = np.empty(steps, np.float32)
    for first in range(0, steps, _PIECE):
        rates[first : first + _PIECE] = _rates(
            config, steps, np.arange(first, min(first + _PIECE, steps)).astype(float)
        )
    return rates


def _rates(config: OptimizerConfig, steps: int, t: np.ndarray) -> np.ndarray:
    """The rates of the steps ``t`` of a run of ``steps`` steps, float64."""
    warmup = config.warmup_steps
    progress = np.clip((t - warmup) / max(1, steps - warmup), 0.0, 1.0)
    floor, begins = config.final_fraction, decay_begins(config, steps)
    shapes = {
        "constant": lambda: np.ones_like(t),
        "cosine": lambda: floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * progress)),
        "linear": lambda: 1 - (1 - floor) * progress,
        "inverse_sqrt": lambda: np.sqrt(warmup / np.maximum(t + 1, warmup)),
        "wsd": lambda: 1 - (1 - floor) * np.maximum(t - begins, 0) / max(1, steps - begins),
        "step": lambda: config.step_factor ** np.floor(np.maximum(t - warmup, 0) / config.step_every),
    }
    shape = np.where(t < warmup, (t + 1) / max(1, warmup), shapes[config.schedule]())
    return config.learning_rate * shape


def decayed(params: Tree) -> Tree:
    """1.0 for leaves with weight decay (recurrent, block and readout matrices), else 0.0."""
    return jax.tree.map_with_path(lambda path, _: float(group_of(path) in ("matrices", "readout")), params)
