"""Sentiment: one class of a sentence from any backbone with any head.

    logits = Classifier(pool(Backbone(E[words])))        loss = - mean log softmax(logits)[label], nats per sentence

What the runs of the experiment share is in configs/tasks/sentiment.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ConfigDict, Field, PositiveInt

from seqjax.config import ModelConfig, OptimizerConfig
from seqjax.data.sentiment import (
    Batch,
    Buckets,
    Splits,
    Vocabulary,
    batch_at,
    in_order,
    into_buckets,
    length_bounds,
    load_splits,
    make_vocabulary,
)
from seqjax.families import GRU
from seqjax.folders import cache_folder, data_folder
from seqjax.layers.heads import Classifier, SequenceModel, TokenEmbedding
from seqjax.models.backbone import Backbone
from seqjax.task_config import STRICT, TaskTrain
from seqjax.training.step import Loss
from seqjax.training.tasks import Task

Tree = Any


@dataclass(frozen=True)
class SentimentTask:
    """Which sentences, and what is done with the hidden states."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    corpus: str = "phrases"
    """sst2; phrases (generated); or a file, or a folder or archive of files, with one example a line: label, space or
    tab, text."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] = ("0", "1")
    """Labels of the file; those of sst2 and phrases are 0 (negative) and 1 (positive)."""
    least_count: PositiveInt = 2
    """A word is known that is seen so often in training; all others are one."""
    longest: PositiveInt = 64
    """Words of a sentence that are read; what follows is left out."""
    n_buckets: PositiveInt = 3
    """Lengths to which sentences are padded; each compiles the step once more."""
    pool: Literal["last", "mean", "attention"] = "mean"
    """Head: the last state, the mean of all, or a weighted mean whose weights are learned."""
    causal: bool = True
    """false: bidirectional recurrence, or attention to both sides."""


@dataclass(frozen=True)
class SentimentConfig:
    """Everything that decides the numbers of one run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: ModelConfig = field(default_factory=lambda: GRU(d_model=64, n_layers=1, dropout=0.5))
    """Its dropout is also that of the head."""
    task: SentimentTask = field(default_factory=SentimentTask)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TaskTrain = field(default_factory=TaskTrain)


def read_splits(task: SentimentTask) -> Splits:
    """The sentences of a task from the folders of data and cache; errors as `seqjax.data.sentiment.load_splits`."""
    return load_splits(task.corpus, task.classes, data_folder(), cache_folder())


def make_model(config: SentimentConfig, vocab_size: int, longest: int) -> SequenceModel:
    """Words in, logits_BxC out."""
    n_classes = len(config.task.classes)
    return SequenceModel(
        TokenEmbedding(vocab_size, config.model.d_model),
        Backbone(config.model, max_length=longest, causal=config.task.causal),
        Classifier(n_classes, config.task.pool, config.model.dropout),
    )


def make_task(config: SentimentConfig, splits: Splits, score_test: bool = True) -> Task:
    """Training on sentences; on the validation split "validation_loss" in nats per sentence and "accuracy".

    Args:
        splits: of the task, `read_splits(config.task)`.
        score_test: the result has "test" {"loss", "accuracy", "sentences"}, of the parameters that were best on the
            validation split. A search of hyper-parameters goes without.
    """
    vocabulary, (train, validation, test) = prepare(config.task, splits)
    model, batch_size = make_model(config, vocabulary.size, train.bounds[-1]), config.train.batch_size

    def init(key: jax.Array) -> Tree:
        tokens_BxT = jnp.zeros((1, train.bounds[-1]), jnp.int32)
        return model.init(key, tokens_BxT, jnp.ones_like(tokens_BxT, bool))["params"]

    def evaluate(params: Tree) -> dict[str, Any]:
        loss, accuracy = score(model, params, in_order(validation, batch_size))
        return {"validation_loss": loss, "accuracy": accuracy}

    def final(params: Tree) -> dict[str, Any]:
        loss, accuracy = score(model, params, in_order(test, batch_size))
        return {"test": {"loss": loss, "accuracy": accuracy, "sentences": len(test.labels)}}

    return Task(
        init,
        loss_of(model),
        partial(_batch, train, config.train.seed, batch_size),
        evaluate,
        final if score_test else lambda params: {},
    )


def prepare(task: SentimentTask, splits: Splits) -> tuple[Vocabulary, tuple[Buckets, Buckets, Buckets]]:
    """Vocabulary of the training sentences, and each split in buckets of the same bounds."""
    vocabulary = make_vocabulary(splits.train.words, task.least_count)
    lengths = [min(len(words), task.longest) for split in splits for words in split.words]
    bounds = length_bounds(lengths, task.n_buckets)
    bounds = (*(b for b in bounds[:-1] if b < task.longest), min(bounds[-1], task.longest))
    train, validation, test = (into_buckets(split, vocabulary, bounds) for split in splits)
    return vocabulary, (train, validation, test)


@lru_cache
def loss_of(model: SequenceModel) -> Loss:
    """Mean cross-entropy in nats per sentence, over the sentences that weigh something; one function for equal models.

    See `seqjax.training.step`; there is no carry.
    """

    def loss(params: Tree, batch: Batch, carry: None, key: jax.Array) -> tuple[jax.Array, None]:
        logits_BxC = model.apply({"params": params}, batch.tokens_BxT, batch.mask_BxT, True, rngs={"dropout": key})
        return (_losses(logits_BxC, batch.labels_B) * batch.weights_B).sum() / batch.weights_B.sum(), carry

    return loss


def _losses(logits_BxC: jax.Array, labels_B: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_BxC), labels_B[:, None], axis=1)[:, 0]


def score(model: SequenceModel, params: Tree, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean loss in nats per sentence, and the share of sentences whose most probable class is the right one."""
    sums_Kx3 = np.array(jax.device_get([_sums(model, params, batch) for batch in batches]), np.float64)
    loss, right, count = sums_Kx3.sum(axis=0)
    return float(loss / count), float(right / count)


@partial(jax.jit, static_argnames="model")
def _sums(model: SequenceModel, params: Tree, batch: Batch) -> jax.Array:
    logits_BxC = model.apply({"params": params}, batch.tokens_BxT, batch.mask_BxT)
    right_B = jnp.argmax(logits_BxC, axis=-1) == batch.labels_B
    weights_B = batch.weights_B
    return jnp.stack([_losses(logits_BxC, batch.labels_B) @ weights_B, right_B @ weights_B, weights_B.sum()])


def _batch(buckets: Buckets, seed: int, batch_size: int, step: int) -> Batch:
    return batch_at(buckets, seed, step, batch_size)
