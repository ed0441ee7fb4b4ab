"""What a run is: frozen dataclasses, their cross checks, their canonical form and the run id.

A :class:`Config` says everything that decides a run's numbers and nothing else: paths, devices and tracking are
options of the command. Files and command-line options are read by :mod:`seqjax.overlay`; here is only the schema.
The attribute docstrings are the help texts of ``seqjax train --help``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # smallest and largest normal numbers
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


@dataclass(frozen=True)
class RecurrentConfig:
    """Elman RNN, LSTM or GRU: embedding, stacked recurrent layers, readout."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    family: Literal["elman", "lstm", "gru"]
    """Recurrent cell."""
    d_model: PositiveInt = 128
    """D, width of the embedding."""
    d_hidden: PositiveInt | None = None
    """H, width of the recurrent state; null: equal to d_model."""
    n_layers: PositiveInt = 2
    """L, stacked recurrent layers."""
    bias: bool = True
    """Biases in the gates and in the readout."""
    forget_bias: float = 1.0
    """Initial bias of the LSTM's forget gate (LSTM only)."""
    reset: Literal["before", "after"] = "after"
    """GRU only: reset gate applied before the recurrent matmul (Cho et al. 2014) or after it (cuDNN, torch)."""
    tied_embeddings: bool = False
    """Use the embedding table as the readout."""
    dropout: Fraction = 0.0
    """Dropout rate on the inputs of each layer and of the readout."""
    recurrence: Literal["fast", "lean", "scan"] = "fast"
    """Backward pass: fast (own), lean (own; memory does not grow with context x gates), scan (plain, the reference)."""


@dataclass(frozen=True)
class TransformerConfig:
    """Transformer decoder; every part can be taken away, down to embedding and unembedding alone."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    family: Literal["transformer"] = "transformer"
    """Transformer decoder."""
    d_model: PositiveInt = 128
    """D, width of the residual stream."""
    n_layers: NonNegativeInt = 4
    """L, blocks; 0 leaves embedding and unembedding."""
    n_heads: PositiveInt = 4
    """N, attention heads; divides d_model."""
    d_ff: PositiveInt | None = None
    """F, width of the MLP; null: 4 D (swiglu: 8 D / 3 rounded up to a multiple of 8)."""
    attention: bool = True
    """Self-attention in each block."""
    attention_kernel: Literal["auto", "blocks", "whole"] = "auto"
    """Scores of all positions at once (whole), in blocks of queries, or what is fastest here (auto)."""
    mlp: Literal["gelu", "relu", "swiglu", "none"] = "gelu"
    """Activation of the MLP in each block; none: no MLP."""
    norm: Literal["layernorm", "rmsnorm", "none"] = "layernorm"
    """Normalization of the residual stream."""
    norm_position: Literal["before", "after"] = "before"
    """Before each sub-layer and before the unembedding (GPT-2), or after each residual sum (Vaswani et al. 2017)."""
    residual: bool = True
    """Residual connections around each sub-layer."""
    positions: Literal["learned", "rotary", "none"] = "learned"
    """How a token's position is known."""
    bias: bool = True
    """Biases in linear layers and layer norms."""
    tied_embeddings: bool = False
    """Use the embedding table as the readout."""
    dropout: Fraction = 0.0
    """Dropout rate on the embedding and on each sub-layer's output."""


