"""Delayed copy: the model answers with a symbol from D steps ago (:mod:`seqjax.data.delays`).

    loss = - mean over the batch of log softmax(logits_D)[s],      logits_D from the last state

Every training batch is new, so the model cannot memorise sequences. Validation and test are fixed draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np
import optax
from pydantic import ConfigDict, Field, PositiveInt

from seqjax.config import STRICT, WITHOUT_SEED, TaskConfig, check_bptt
from seqjax.data.delays import delayed_copies, vocabulary_size
from seqjax.layers.heads import SequenceModel, TokenEmbedding, TokenHead
from seqjax.models.backbone import Backbone
from seqjax.tasks.task import NOWHERE, Found, Objective, Task, Tree, Where, count_parameters, found

TRAINING, VALIDATION, TEST = range(3)  # streams of random numbers


@dataclass(frozen=True)
class DelayTask:
    """The sequences, and the reach of the gradient."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["delays"] = "delays"
    """The task."""
    distance: PositiveInt = 15
    """D, steps from the symbol to the question; a sequence has D + 1 tokens."""
    symbols: Annotated[int, Field(ge=2)] = 8
    """V, symbols to remember."""
    noise: PositiveInt = 8
    """N, different tokens that fill the steps between."""
    bptt: PositiveInt | None = None
    """Truncated back-propagation through time: steps in a piece; null: not truncated."""
    held_out: PositiveInt = 1024
    """Sequences in validation, and again in test."""


@dataclass(frozen=True)
class Config(TaskConfig):
    """A run."""

    lane_keys: ClassVar = WITHOUT_SEED  # the held-out sequences depend on the seed
    task: DelayTask = field(default_factory=DelayTask)


def check(config: Config) -> None:
    """Raise `Impossible` for settings that do not fit together."""
    task = config.task
    check_bptt("task.bptt", task.bptt, config.model, "task.distance + 1", task.distance + 1)


def load(config: Config, where: Where = NOWHERE) -> None:
    """Nothing to read: every batch is generated."""


def make_model(config: Config) -> SequenceModel:
    """Embedding, the family's layers, and logits of the symbols after every token. Only the last logits are used."""
    task, model = config.task, config.model
    return SequenceModel(
        TokenEmbedding(vocabulary_size(task.symbols, task.noise), model.d_model),
        Backbone(model, task.distance + 1, compute_dtype=config.train.compute_dtype, bptt=task.bptt),
        TokenHead(task.symbols),
    )


def make_task(config: Config, data: None = None) -> Task:
    """Held-out loss in nats and "accuracy" on the validation draw. At the end the same on the "test" draw."""
    task, train = config.task, config.train
    objective = make_objective(config)
    score = jax.jit(objective.score)

    def draw(stream: int, number: int, count: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((train.seed, stream, number))
        tokens_BxT, answers_B = delayed_copies(rng, count, task.distance, task.symbols, task.noise)
        return {"tokens": tokens_BxT, "answers": answers_B}

    def summary(scores: Sequence[Tree], final: bool) -> Found:
        ((nats, accuracy),) = scores
        return found(float(nats), accuracy=float(accuracy))

    def final(params: Tree) -> dict[str, Any]:
        (nats, accuracy), _ = score(params, draw(TEST, 0, task.held_out), None)
        return {"test": {"loss": float(nats), "accuracy": float(accuracy)}}

    return Task(
        objective=objective,
        batch=lambda step: draw(TRAINING, step, train.batch_size),
        held_out=lambda final: [draw(VALIDATION, 0, task.held_out)],
        summary=summary,
        final=final,
        evaluate_every=train.evaluate_every,
        parameters=count_parameters(objective),
        unit="sequences",
        per_step=train.batch_size,
    )


def make_objective(config: Config) -> Objective:
    """Cross-entropy of the answer, and what held-out sequences are scored by: it and the share of right answers."""
    model, length = make_model(config), config.task.distance + 1

    def loss(params: Tree, batch: Tree, carry: None, key: jax.Array) -> tuple[jax.Array, None]:
        logits_BxTxV = model.apply({"params": params}, batch["tokens"], train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV[:, -1], batch["answers"]).mean(), None

    def score(params: Tree, batch: Tree, carry: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        logits_BxV = model.apply({"params": params}, batch["tokens"])[:, -1]
        losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxV, batch["answers"])
        return (losses_B.mean(), (logits_BxV.argmax(axis=-1) == batch["answers"]).mean()), None

    return Objective(
        init=lambda key: model.init(key, np.zeros((1, length), np.int32))["params"],
        loss=loss,
        score=score,
        elements=config.train.batch_size * length,
    )
