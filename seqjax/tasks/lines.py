"""Lines of an author: one element in, many out. Judges tell the author of a line from counts of words.

    p(line | author) = prod_t p(x_t | author, x_1 .. x_{t-1})        loss: nats per word

The author is the first token of the sequence. Any language model of `seqjax.models` can be used. The settings shared by
all runs are in configs/tasks/lines.yaml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from pydantic import ConfigDict, Field, PositiveInt

from seqjax.config import STRICT, ModelConfig, TaskConfig
from seqjax.data.bigrams import bigram, pairs_of, unigram
from seqjax.data.lines import AUTHORS, Lines, Vocabulary, load_words, make_vocabulary, set_in_lines
from seqjax.errors import UserError
from seqjax.families import LSTM
from seqjax.models import build_model
from seqjax.models.accounting import count_parameters
from seqjax.models.generation import generate
from seqjax.tasks.task import NOWHERE, Objective, Task, Where, digest, found
from seqjax.tasks.text import next_token_loss, token_losses

Tree = Any
Judge = Callable[[np.ndarray], np.ndarray]
"""lines [B, width] without their author -> log-likelihood of each author in nats, [B, authors]."""


@dataclass(frozen=True)
class LinesTask:
    """The lines."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["lines"] = "lines"
    """The task."""
    width: Annotated[int, Field(ge=2)] = 12
    """Words and punctuation marks in a line."""
    words: PositiveInt = 3000
    """Size of the vocabulary, in words."""
    held_out: PositiveInt = 400
    """Lines of each author in an evaluation, evenly spread over the split."""


@dataclass(frozen=True)
class Config(TaskConfig):
    """The config of one run."""

    model: ModelConfig = field(default_factory=lambda: LSTM(d_model=64, n_layers=1))
    task: LinesTask = field(default_factory=LinesTask)


class Data(NamedTuple):
    """The vocabulary, and the lines of each author."""

    vocabulary: Vocabulary
    train: Lines
    validation: Lines


def check(config: Config) -> None:
    """Nothing beyond the checks of every task."""


def load(config: Config, where: Where = NOWHERE) -> Data:
    """The lines of the embedded corpus.

    Raises:
        UserError: an author has no line.
    """
    words, width = load_words("train"), config.task.width
    vocabulary = make_vocabulary(words, config.task.words)
    train, validation = (set_in_lines(load_words(split), vocabulary, width) for split in ("train", "validation"))
    if empty := [author for author in AUTHORS if not min(len(train[author]), len(validation[author]))]:
        known = len(vocabulary.words)
        raise UserError(f"task.words: {empty[0]} has no line of {width} words that are all among the {known} known")
    return Data(vocabulary, train, validation)


def make_model(config: Config, vocabulary: Vocabulary) -> nn.Module:
    """The language model of words and authors."""
    return build_model(config.model, vocabulary.size, config.task.width, config.train.compute_dtype)


def make_task(config: Config, data: Data) -> Task:
    """Training on lines, with all authors equally likely. The held-out loss, nats per word, is a mean over authors.

    The result has "held_out": for each author the loss with the "right" first token, and the mean loss with the "wrong"
    ones, in nats per word, on the validation split. The difference shows how much the model uses the author.
    """
    vocabulary, train, validation = data
    model, batch_size, width = make_model(config, vocabulary), config.train.batch_size, config.task.width
    rows = [train[author] for author in AUTHORS]
    objective = Objective(
        init=lambda key: model.init(key, jnp.zeros((1, width), jnp.int32))["params"],
        loss=next_token_loss(model),
        score=lambda params, tokens_BxT1, carry: (token_losses(model, params, tokens_BxT1)[0].mean(), None),
        elements=batch_size * width,
    )

    def held_out(final: bool) -> list[np.ndarray]:
        return [
            given(evenly(validation[author], config.task.held_out), vocabulary.author(author)) for author in AUTHORS
        ]

    return Task(
        objective=objective,
        batch=partial(_batch, rows, config.train.seed, batch_size),
        held_out=held_out,
        summary=lambda scores, final: found(float(np.mean(scores))),
        final=lambda params: {"held_out": losses_of(model, params, vocabulary, validation, config.task.held_out)},
        evaluate_every=config.train.evaluate_every,
        parameters=count_parameters(config.model, vocabulary.size, width),
        unit="lines",
        per_step=batch_size,
        available=sum(map(len, rows)),
        digests={"data_sha256": digest(rows, [validation[author] for author in AUTHORS])},
    )


