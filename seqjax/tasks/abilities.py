"""What a model can do: recall, copying, induction, parity, S5 (:mod:`seqjax.data.abilities`).

    loss = - mean over the answers of log softmax(logits_t)[answer_t]

Every training batch is new. The held-out sequences are fixed draws, the same for all seeds. Some are as long as in
training, others, a quarter of their number, four times as long.

Runs of all kinds are lanes of one program: they have one vocabulary, and each run is scored on the sequences of every
kind. Its numbers are of its own kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import ConfigDict, Field, PositiveInt

from seqjax.config import LANE_KEYS, STRICT, TaskConfig
from seqjax.data.abilities import CHOICES, KEYS, KINDS, NOTHING, VOCABULARY, Kind, Sequences, draw
from seqjax.families.family import Impossible
from seqjax.layers.heads import SequenceModel, TokenEmbedding, TokenHead
from seqjax.models.backbone import Backbone
from seqjax.tasks.task import NOWHERE, Found, Objective, Task, Tree, Where, count_parameters, found

TRAINING, SAME, LONGER = range(3)  # streams of random numbers
LENGTHENED = 4  # length of the longer sequences over the training length
STEPS_AT_ONCE = 64  # batches drawn in one go


@dataclass(frozen=True)
class AbilityTask:
    """The sequences."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["abilities"] = "abilities"
    """The task."""
    kind: Kind = "recall"
    """recall (MQAR), copying (selective), induction, parity, or s5 (the order of five things after each move)."""
    length: Annotated[int, Field(ge=4)] = 48
    """T, tokens in a training sequence."""
    pairs: Annotated[int, Field(ge=1, le=KEYS)] = 16
    """P, keys with values to remember (recall)."""
    items: PositiveInt = 8
    """Items to copy (copying)."""
    symbols: Annotated[int, Field(ge=2, le=2 * KEYS)] = 16
    """Different symbols (copying, induction)."""
    held_out: Annotated[int, Field(ge=4)] = 256
    """Held-out sequences of each kind as long as in training; a quarter as many are four times as long."""


@dataclass(frozen=True)
class Config(TaskConfig):
    """A run."""

    lane_keys: ClassVar = (*LANE_KEYS, "task.kind")
    memory: ClassVar = 1.5e8  # bytes, see `seqjax.sweeps.programs.memory_of`
    task: AbilityTask = field(default_factory=AbilityTask)


def check(config: Config) -> None:
    """Raise `Impossible` for sequences that are too short for their contents. Every run is scored on all kinds."""
    task = config.task
    for key, number, share in (("pairs", task.pairs, 3), ("items", task.items, 2)):
        if number > task.length // share:
            most = task.length // share
            raise Impossible(f"task.{key}", f"{number} do not fit into task.length {task.length}; at most {most}")


def load(config: Config, where: Where = NOWHERE) -> None:
    """Nothing to read: every batch is generated."""


def make_model(config: Config) -> SequenceModel:
    """Embedding, the family's layers, and logits of the answer after every token."""
    longest, model = LENGTHENED * config.task.length, config.model
    return SequenceModel(
        TokenEmbedding(VOCABULARY, model.d_model),
        Backbone(model, longest, compute_dtype=config.train.compute_dtype),
        TokenHead(VOCABULARY),
    )


def make_task(config: Config, data: None = None) -> Task:
    """Held-out loss in nats an answer, as long as in training.

    "accuracy" is the share of right answers, "exact" the share of sequences with all answers right. The result has
    the same of the longer sequences: "longer_loss", "longer_accuracy", "longer_exact". And "chance", the accuracy of
    guessing.
    """
    task, train = config.task, config.train
    objective = make_objective(config)
    own = KINDS.index(task.kind)

    def summary(scores: Sequence[Tree], final: bool) -> Found:
        nats, accuracy, exact = map(float, scores[own])
        further = {}
        if final:
            nats_, accuracy_, exact_ = map(float, scores[len(KINDS) + own])
            further = {"longer_loss": nats_, "longer_accuracy": accuracy_, "longer_exact": exact_}
            further["chance"] = 1 / CHOICES.get(task.kind, task.symbols)
        return found(nats, accuracy=accuracy, exact=exact, **further)

    return Task(
        objective=objective,
        batch=batches(config),
        held_out=lambda final: held_out(task, final),
        summary=summary,
        evaluate_every=train.evaluate_every,
        parameters=count_parameters(objective),
        unit="sequences",
        per_step=train.batch_size,
        keeps="last",
        more_at_end=True,
    )


