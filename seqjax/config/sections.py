"""What a run is: frozen dataclasses. Their cross checks are in :mod:`seqjax.config.checks`.

A :class:`Config` says everything that decides a run's numbers and nothing else: paths, devices and tracking are
options of the command. Files and command-line options are read by :mod:`seqjax.runs.config_file`. The attribute
docstrings are the help texts of ``seqjax train --help``.
"""

from __future__ import annotations

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

from seqjax.families import LSTM, Family, known, own
from seqjax.host.own_code import is_own

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
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
    """Decay of the first moment (adam, adamw, and in muon all but the matrices); momentum (sgd)."""
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


@dataclass(frozen=True, kw_only=True)
class AnyTrain:
    """How long, in which pieces and in which precision: what text and other tasks share."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """B, sequences of text, or examples of another task, in one optimizer step."""
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
    remat: bool = False
    """Compute each block again in the backward pass instead of keeping its inside: less memory, a third more work."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(AnyTrain):
    """How long, in which pieces and in which precision. `mesh` is last, as a section in a section is in --help."""

    context_length: PositiveInt = 128
    """T, tokens of context in one sequence."""
    bptt: PositiveInt | None = None
    """Truncated back-propagation through time: the steps of a piece, between which no gradient passes; null: none."""
    checkpoint_every: PositiveInt = 500
    """Steps between two checkpoints; evaluations and the end make one too. The last two and the best are kept."""
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass(frozen=True, kw_only=True)
class TaskTrain(AnyTrain):
    """How long, in which pieces and in which precision, for tasks other than text."""

    evaluate_every: PositiveInt = 100
    """Steps between two evaluations, each with a checkpoint; the last step is always evaluated."""
    checkpoint_every: PositiveInt | None = None
    """Steps between two further checkpoints; null: only with evaluations. The last two and the best are kept."""
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
