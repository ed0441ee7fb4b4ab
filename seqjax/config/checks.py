"""Cross checks of a run's config: impossible combinations of values that are valid each by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from seqjax.config.plain import dotted
from seqjax.config.sections import Config, OptimizerConfig, RunConfig
from seqjax.families import Family
from seqjax.families.family import Impossible

_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # smallest and largest normal numbers
WIDTH_RULES = ("adamw", "adam", "muon")
"""Optimizers that `model.base_width` has rates for, see `seqjax.training.width`."""


def check(config: Config) -> None:
    """Raise :class:`Impossible` for an impossible combination of valid values."""
    train = config.train
    check_shared(config)
    check_bptt("train.bptt", train.bptt, config.model, "train.context_length", train.context_length)
    if config.data.batching == "streams" and not config.model.recurrent:
        raise Impossible(
            "data.batching",
            f"streams carry recurrent state, which the family '{config.model.family}' does not have; allowed: windows",
        )


def check_shared(config: RunConfig) -> None:
    """The part of :func:`check` for all tasks."""
    train = config.train
    check_integers(config)
    config.model.check()
    check_optimizer(config.optimizer, train.steps)
    _check_width_rule(config)
    _check_float32("train.init_scale", train.init_scale)
    if train.batch_size % train.accumulation:
        raise Impossible(
            "train.accumulation",
            f"{train.accumulation} does not divide train.batch_size "
            f"{train.batch_size}; allowed: {_divisors(train.batch_size)}",
        )


def check_integers(config: Any) -> None:
    """The part of :func:`check` on the range of int32."""
    for key, value in dotted(dataclasses.asdict(config)):
        if isinstance(value, int) and value >= 2**31:
            raise Impossible(key, f"{value:,} is too large; at most {2**31 - 1:,} is allowed")


def check_optimizer(optimizer: OptimizerConfig, steps: int) -> None:
    """The part of :func:`check` on an optimizer and its number of steps."""
    for name in ("learning_rate", "epsilon"):
        _check_float32(f"optimizer.{name}", getattr(optimizer, name))
    if optimizer.warmup_steps > steps:
        raise Impossible(
            "optimizer.warmup_steps", f"{optimizer.warmup_steps} is more than train.steps; at most {steps} is allowed"
        )
    if optimizer.schedule == "inverse_sqrt" and optimizer.warmup_steps == 0:
        raise Impossible("optimizer.warmup_steps", "the schedule inverse_sqrt needs at least 1 warmup step")
    if optimizer.schedule == "wsd" and optimizer.warmup_steps > (most := decay_begins(optimizer, steps)):
        raise Impossible(
            "optimizer.warmup_steps",
            f"{optimizer.warmup_steps} is more than the {most} steps before the decay of wsd; "
            f"at most {most} is allowed with optimizer.decay_fraction {optimizer.decay_fraction:g}",
        )


def decay_begins(optimizer: OptimizerConfig, steps: int) -> int:
    """Steps before the decay of the schedule wsd begins; the decay has at least one step."""
    return steps - max(1, round(optimizer.decay_fraction * steps))


def _check_width_rule(config: RunConfig) -> None:
    if getattr(config.model, "base_width", None) is None:
        return
    if config.optimizer.name not in WIDTH_RULES:
        allowed = ", ".join(WIDTH_RULES)
        raise Impossible(
            "optimizer.name", f"model.base_width has no rule for {config.optimizer.name}; allowed: {allowed}"
        )
    if not isinstance(config, Config):
        raise Impossible("model.base_width", "the heads of other tasks than text have no width rule; allowed: null")


def _check_float32(key: str, value: float) -> None:
    if not _FLOAT32[0] <= value <= _FLOAT32[1]:
        raise Impossible(key, f"{value} is not within float32, 1.2e-38 to 3.4e38")


def check_bptt(key: str, bptt: int | None, family: Family, length: str, most: int) -> None:
    """The part of :func:`check` on truncated back-propagation, for sequences of ``most`` steps, the value of a key."""
    if bptt is not None and not family.recurrent:
        raise Impossible(key, f"the family '{family.family}' has no recurrence to truncate; allowed: null")
    if bptt is not None and bptt > most:
        raise Impossible(key, f"{bptt} steps are more than {length}; at most {most} is allowed")


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
