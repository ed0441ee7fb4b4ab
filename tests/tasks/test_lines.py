"""Lines from their author: an author that is learned, losses by hand, and the judges."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import numpy as np
import pytest

import seqjax
from seqjax.config import OptimizerConfig, TaskTrain
from seqjax.data.lines import AUTHORS, Vocabulary
from seqjax.families import LSTM
from seqjax.tasks.lines import (
    Config,
    Data,
    LinesTask,
    losses_of,
    make_judges,
    make_model,
    make_task,
    share_right,
    write_lines,
)
from seqjax.training.loop import train

VOCABULARY = Vocabulary(("to", "be", "or", "not", "of", "man", "and", "it", "came"))
OWN = {
    "shakespeare": np.array([[9, 0, 1, 2], [9, 2, 3, 0], [9, 3, 0, 1]], np.int32),
    "milton": np.array([[10, 4, 5, 6], [10, 5, 4, 5]], np.int32),
    "kjv": np.array([[11, 6, 7, 8], [11, 7, 8, 6], [11, 6, 8, 0]], np.int32),
}
CONFIG = Config(
    LSTM(d_model=16, n_layers=1), OptimizerConfig(learning_rate=1e-2),
    TaskTrain(steps=150, batch_size=16, evaluate_every=150, log_every=50), LinesTask(width=3, words=9, held_out=3),
)  # fmt: skip
DATA = Data(VOCABULARY, OWN, OWN)


def test_a_trained_model_writes_lines_of_the_author_it_is_given(tmp_path: Path) -> None:
    task = make_task(CONFIG, DATA)
    result = train(CONFIG, tmp_path / "run", task=task, quiet=True)
    params = seqjax.open(tmp_path / "run", checkpoint="best", data=DATA).params
    model, judges = make_model(CONFIG, VOCABULARY), make_judges(OWN, VOCABULARY)
    for author in AUTHORS:
        lines = write_lines(model, params, VOCABULARY.author(author), 20, 3, temperature=0.5, seed=0)
        assert lines.shape == (20, 3)
        known = {tuple(line) for line in OWN[author][:, 1:]}
        assert sum(tuple(line) in known for line in lines.tolist()) >= 15
        assert share_right(judges["bigrams"], lines, author) >= 0.9
        held_out = result["held_out"][author]
        assert held_out["wrong"] > held_out["right"] + 0.3  # the author matters

    found, apply = losses_of(model, params, VOCABULARY, OWN, 3), jax.jit(model.apply)
    for author, given in (("milton", "milton"), ("milton", "kjv"), ("milton", "shakespeare")):
        rows = OWN[author].copy()
        rows[:, 0] = VOCABULARY.author(given)
        logits = np.asarray(apply({"params": params}, rows[:, :-1])[0], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        loss = -np.mean([log_p[b, t, rows[b, t + 1]] for b in range(2) for t in range(3)])
        if given == author:
            assert found[author]["right"] == pytest.approx(loss, rel=1e-5)
        found[author]["wrong"] -= 0 if given == author else loss / 2
    assert found["milton"]["wrong"] == pytest.approx(0, abs=1e-5)


def test_batches_are_a_function_of_seed_and_step_and_take_every_author() -> None:
    task = make_task(CONFIG, DATA)
    np.testing.assert_array_equal(task.batch(5), task.batch(5))
    assert (task.batch(5) != task.batch(6)).any()
    authors = np.concatenate([task.batch(step)[:, 0] for step in range(200)])
    np.testing.assert_allclose(np.bincount(authors)[-3:] / authors.size, 1 / 3, atol=0.03)


def test_judges_are_their_formulas() -> None:
    judges, size = make_judges(OWN, VOCABULARY), VOCABULARY.size
    line = np.array([[0, 1, 5]])
    counts = [1 + 3, 1 + 2, 1 + 0]  # of shakespeare's nine words three are "to", two "be", none "man"
    assert judges["unigrams"](line)[0, 0] == pytest.approx(sum(math.log(c / (9 + size)) for c in counts))
    p = {0: 4 / (9 + size), 1: 3 / (9 + size), 5: 1 / (9 + size)}
    want = math.log((1 + 3 * p[0]) / (3 + 3))  # three lines begin, with three different words
    want += math.log((2 + 1 * p[1]) / (2 + 1))  # "to" is followed twice, always by "be"
    want += math.log((0 + 1 * p[5]) / (1 + 1))  # "be" is followed once, by "or"
    assert judges["bigrams"](line)[0, 0] == pytest.approx(want)


def test_judges_tell_authors_apart_and_a_tie_is_a_mistake() -> None:
    for judge in make_judges(OWN, VOCABULARY).values():
        for author, rows in OWN.items():
            assert share_right(judge, rows[:, 1:], author) == 1.0
    assert share_right(lambda lines: np.zeros((len(lines), 3)), OWN["kjv"][:, 1:], "kjv") == 0.0
