"""What a run is: frozen dataclasses and their cross checks.

A :class:`Config` says everything that decides a run's numbers and nothing else: paths, devices and tracking are
options of the command. Files and command-line options are read by :mod:`seqjax.runs.config_file`. The attribute
docstrings are the help texts of ``seqjax train --help``.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import PydanticKnownError

from seqjax.config.plain import dotted
from seqjax.families import LSTM, Family, known, own
from seqjax.families.family import Impossible
from seqjax.host.own_code import is_own

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # smallest and largest normal numbers
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


@cache
def family_adapter(family: type[Family]) -> TypeAdapter[Any]:
    """An adapter that reads the section `model` of one family."""
    return TypeAdapter(family)


def _read_model(section: Any) -> Family:
    """The family in a section `model`; an `own.Absent` if it is a user's own and its code is not loaded."""
    if not isinstance(section, dict):
        raise PydanticKnownError("model_attributes_type")
    if "family" not in section:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'family'"})
    name = section["family"]
    family = known(name)
    if family is None and is_own(name):
        return own.absent(section)
    if family is None:
        context = {"discriminator": "'family'", "tag": str(name), "expected_tags": ""}
        raise PydanticKnownError("union_tag_invalid", context)
    return family_adapter(family).validate_json(json.dumps(section), strict=True)


ModelConfig = Annotated[Family, PlainValidator(_read_model), WithJsonSchema({"type": "object"})]
"""Any family: the section `model`."""


@dataclass(frozen=True)
class DataConfig:
    """Text, its tokens and its batches."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    corpus: str = "english"
    """A named corpus (see `seqjax data list`), a text file, a folder or an archive of text files."""
    tokenizer: str = "bytes"
    """bytes, chars, words, words-N, bpe-V (vocabulary size V, trained on the training split), gpt2 or cl100k_base."""
    batching: Literal["windows", "streams"] = "windows"
    """windows: random windows, zero state in each; streams: contiguous text, recurrent state carried over."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Update rule and learning-rate schedule."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["adamw", "adam", "adafactor", "sgd", "muon"] = "adamw"
    """Update rule; weight decay is decoupled from the gradient in all. muon: of matrices; of all else adamw's."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt", "step", "wsd"] = "cosine"
    """Shape after the warmup; inverse_sqrt falls as sqrt(warmup_steps / step); wsd is constant, then falls linearly."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear rise from zero to the peak."""
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Last learning rate as a fraction of the peak (cosine, linear, wsd)."""
    step_every: PositiveInt = 1000
    """Steps between two drops (step)."""
    step_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Factor of each drop (step)."""
    beta1: Fraction = 0.9
    """Decay of the first moment (adam, adamw, what is no matrix of muon); momentum (sgd)."""
    beta2: Fraction = 0.99
    """Decay of the second moment (adam, adamw)."""
    epsilon: PositiveFloat = 1e-8
    """Term that keeps the division finite (adam, adamw)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay on matrices (not on biases, gains and embeddings), multiplied by the learning rate."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0: no clipping."""
    momentum: Fraction = 0.95
    """Decay of the matrices' momentum (muon)."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of the steps, the last ones, in which the rate falls (wsd)."""


