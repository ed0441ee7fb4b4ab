"""Sentiment: the class of a sentence, from any family with any pooling.

    logits = Classifier(pool(Backbone(E[words])))        loss = - mean log softmax(logits)[label], nats per sentence

The settings shared by the runs of the experiment are in configs/tasks/sentiment.yaml.
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

from seqjax.config import STRICT, WITHOUT_SEED, ModelConfig, TaskConfig
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
    sentences_at,
)
from seqjax.families import GRU
from seqjax.host.folders import cache_folder, data_folder
from seqjax.layers.heads import Classifier, SequenceModel, TokenEmbedding
from seqjax.models.backbone import Backbone
from seqjax.tasks.task import NOWHERE, Found, Objective, Task, Where, count_parameters, digest, found

Tree = Any


@dataclass(frozen=True)
class SentimentTask:
    """The sentences, and how hidden states become a class."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["sentiment"] = "sentiment"
    """The task."""
    corpus: str = "phrases"
    """sst2; phrases (generated); or a file, or a folder or archive of files, with one example a line: label, space or
    tab, text."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] = ("0", "1")
    """Labels of the file; sst2 and phrases have 0 (negative) and 1 (positive)."""
    least_count: PositiveInt = 2
    """The vocabulary has the words seen at least this often in training. All others share one token."""
    longest: PositiveInt = 64
    """Longest sentence, in words; the rest of a longer one is cut off."""
    n_buckets: PositiveInt = 3
    """Number of lengths to which sentences are padded. The step is compiled once for each."""
    pool: Literal["last", "mean", "attention"] = "mean"
    """Pooling: the last state, the mean of all states, or a mean with learned weights (attention)."""
    score_test: bool = True
    """Evaluate the test set at the end; false for a search of hyper-parameters."""
    causal: bool = True
    """false: bidirectional recurrence, or attention to both sides."""


@dataclass(frozen=True)
class Config(TaskConfig):
    """The config of one run."""

    lane_keys: ClassVar = WITHOUT_SEED  # the lengths of a step's sentences depend on it
    model: ModelConfig = field(default_factory=lambda: GRU(d_model=64, n_layers=1, dropout=0.5))
    """Its dropout rate also applies in the head."""
    task: SentimentTask = field(default_factory=SentimentTask)


def check(config: Config) -> None:
    """Nothing beyond the checks of every task."""


def load(config: Config, where: Where = NOWHERE) -> Splits:
    """The sentences, from the data and cache folders. Raises as `seqjax.data.sentiment.load_splits`."""
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

    At the end "test" {"loss", "accuracy", "sentences"}, with the parameters that were best on the validation split. It
    is absent if `task.score_test` is false.
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
        batch_rows=partial(_batch, train, config.train.seed, batch_size),
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
    """Mean cross-entropy in nats per sentence, over the sentences with a weight above 0.

    The weights of a batch have the mean 1. So the mean over its rows is the mean over its sentences.
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
    """Mean loss in nats per sentence, and the accuracy of the most probable class."""
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


def _batch(buckets: Buckets, seed: int, batch_size: int, step: int, rows: slice = slice(None)) -> Batch:
    """The batch of a step, or some of its rows. Its weights have the same mean as the whole batch's."""
    batch = batch_at(buckets, seed, step, batch_size, rows)
    mean = np.float32(sentences_at(buckets, seed, step, batch_size)) / np.float32(batch_size)
    return batch._replace(weights_B=batch.weights_B / mean)
