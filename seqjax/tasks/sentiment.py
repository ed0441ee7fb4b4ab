"""Sentiment: one class of a sentence from any backbone with any head.

    logits = Classifier(pool(Backbone(E[words])))        loss = - mean log softmax(logits)[label], nats per sentence

What the runs of the experiment share is in configs/tasks/sentiment.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ConfigDict, Field, PositiveInt

from seqjax.config import STRICT, WITHOUT_SEED, ModelConfig, OptimizerConfig, TaskTrain
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
from seqjax.host.folders import cache_folder, data_folder
from seqjax.layers.heads import Classifier, SequenceModel, TokenEmbedding
from seqjax.models.backbone import Backbone
from seqjax.tasks.task import NOWHERE, Found, Objective, Task, Where, count_parameters, digest, found

Tree = Any


@dataclass(frozen=True)
class SentimentTask:
    """Which sentences, and what is done with the hidden states."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["sentiment"] = "sentiment"
    """The task."""
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
    score_test: bool = True
    """Whether the test set is looked at in the end; a search of hyper-parameters goes without."""
    causal: bool = True
    """false: bidirectional recurrence, or attention to both sides."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of one run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    lane_keys: ClassVar = WITHOUT_SEED  # the lengths of a step's sentences depend on it
    model: ModelConfig = field(default_factory=lambda: GRU(d_model=64, n_layers=1, dropout=0.5))
    """Its dropout is also that of the head."""
    task: SentimentTask = field(default_factory=SentimentTask)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TaskTrain = field(default_factory=TaskTrain)


def check(config: Config) -> None:
    """Nothing more than what holds for every task."""


def load(config: Config, where: Where = NOWHERE) -> Splits:
    """The sentences, from the folders of data and cache; errors as `seqjax.data.sentiment.load_splits`."""
    task = config.task
    return load_splits(where.corpus or task.corpus, task.classes, data_folder(), cache_folder())


def make_model(config: Config, vocab_size: int, longest: int) -> SequenceModel:
    """Words in, logits_BxC out."""
    n_classes, dtype = len(config.task.classes), config.train.compute_dtype
    return SequenceModel(
        TokenEmbedding(vocab_size, config.model.d_model),
        Backbone(config.model, longest, config.task.causal, dtype),
        Classifier(n_classes, config.task.pool, config.model.dropout),
    )


def make_task(config: Config, splits: Splits) -> Task:
    """Held-out loss in nats per sentence and "accuracy", on the validation split.

    In the end "test" {"loss", "accuracy", "sentences"}, of the parameters that were best on the validation split,
    unless `task.score_test` is off.
    """
    vocabulary, (train, validation, test) = prepare(config.task, splits)
    model, batch_size = make_model(config, vocabulary.size, train.bounds[-1]), config.train.batch_size
    objective = make_objective(model, train.bounds[-1], batch_size)

    def summary(scores: Sequence[np.ndarray], final: bool) -> Found:
        loss, accuracy = _means(scores)
        return found(loss, accuracy=accuracy)

    def final(params: Tree) -> dict[str, Any]:
        if not config.task.score_test:
            return {}
        loss, accuracy = score(model, params, in_order(test, batch_size))
        repeats = {"repeats": splits.repeats} if any(splits.repeats.values()) else {}
        return {"test": {"loss": loss, "accuracy": accuracy, "sentences": len(test.labels)}, **repeats}

    return Task(
        objective=objective,
        batch=partial(_batch, train, config.train.seed, batch_size),
        held_out=lambda final: in_order(validation, batch_size),
        summary=summary,
        final=final,
        evaluate_every=config.train.evaluate_every,
        parameters=count_parameters(objective),
        unit="sentences",
        per_step=batch_size,
        available=len(train.labels),
        digests={"data_sha256": digest(*[(split.words, split.labels) for split in splits])},
    )


def prepare(task: SentimentTask, splits: Splits) -> tuple[Vocabulary, tuple[Buckets, Buckets, Buckets]]:
    """Vocabulary of the training sentences, and each split in buckets of the same bounds."""
    vocabulary = make_vocabulary(splits.train.words, task.least_count)
    lengths = [min(len(words), task.longest) for split in splits for words in split.words]
    bounds = length_bounds(lengths, task.n_buckets)
    bounds = (*(b for b in bounds[:-1] if b < task.longest), min(bounds[-1], task.longest))
    train, validation, test = (into_buckets(split, vocabulary, bounds) for split in splits)
    return vocabulary, (train, validation, test)


def make_objective(model: SequenceModel, longest: int, batch_size: int) -> Objective:
    """Mean cross-entropy in nats per sentence, over the sentences that weigh something.

    The weights have a mean of 1 over a batch, so that the mean over its rows is the mean over its sentences.
    """

    def init(key: jax.Array) -> Tree:
        tokens_BxT = jnp.zeros((1, longest), jnp.int32)
        return model.init(key, tokens_BxT, jnp.ones_like(tokens_BxT, bool))["params"]

    def loss(params: Tree, batch: Batch, carry: None, key: jax.Array) -> tuple[jax.Array, None]:
        logits_BxC = model.apply({"params": params}, batch.tokens_BxT, batch.mask_BxT, True, rngs={"dropout": key})
        return (_losses(logits_BxC, batch.labels_B) * batch.weights_B).mean(), None

    return Objective(init, loss, lambda params, batch, carry: (_sums(model, params, batch), None),
                     elements=batch_size * longest)  # fmt: skip


def _losses(logits_BxC: jax.Array, labels_B: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_BxC), labels_B[:, None], axis=1)[:, 0]


def score(model: SequenceModel, params: Tree, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean loss in nats per sentence, and the share of sentences whose most probable class is the right one."""
    return _means(jax.device_get([_sums(model, params, batch) for batch in batches]))


def _means(sums: Sequence[np.ndarray]) -> tuple[float, float]:
    loss, right, count = np.array(sums, np.float64).sum(axis=0)
    return float(loss / count), float(right / count)


@partial(jax.jit, static_argnames="model")
def _sums(model: SequenceModel, params: Tree, batch: Batch) -> jax.Array:
    logits_BxC = model.apply({"params": params}, batch.tokens_BxT, batch.mask_BxT)
    right_B = jnp.argmax(logits_BxC, axis=-1) == batch.labels_B
    weights_B = batch.weights_B
    return jnp.stack([_losses(logits_BxC, batch.labels_B) @ weights_B, right_B @ weights_B, weights_B.sum()])


def _batch(buckets: Buckets, seed: int, batch_size: int, step: int) -> Batch:
    batch = batch_at(buckets, seed, step, batch_size)
    return batch._replace(weights_B=batch.weights_B / batch.weights_B.mean())