@dataclass(frozen=True)
class WindowConfig:
    """Feed-forward network over the last few tokens, the baseline before recurrence (Bengio et al. 2003)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    family: Literal["window"] = "window"
    """Fixed-window feed-forward model."""
    d_model: PositiveInt = 64
    """D, width of the embedding."""
    window: PositiveInt = 8
    """How many of the last tokens are seen, the current one included."""
    d_ff: PositiveInt = 256
    """F, width of the hidden layers."""
    n_layers: PositiveInt = 1
    """L, hidden layers."""
    bias: bool = True
    """Biases in linear layers."""
    tied_embeddings: bool = False
    """Use the embedding table as the readout; needs d_ff equal to d_model."""
    dropout: Fraction = 0.0
    """Dropout rate on the inputs of each layer."""


ModelConfig = RecurrentConfig | TransformerConfig | WindowConfig
MODEL_CLASSES: dict[str, type] = {
    "elman": RecurrentConfig,
    "lstm": RecurrentConfig,
    "gru": RecurrentConfig,
    "transformer": TransformerConfig,
    "window": WindowConfig,
}


@dataclass(frozen=True)
class DataConfig:
    """Text, its tokens and how they become batches."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    corpus: str = "english"
    """A named corpus (see `seqjax data list`), a text file, a folder or an archive of text files."""
    tokenizer: str = "bytes"
    """bytes, chars, words, words-N, bpe-V (vocabulary size V, trained on the training split), gpt2 or cl100k_base."""
    batching: Literal["windows", "streams"] = "windows"
    """windows: random windows, zero state in each; streams: contiguous text, recurrent state carried over."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Update rule and learning-rate schedule."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: Literal["adamw", "adam", "adafactor", "sgd"] = "adamw"
    """Update rule; weight decay is decoupled from the gradient in all of them."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt", "step"] = "cosine"
    """Shape after the warmup; inverse_sqrt falls as sqrt(warmup_steps / step)."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear rise from zero to the peak."""
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Last learning rate as a fraction of the peak (cosine, linear)."""
    step_every: PositiveInt = 1000
    """Steps between two drops (step)."""
    step_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Factor of each drop (step)."""
    beta1: Fraction = 0.9
    """Decay of the first moment (adam, adamw); momentum (sgd)."""
    beta2: Fraction = 0.99
    """Decay of the second moment (adam, adamw)."""
    epsilon: PositiveFloat = 1e-8
    """Term that keeps the division finite (adam, adamw)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay on matrices (not on biases, gains and embeddings), multiplied by the learning rate."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0: no clipping."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, in which pieces and in which precision."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """B, sequences in one optimizer step."""
    context_length: PositiveInt = 128
    """T, tokens of context in one sequence."""
    bptt: PositiveInt | None = None
    """Truncated back-propagation through time: gradients stay within pieces of so many steps; null: not truncated."""
    accumulation: PositiveInt = 1
    """Micro-batches into which one batch is cut; divides batch_size."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; parameters, recurrent state and loss stay in float32."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial parameters, the data order and dropout."""
    init_scale: PositiveFloat = 1.0
    """Factor on all initial weight matrices."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics.jsonl (each line holds the mean over the steps since the last)."""
    checkpoint_every: PositiveInt = 500
    """Steps between two checkpoints; evaluations and the end make one too. The last two and the best are kept."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out loss on a fixed set of windows of the validation split."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    every: PositiveInt = 500
    """Steps between two evaluations; the last step is always evaluated."""
    windows: PositiveInt = 256
    """Evenly spread, non-overlapping windows (all there are, if fewer). Streams are always read whole."""
    final_windows: PositiveInt = 2048
    """Windows of the last evaluation, the one in result.json."""
    batch_size: PositiveInt = 64
    """Windows in one evaluation step (streams use train.batch_size)."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of one run."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    model: Annotated[ModelConfig, Field(discriminator="family")]
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class HorizonConfig:
    """How long to train, by what it is for; resolved into train.steps (see :mod:`seqjax.targets`)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    tokens: PositiveFloat | None = None
    """Training tokens."""
    flops: PositiveFloat | None = None
    """Training FLOPs by the exact count (matrices, attention and readout, forward and backward)."""
    kaplan_flops: PositiveFloat | None = None
    """Training FLOPs as 6 N D, with non-embedding parameters N and tokens D (Kaplan et al. 2020)."""
    tokens_per_parameter: PositiveFloat | None = None
    """Training tokens for each non-embedding parameter."""
    warmup_fraction: Fraction | None = None
    """Share of the steps that are warmup; resolved into optimizer.warmup_steps."""
    evaluations: PositiveInt | None = None
    """Evenly spaced evaluations, the last one included; resolved into evaluation.every."""


@dataclass(frozen=True)
class SizeConfig:
    """How large a model, by what it is for; resolved into widths (see :mod:`seqjax.targets`)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    non_embedding: PositiveFloat | None = None
    """Target of non-embedding parameters at the given depth; the nearest width is taken, within 10 %."""


@dataclass(frozen=True)
class Request(Config):
    """What files and options may say: a config, and targets that are resolved into one."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    horizon: HorizonConfig = field(default_factory=HorizonConfig)
    size: SizeConfig = field(default_factory=SizeConfig)


class Impossible(ValueError):
    """A combination of values that cannot be: ``key`` is the dotted key to change."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def check(config: Config) -> None:
    """Raise :class:`Impossible` when values that are right one by one cannot stand together."""
    train = config.train
    check_integers(config)
    check_model(config.model)
    check_optimizer(config.optimizer, train.steps)
    _check_float32("train.init_scale", train.init_scale)
    if train.batch_size % train.accumulation:
        raise Impossible(
            "train.accumulation",
            f"{train.accumulation} does not divide train.batch_size "
            f"{train.batch_size}; allowed: {_divisors(train.batch_size)}",
        )
    if train.bptt is not None:
        _check_bptt(train.bptt, config)
    if config.data.batching == "streams" and not isinstance(config.model, RecurrentConfig):
        raise Impossible(
            "data.batching",
            f"streams carry recurrent state, which the family '{config.model.family}' does not have; allowed: windows",
        )


def check_integers(config: Any) -> None:
    """The part of :func:`check` that is about the range of int32; for the config of any task."""
    for key, value in dotted(dataclasses.asdict(config)):
        if isinstance(value, int) and value >= 2**31:
            raise Impossible(key, f"{value:,} is too large; at most {2**31 - 1:,} is allowed")


