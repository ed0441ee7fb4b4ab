"""Targets: sizes given by parameters, and horizons given by tokens or FLOPs.

A file, an option or an axis of a sweep may have ``size.non_embedding: 1e5`` and ``horizon.flops: 1e13``. They are
resolved here into a width and a number of steps, so that the config of a run holds only values that determine it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from seqjax.config import Config, HorizonConfig, ModelConfig, RunConfig
from seqjax.config.checks import check_integers
from seqjax.data import cache_folder, load_corpus, load_tokenizer
from seqjax.data.tokenizers import known_size
from seqjax.errors import UserError
from seqjax.host.wording import power
from seqjax.models.accounting import count_parameters, flops_per_token
from seqjax.runs.config_file import checked, parse, without_targets
from seqjax.runs.tree import RIVALS, Tree

TOLERANCE = 0.10  # largest relative deviation from a target
MOST = 1e15  # largest allowed number of parameters or tokens


@dataclass(frozen=True)
class Resolved:
    """A config, and notes on the values that targets decided."""

    config: RunConfig
    notes: tuple[str, ...] = ()


def resolve(tree: Tree, horizons: Sequence[float] = ()) -> Resolved:
    """The config of a tree, with ``size`` and ``horizon`` resolved into widths, steps, warmup and evaluations.

    Args:
        horizons: tokens of all runs that share a trunk with this one: it has the warmup of the shortest and the
            spacing of evaluations of the longest.
    """
    request = parse(tree)
    config = checked(without_targets(request), tree, check_integers)
    notes = list(tree.overruled)
    if request.size.non_embedding is not None:
        model = model_of_size(config.model, request.size.non_embedding, tree.place("size.non_embedding"))
        config = dataclasses.replace(config, model=model)
    steps, note = _steps(request, config, tree)
    notes += [note] if note else []
    config = _with(config, "train", steps=steps)
    lengths = [steps_of_tokens(config, tokens) for tokens in horizons] or [steps]
    horizon, fraction = request.horizon, request.horizon.warmup_fraction
    if fraction is not None and tree.get("optimizer.warmup_steps") is None:
        config = _with(config, "optimizer", warmup_steps=max(1, round(fraction * min(lengths))) if fraction else 0)
    section, name = ("evaluation", "every") if isinstance(config, Config) else ("train", "evaluate_every")
    if horizon.evaluations is not None and tree.get(f"{section}.{name}") is None:
        steps = max(lengths)
        every = math.ceil(steps / horizon.evaluations)
        config = _with(config, section, **{name: every})
        count = math.ceil(steps / every)
        if count != horizon.evaluations:
            notes.append(
                f"horizon.evaluations {horizon.evaluations}: {steps} steps can be evaluated evenly {count} times"
            )
    for above, below in RIVALS[1:]:
        if tree.get(above) is not None and tree.get(below) is not None:
            notes.append(f"{above} {tree.get(above)} over {below}")
    return Resolved(checked(config, tree), tuple(notes))


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


def _steps(request: Any, config: RunConfig, tree: Tree) -> tuple[int, str]:
    """Optimizer steps, and a note if several keys could decide them."""
    given = [key for key in RIVALS[0] if tree.get(key) is not None]
    if not given or given[0] == "train.steps":
        note = f"train.steps {config.train.steps} over {', '.join(given[1:])}" if given[1:] else ""
        return config.train.steps, note
    if not isinstance(config, Config):
        raise UserError(f"{tree.place(given[0])}: {given[0]}: counts tokens of text; give train.steps")
    name = given[0].partition(".")[2]
    tokens_per_step = config.train.batch_size * config.train.context_length
    tokens = _tokens(name, getattr(request.horizon, name), config, tree.place(given[0]))
    steps = steps_of_tokens(config, tokens)
    note = f"{given[0]} over {', '.join(given[1:])}" if given[1:] else ""
    most = next((m for m in (MOST, (2**31 - 1) * tokens_per_step) if steps * tokens_per_step > m), None)
    if most is not None:
        raise UserError(
            f"{tree.place(given[0])}: {given[0]}: {tree.get(given[0])} is {power(tokens)} tokens; "
            f"at most {power(most)} are allowed"
        )
    if abs(steps * tokens_per_step - tokens) > TOLERANCE * tokens:
        found = (
            f"{given[0]} {tree.get(given[0])} is {tokens:,.0f} tokens; {steps} step(s) are {steps * tokens_per_step:,}"
        )
        note = f"{note}; {found}" if note else found
    return steps, note


def steps_of_tokens(config: Config, tokens: float) -> int:
    """The number of steps with nearly this number of tokens, at least 1."""
    return max(1, round(tokens / (config.train.batch_size * config.train.context_length)))


def _tokens(name: str, value: float, config: Config, place: str) -> float:
    """The training tokens of a horizon with this name and value."""
    assert name in {field.name for field in dataclasses.fields(HorizonConfig)}
    if name == "tokens":
        return value
    if name == "flops":
        return value / training_flops_per_token(config, vocabulary_size(config))
    non_embedding = non_embedding_parameters(config.model)
    if non_embedding == 0:
        raise UserError(
            f"{place}: horizon.{name}: the model has no non-embedding parameters to count by; give horizon.tokens"
        )
    return value * non_embedding if name == "tokens_per_parameter" else value / (6 * non_embedding)


@cache
def _vocabulary_size(corpus: str, tokenizer: str) -> int:
    return known_size(tokenizer) or load_tokenizer(tokenizer, load_corpus(corpus), cache_folder()).vocab_size


def vocabulary_size(config: Config) -> int:
    """V of a config's tokenizer; if its name does not tell it, the tokenizer is trained now on the corpus."""
    return _vocabulary_size(config.data.corpus, config.data.tokenizer)