@dataclass(frozen=True)
class MeshConfig:
    """How the devices of a run share its work: `data` x `fsdp` of them, which all share the batch."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    data: PositiveInt | None = None
    """Groups of devices; each group holds all parameters; null: as many as the devices make."""
    fsdp: PositiveInt = 1
    """Devices of a group, which share parameters, gradients and moments, and gather them layer by layer."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, in which pieces and in which precision."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """B, sequences in one optimizer step."""
    context_length: PositiveInt = 128
    """T, tokens of context in one sequence."""
    bptt: PositiveInt | None = None
    """Truncated back-propagation through time: the steps of a piece, between which no gradient passes; null: none."""
    accumulation: PositiveInt = 1
    """Micro-batches into which one batch is cut; divides batch_size."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; parameters, recurrent state and loss stay in float32."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial parameters, the data order and dropout."""
    init_scale: PositiveFloat = 1.0
    """Factor on all initial weight matrices."""
    start: str | None = None
    """Initial parameters, as RUN@DIGEST: written by `seqjax train CONFIG --from RUN`; null: drawn from the seed."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics.jsonl (each line holds the mean over the steps since the last)."""
    checkpoint_every: PositiveInt = 500
    """Steps between two checkpoints; evaluations and the end make one too. The last two and the best are kept."""
    remat: bool = False
    """Compute each block again in the backward pass instead of keeping its inside: less memory, a third more work."""
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass(frozen=True)
class TaskTrain:
    """How long, in which pieces and in which precision, for tasks other than text."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """B, examples in one optimizer step."""
    accumulation: PositiveInt = 1
    """Micro-batches into which one batch is cut; divides batch_size."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; parameters, recurrent state and loss stay in float32."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial parameters, the data order and dropout."""
    init_scale: PositiveFloat = 1.0
    """Factor on all initial weight matrices."""
    start: str | None = None
    """Initial parameters, as RUN@DIGEST: written by `seqjax train CONFIG --from RUN`; null: drawn from the seed."""
    evaluate_every: PositiveInt = 100
    """Steps between two evaluations, each with a checkpoint; the last step is always evaluated."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics.jsonl (each line holds the mean over the steps since the last)."""
    checkpoint_every: PositiveInt | None = None
    """Steps between two further checkpoints; null: only with evaluations. The last two and the best are kept."""
    remat: bool = False
    """Compute each block again in the backward pass instead of keeping its inside: less memory, a third more work."""
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out loss on a fixed set of windows of the validation split."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    every: PositiveInt = 500
    """Steps between two evaluations; the last step is always evaluated."""
    windows: PositiveInt = 256
    """Number of evenly spread, non-overlapping windows (fewer if fewer fit). Streams are always read completely."""
    final_windows: PositiveInt = 2048
    """Windows of the last evaluation, the one in result.json."""
    batch_size: PositiveInt = 64
    """Windows in one evaluation step (streams use train.batch_size)."""


@dataclass(frozen=True)
class TaskConfig:
    """The sections of every task beside its own, `task`: a base for the `Config` of a task."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: ModelConfig = field(default_factory=lambda: LSTM(d_model=32, n_layers=1))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TaskTrain = field(default_factory=TaskTrain)


class RunConfig(Protocol):
    """The part that the configs of all tasks share: `Config` for text, and the `Config` of each file in
    `seqjax.tasks`. All are frozen dataclasses."""

    @property
    def model(self) -> Any: ...
    @property
    def optimizer(self) -> OptimizerConfig: ...
    @property
    def train(self) -> TrainConfig | TaskTrain: ...


@dataclass(frozen=True)
class Config:
    """Everything that determines the numbers of a run on text."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class HorizonConfig:
    """Length of training by tokens or FLOPs; resolved into train.steps (see :mod:`seqjax.runs.targets`)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    tokens: PositiveFloat | None = None
    """Training tokens."""
    flops: PositiveFloat | None = None
    """Training FLOPs by the exact count (matrices, attention and readout, forward and backward)."""
    kaplan_flops: PositiveFloat | None = None
    """Training FLOPs as 6 N D, with non-embedding parameters N and tokens D (Kaplan et al. 2020)."""
    tokens_per_parameter: PositiveFloat | None = None
    """Training tokens per non-embedding parameter."""
    warmup_fraction: Fraction | None = None
    """Share of the steps that are warmup; resolved into optimizer.warmup_steps."""
    evaluations: PositiveInt | None = None
    """Evenly spaced evaluations, the last one included; resolved into evaluation.every."""


@dataclass(frozen=True)
class SizeConfig:
    """Size of a model by its parameters; resolved into widths (see :mod:`seqjax.runs.targets`)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    non_embedding: PositiveFloat | None = None
    """Target of non-embedding parameters at the given depth; the nearest width is taken, within 10 %."""


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


WIDTH_RULES = ("adamw", "adam", "muon")
"""Optimizers that `model.base_width` has rates for, see `seqjax.training.width`."""


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