def drawn(task: AbilityTask, kind: Kind, key: tuple[int, ...], count: int, length: int) -> Sequences:
    """Sequences of a kind for a key of random numbers."""
    rng = np.random.default_rng((KINDS.index(kind), *key))
    return draw(kind, rng, count, length, task.pairs, task.items, task.symbols)


def batches(config: Config) -> Callable[[int], dict[str, np.ndarray]]:
    """step -> batch, pure in (seed, step). `STEPS_AT_ONCE` batches are drawn together: that is much faster."""
    task, batch_size, seed = config.task, config.train.batch_size, config.train.seed

    @lru_cache(maxsize=1)
    def some(turn: int) -> Sequences:
        return drawn(task, task.kind, (TRAINING, seed, turn), STEPS_AT_ONCE * batch_size, task.length)

    def batch(step: int) -> dict[str, np.ndarray]:
        turn, place = divmod(step, STEPS_AT_ONCE)
        rows = slice(place * batch_size, (place + 1) * batch_size)
        return {name: array[rows] for name, array in some(turn)._asdict().items()}

    return batch


@lru_cache(maxsize=4)
def held_out(task: AbilityTask, longer: bool) -> list[dict[str, np.ndarray]]:
    """A batch of each kind in the order of `KINDS`; then, if asked, of the longer sequences."""
    sizes = [(SAME, task.held_out, task.length)]
    if longer:
        sizes.append((LONGER, task.held_out // 4, LENGTHENED * task.length))
    return [drawn(task, kind, (stream,), count, length)._asdict() for stream, count, length in sizes for kind in KINDS]


def make_objective(config: Config) -> Objective:
    """Cross-entropy of the answers. Held-out sequences are scored by it, the share of right answers, and the share of
    sequences with all answers right."""
    model, task = make_model(config), config.task

    def loss(params: Tree, batch: Tree, carry: None, key: jax.Array) -> tuple[jax.Array, None]:
        logits_BxTxV = model.apply({"params": params}, batch["tokens"], train=True, rngs={"dropout": key})
        return _of_answers(_losses(logits_BxTxV, batch["targets"]), batch["targets"]), None

    def score(params: Tree, batch: Tree, carry: None) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        targets_BxT = batch["targets"]
        logits_BxTxV = model.apply({"params": params}, batch["tokens"])
        right_BxT = logits_BxTxV.argmax(axis=-1) == targets_BxT
        exact = (right_BxT | (targets_BxT == NOTHING)).all(axis=1).mean()
        nats = _of_answers(_losses(logits_BxTxV, targets_BxT), targets_BxT)
        return (nats, _of_answers(right_BxT, targets_BxT), exact), None

    return Objective(
        init=lambda key: model.init(key, np.zeros((1, task.length), np.int32))["params"],
        loss=loss,
        score=score,
        elements=config.train.batch_size * task.length,
    )


def _losses(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """- log softmax(logits)[target], nats; of no meaning where nothing is asked."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, jnp.maximum(targets_BxT, 0))


def _of_answers(values_BxT: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Mean over the answers. Sequences of a kind have equally many, so micro-batches have the mean of their batch."""
    asked_BxT = targets_BxT != NOTHING
    return jnp.where(asked_BxT, values_BxT, 0.0).sum() / asked_BxT.sum()