def check_model(model: ModelConfig) -> None:
    """The part of :func:`check` that is about a model alone; tasks have it too."""
    if isinstance(model, TransformerConfig):
        _check_transformer(model)
    elif isinstance(model, RecurrentConfig):
        _check_recurrent(model)
    elif model.tied_embeddings and model.d_ff != model.d_model:
        raise Impossible("model.tied_embeddings", f"needs d_ff {model.d_ff} equal to d_model {model.d_model}")


def check_optimizer(optimizer: OptimizerConfig, steps: int) -> None:
    """The part of :func:`check` that is about an optimizer and its number of steps; tasks have it too."""
    for name in ("learning_rate", "epsilon"):
        _check_float32(f"optimizer.{name}", getattr(optimizer, name))
    if optimizer.warmup_steps > steps:
        raise Impossible(
            "optimizer.warmup_steps",
            f"{optimizer.warmup_steps} is more than train.steps; at most {steps} is allowed",
        )
    if optimizer.schedule == "inverse_sqrt" and optimizer.warmup_steps == 0:
        raise Impossible("optimizer.warmup_steps", "the schedule inverse_sqrt needs at least 1 warmup step")


def _check_float32(key: str, value: float) -> None:
    if not _FLOAT32[0] <= value <= _FLOAT32[1]:
        raise Impossible(key, f"{value} is not within float32, 1.2e-38 to 3.4e38")


def _check_transformer(model: TransformerConfig) -> None:
    if model.d_model % model.n_heads:
        raise Impossible(
            "model.n_heads",
            f"{model.n_heads} heads do not divide d_model {model.d_model}; allowed: {_divisors(model.d_model)}",
        )
    if model.positions == "rotary" and (model.d_model // model.n_heads) % 2:
        raise Impossible(
            "model.n_heads",
            f"rotary positions need an even head width; it is "
            f"{model.d_model} / {model.n_heads} = {model.d_model // model.n_heads}",
        )


def _check_recurrent(model: RecurrentConfig) -> None:
    hidden = model.d_hidden or model.d_model
    if model.tied_embeddings and hidden != model.d_model:
        raise Impossible("model.tied_embeddings", f"needs d_hidden {hidden} equal to d_model {model.d_model}")
    if model.family != "lstm" and model.forget_bias != 1.0:
        raise Impossible("model.forget_bias", f"the family '{model.family}' has no forget gate; only lstm has")
    if model.family == "lstm" and not model.bias and model.forget_bias != 1.0:
        raise Impossible("model.forget_bias", "needs model.bias true")
    if model.family != "gru" and model.reset != "after":
        raise Impossible("model.reset", f"the family '{model.family}' has no reset gate; only gru has")


def _check_bptt(bptt: int, config: Config) -> None:
    if not isinstance(config.model, RecurrentConfig):
        family = config.model.family
        raise Impossible("train.bptt", f"the family '{family}' has no recurrence to truncate; allowed: null")
    if bptt > config.train.context_length:
        raise Impossible(
            "train.bptt",
            f"{bptt} steps are more than train.context_length; at most {config.train.context_length} is allowed",
        )


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain nested dicts, every field written out."""
    return dataclasses.asdict(config)


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings, in their order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


LATER_KEYS = {
    "model.recurrence": "fast",
    "model.attention_kernel": "auto",
    "model.norm_position": "before",
    "train.bptt": None,
}
"""Keys that came after the first recorded runs, with their defaults. At its default such a key is no part of the
canonical form, so that the ids of runs recorded before it stay what they were."""


def canonical_json(config: Config) -> str:
    """One canonical text for each config: sorted keys, no spaces; floats by their shortest exact form."""
    tree = to_dict(config)
    for key, default in LATER_KEYS.items():
        section, _, name = key.partition(".")
        if name in tree[section] and tree[section][name] == default:
            del tree[section][name]
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


LANE_KEYS = (
    "optimizer.learning_rate",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.final_fraction",
    "optimizer.step_every",
    "optimizer.step_factor",
    "optimizer.weight_decay",
    "train.seed",
    "train.init_scale",
)
"""What may differ between the runs that one compiled program trains side by side: data of the step, not code."""


def program_key(config: Config) -> str:
    """One text for all configs that one compiled program can train as lanes of a bundle (see `LANE_KEYS`)."""
    tree = to_dict(config)
    for key in LANE_KEYS:
        section, _, name = key.partition(".")
        del tree[section][name]
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def run_id(config: Config) -> str:
    """A readable name with 10 hex digits of the config's sha256, so that equal configs share one run folder."""
    model = config.model
    shape = f"{model.family}-{model.n_layers}x{getattr(model, 'd_hidden', None) or model.d_model}"
    return f"{shape}-{hashlib.sha256(canonical_json(config).encode()).hexdigest()[:10]}"