@cache
def non_embedding_parameters(model: ModelConfig) -> int:
    """N, the weights of recurrent layers and blocks, without embeddings, readout, biases and gains."""
    return count_parameters(model, 1, 1)["non_embedding"]


def training_flops_per_token(config: Config, vocabulary: int) -> float:
    """Training FLOPs per token: exact count, forward and backward."""
    return _training_flops(config.model, vocabulary, config.train.context_length, config.data.batching == "streams")


@cache
def _training_flops(model: ModelConfig, vocabulary: int, context: int, streams: bool) -> float:
    return flops_per_token(model, vocabulary, context, streams)["training"]


def model_of_size(model: ModelConfig, target: float, place: str) -> ModelConfig:
    """The model at the width whose non-embedding parameters are nearest to ``target``; depth and proportions are kept.

    ``d_model`` is a multiple of the Transformer's heads (of twice the heads with rotary positions). ``d_hidden`` and
    ``d_ff``, if given, keep their ratio to it.

    Raises:
        NoSuchWidth: no width is within 10 %.
        UserError: the target is above 1e15, or the model has no layers.
    """
    if target > MOST:
        raise UserError(f"{place}: size.non_embedding: {power(target)} is more than {power(MOST)}")
    grain = model.grain
    low, high, multiple = 0, math.inf, max(1, round(model.d_model / grain))
    while high - low > 1:  # N rises with the width, about as its square
        size = non_embedding_parameters(model.widened(multiple * grain))
        if size == 0:
            raise UserError(f"{place}: size.non_embedding: the model has no layers whose width could be chosen")
        low, high = (multiple, high) if size <= target else (low, multiple)
        multiple = min(max(round(multiple * math.sqrt(target / size)), low + 1), high - 1)
    sizes = {width: non_embedding_parameters(model.widened(width)) for width in (low * grain, high * grain) if width}
    best = min(sizes, key=lambda width: abs(sizes[width] - target))
    if abs(sizes[best] - target) > TOLERANCE * target:
        offered = ", ".join(f"d_model {width} gives {size:,}" for width, size in sizes.items())
        raise NoSuchWidth(
            f"{place}: size.non_embedding: no width gives {target:,.0f} within {TOLERANCE:.0%} for the family "
            f"'{model.family}' with n_layers {model.n_layers}"
            + (f" and n_heads {model.n_heads}" if hasattr(model, "n_heads") else "")
            + f"; {offered}. Change the size, the depth"
            + (" or the heads" if grain > 1 else "")
        )
    return model.widened(best)


class NoSuchWidth(UserError):
    """No width of a model is near enough to the target size."""
