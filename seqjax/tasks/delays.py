"""Delayed copy as a task: how far back a model learns to remember (:mod:`seqjax.data.delays`).

    loss = - mean over the batch of log softmax(logits_D)[s],      logits_D from the last state

Every batch is fresh, so that nothing can be learnt by heart but the rule; validation and test are fixed draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
import optax
from pydantic import ConfigDict, Field, PositiveInt

from seqjax.config import ModelConfig, OptimizerConfig
from seqjax.data.delays import delayed_copies, vocabulary_size
from seqjax.errors import UserError
from seqjax.families import LSTM
from seqjax.layers.heads import SequenceModel, TokenEmbedding, TokenHead
from seqjax.models.backbone import Backbone
from seqjax.task_config import STRICT, TaskTrain
from seqjax.training.tasks import Task, Tree

TRAINING, VALIDATION, TEST = range(3)  # streams of random numbers


@dataclass(frozen=True)
class DelayTask:
    """How far back the answer lies, and how far the gradient may reach."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    distance: PositiveInt = 15
    """D, steps from the symbol to the question; a sequence has D + 1 tokens."""
    symbols: Annotated[int, Field(ge=2)] = 8
    """V, symbols to remember."""
    noise: PositiveInt = 8
    """N, tokens that may stand between."""
    bptt: PositiveInt | None = None
    """Truncated back-propagation through time: gradients stay within pieces of so many steps; null: not truncated."""
    held_out: PositiveInt = 1024
    """Sequences of validation, and of test."""


@dataclass(frozen=True)
class DelayConfig:
    """A run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: DelayTask = field(default_factory=DelayTask)
    model: ModelConfig = field(default_factory=lambda: LSTM(d_model=32, n_layers=1))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TaskTrain = field(default_factory=TaskTrain)


def check(config: DelayConfig) -> None:
    """Raise UserError for settings that cannot stand together."""
    length, bptt = config.task.distance + 1, config.task.bptt
    if bptt is not None and not config.model.recurrent:
        family = config.model.family
        raise UserError(f"task.bptt: the family '{family}' has no recurrence to truncate; allowed: null")
    if bptt is not None and bptt > length:
        raise UserError(f"task.bptt: {bptt} steps are more than task.distance + 1; at most {length} is allowed")


def build(config: DelayConfig) -> SequenceModel:
    """Embedding, the family's layers, and logits of the symbols after every token; the last ones count."""
    task, model = config.task, config.model
    return SequenceModel(
        TokenEmbedding(vocabulary_size(task.symbols, task.noise), model.d_model),
        Backbone(model, max_length=task.distance + 1, bptt=task.bptt),
        TokenHead(task.symbols),
    )


def make_task(config: DelayConfig) -> Task:
    """What `seqjax.training.tasks.fit` trains: held-out "validation_loss" in nats and "accuracy", and "test".

    Raises:
        UserError: as :func:`check`.
    """
    check(config)
    task, train, model = config.task, config.train, build(config)

    def draw(stream: int, number: int, count: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((train.seed, stream, number))
        tokens_BxT, answers_B = delayed_copies(rng, count, task.distance, task.symbols, task.noise)
        return {"tokens": tokens_BxT, "answers": answers_B}

    def loss(params: Tree, batch: Tree, carry: None, key: jax.Array) -> tuple[jax.Array, None]:
        logits_BxTxV = model.apply({"params": params}, batch["tokens"], train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV[:, -1], batch["answers"]).mean(), None

    @jax.jit
    def score(params: Tree, batch: Tree) -> tuple[jax.Array, jax.Array]:
        logits_BxV = model.apply({"params": params}, batch["tokens"])[:, -1]
        losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxV, batch["answers"])
        return losses_B.mean(), (logits_BxV.argmax(axis=-1) == batch["answers"]).mean()

    def evaluate(params: Tree, stream: int = VALIDATION) -> dict[str, Any]:
        nats, accuracy = score(params, draw(stream, 0, task.held_out))
        return {"validation_loss" if stream == VALIDATION else "loss": float(nats), "accuracy": float(accuracy)}

    return Task(
        init=lambda key: model.init(key, np.zeros((1, task.distance + 1), np.int32))["params"],
        loss=loss,
        batch=lambda step: draw(TRAINING, step, train.batch_size),
        evaluate=evaluate,
        final=lambda params: {"test": evaluate(params, TEST)},
    )