def given(tokens_BxT1: np.ndarray, author: int) -> np.ndarray:
    """The same lines with another first token."""
    tokens_BxT1 = tokens_BxT1.copy()
    tokens_BxT1[:, 0] = author
    return tokens_BxT1


def _batch(rows: list[np.ndarray], seed: int, batch_size: int, step: int) -> np.ndarray:
    """An author at random for each row, then one of the author's lines; pure in (seed, step)."""
    rng = np.random.default_rng((seed, step))
    return np.stack(
        [own[rng.integers(len(own))] for own in (rows[a] for a in rng.integers(len(rows), size=batch_size))]
    )


def losses_of(model: nn.Module, params: Tree, vocabulary: Vocabulary, lines: Lines, count: int) -> dict[str, Any]:
    """Mean loss of each author's lines after each author's token: {author: {"right", "wrong"}}, nats per word."""
    found = {}
    for author in AUTHORS:
        rows = evenly(lines[author], count)
        losses = {name: float(_mean_loss(model, params, given(rows, vocabulary.author(name)))) for name in AUTHORS}
        wrong = [loss for name, loss in losses.items() if name != author]
        found[author] = {"right": losses[author], "wrong": float(np.mean(wrong))}
    return found


@partial(jax.jit, static_argnames="model")
def _mean_loss(model: nn.Module, params: Tree, tokens_BxT1: jax.Array) -> jax.Array:
    return token_losses(model, params, tokens_BxT1)[0].mean()


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows, evenly spread; all rows if there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def write_lines(
    model: nn.Module, params: Tree, first: int, count: int, width: int, temperature: float, seed: int
) -> np.ndarray:
    """``count`` lines after the token of an author: int32 [count, width]."""
    prompt_Bx1 = np.full((count, 1), first, np.int32)
    return generate(model, params, prompt_Bx1, width, seed=seed, temperature=temperature)


def make_judges(train: Lines, vocabulary: Vocabulary) -> dict[str, Judge]:
    """Judges by "unigrams", sum_t log p(x_t | author), and "bigrams", sum_t log p(x_t | x_{t-1}, author).

    The probabilities are those of `seqjax.data.bigrams`, counted in the author's training lines. All authors have the
    same prior. The judges use nothing from the models.
    """
    size = vocabulary.size
    log_p_AxV = np.log([unigram(train[author][:, 1:], size) for author in AUTHORS])
    log_p_AxVxV = np.log([bigram(pairs_of(_anonymous(train[author][:, 1:], size)), size) for author in AUTHORS])

    def by_bigrams(lines_BxT: np.ndarray) -> np.ndarray:
        rows = _anonymous(lines_BxT, size)
        return log_p_AxVxV[:, rows[:, :-1], rows[:, 1:]].sum(axis=-1).T

    return {"unigrams": lambda lines_BxT: log_p_AxV[:, lines_BxT].sum(axis=-1).T, "bigrams": by_bigrams}


def _anonymous(lines_BxT: np.ndarray, size: int) -> np.ndarray:
    """The lines after a common first token that occurs in no line."""
    return np.concatenate([np.full((len(lines_BxT), 1), size - 1, lines_BxT.dtype), lines_BxT], axis=1)


def share_right(judge: Judge, lines_BxT: np.ndarray, author: str) -> float:
    """The share of the lines that a judge assigns to the author. A tie counts as wrong."""
    found_BxA = judge(lines_BxT)
    others = np.delete(found_BxA, AUTHORS.index(author), axis=1).max(axis=1)
    return float((found_BxA[:, AUTHORS.index(author)] > others).mean())
