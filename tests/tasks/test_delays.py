"""The task of delayed copies: what the loss is, what truncation takes away, and mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from held_out import evaluate

from seqjax.config import OptimizerConfig, TaskTrain
from seqjax.errors import UserError
from seqjax.families import LSTM, Transformer
from seqjax.runs.config_file import load_config
from seqjax.tasks.delays import Config, DelayTask, make_model, make_task
from seqjax.training.loop import train

REPOSITORY = Path(__file__).parent.parent.parent
LSTM = LSTM(d_model=12, n_layers=1)
SMALL = Config(task=DelayTask(distance=3, symbols=4, noise=2, held_out=128), model=LSTM)


def test_the_loss_is_that_of_the_last_token() -> None:
    task = make_task(SMALL)
    params, batch = jax.jit(task.objective.init)(jax.random.key(0)), task.batch(5)
    logits_BxV = np.asarray(jax.jit(make_model(SMALL).apply)({"params": params}, batch["tokens"]), np.float64)[:, -1]
    want = np.log(np.exp(logits_BxV).sum(axis=1)) - logits_BxV[np.arange(32), batch["answers"]]
    loss, _ = jax.jit(task.objective.loss)(params, batch, None, jax.random.key(1))
    assert float(loss) == pytest.approx(want.mean(), rel=1e-5)
    silent = jax.tree.map(np.zeros_like, params)
    assert evaluate(task, silent).loss == pytest.approx(np.log(4), rel=1e-6)
    assert evaluate(task, params) == evaluate(task, params)
    assert evaluate(task, params).record != task.final(params)["test"]


@pytest.mark.parametrize("bptt, reached", [(None, True), (4, True), (3, False), (1, False)])
def test_a_shorter_piece_has_no_gradient_for_what_is_remembered(bptt: int | None, reached: bool) -> None:
    """Four tokens: only a piece of four steps has the symbol and the question in it."""
    task = make_task(replace(SMALL, task=replace(SMALL.task, bptt=bptt)))
    params = jax.jit(task.objective.init)(jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p: task.objective.loss(p, task.batch(0), None, jax.random.key(1))[0]))(params)
    assert np.any(gradient["embedding"]["embedding"][:4]) == reached  # the symbols come first
    assert np.any(gradient["embedding"]["embedding"][-1])  # the question


def test_a_short_delay_is_learned(tmp_path: Path) -> None:
    config = replace(SMALL, optimizer=OptimizerConfig(learning_rate=0.02), train=TaskTrain(steps=120))
    found = train(config, tmp_path / "run", quiet=True)
    assert found["test"]["accuracy"] > 0.9


def test_mistakes_are_told(tmp_path: Path) -> None:
    def refused(config: Config) -> None:
        train(config, tmp_path / "run", quiet=True)

    with pytest.raises(UserError, match=r"task.bptt: the family 'transformer' has no recurrence"):
        refused(replace(SMALL, task=replace(SMALL.task, bptt=2), model=Transformer(d_model=8, n_heads=2)))
    with pytest.raises(UserError, match=r"task.bptt: 5 steps are more than task.distance \+ 1; at most 4"):
        refused(replace(SMALL, task=replace(SMALL.task, bptt=5)))


def test_the_shipped_config_is_one() -> None:
    config = load_config(REPOSITORY / "configs" / "tasks" / "delays.yaml")
    assert config.task.symbols == config.task.noise == 8 and make_task(config)
