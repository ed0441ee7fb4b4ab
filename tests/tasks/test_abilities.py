"""The tasks that ask what a model can do: their answers, what is asked, and runs of all kinds in one program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from seqjax.config import TaskTrain, program_key
from seqjax.data import abilities
from seqjax.data.abilities import BLANK, KEYS, KINDS, MARK, NOTHING, VOCABULARY, draw
from seqjax.errors import UserError
from seqjax.families import Window
from seqjax.runs.config_file import load_config
from seqjax.tasks.abilities import AbilityTask, Config, batches, held_out, make_task
from seqjax.training.loop import train, train_bundle

REPOSITORY = Path(__file__).parent.parent.parent
SMALL = Config(
    task=AbilityTask(length=9, pairs=3, items=3, symbols=4, held_out=16),
    model=Window(d_model=8, window=2, d_ff=8),
    train=TaskTrain(steps=2, batch_size=4, evaluate_every=2),
)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_a_slow_reader(kind: str) -> None:
    tokens_BxT, targets_BxT = draw(kind, np.random.default_rng(3), 40, 13, pairs=4, items=5, symbols=6)
    assert tokens_BxT.dtype == targets_BxT.dtype == np.int32 and tokens_BxT.shape == targets_BxT.shape == (40, 13)
    assert 0 <= tokens_BxT.min() and tokens_BxT.max() < VOCABULARY
    for tokens, targets in zip(tokens_BxT.tolist(), targets_BxT.tolist(), strict=True):
        assert targets == READERS[kind](tokens)


def read_recall(tokens: list[int]) -> list[int]:
    pairs = dict(zip(tokens[:8:2], tokens[1:8:2], strict=True))
    assert len(pairs) == 4 and sorted(token for token in tokens[8:] if token != BLANK) == sorted(pairs)
    assert max(pairs) < KEYS <= min(pairs.values())
    return [NOTHING] * 8 + [pairs.get(token, NOTHING) for token in tokens[8:]]


def read_copying(tokens: list[int]) -> list[int]:
    assert tokens[8:] == [MARK] * 5
    return [NOTHING] * 8 + [token for token in tokens[:8] if token != BLANK]


def read_induction(tokens: list[int]) -> list[int]:
    place = tokens.index(MARK)
    assert tokens.count(MARK) == 2 and tokens[-1] == MARK and place < 11
    return [NOTHING] * 12 + [tokens[place + 1]]


def read_parity(tokens: list[int]) -> list[int]:
    return [sum(tokens[: t + 1]) % 2 for t in range(len(tokens))]


def read_s5(tokens: list[int]) -> list[int]:
    orders, order, found = list(abilities.itertools.permutations(range(5))), (0, 1, 2, 3, 4), []
    for token in tokens:
        order = ((order[1], order[0], *order[2:]), (*order[1:], order[0]))[token]
        found.append(orders.index(order))
    return found


READERS = {"recall": read_recall, "copying": read_copying, "induction": read_induction, "parity": read_parity,
           "s5": read_s5}  # fmt: skip


def test_a_batch_depends_on_the_seed_the_step_and_the_kind_alone() -> None:
    batch = batches(SMALL)
    first, later = batch(0), batch(70)
    assert first["tokens"].shape == (4, 9) and not np.array_equal(first["tokens"], later["tokens"])
    again = batches(SMALL)
    np.testing.assert_array_equal(again(70)["tokens"], later["tokens"])
    np.testing.assert_array_equal(again(0)["targets"], first["targets"])
    other = batches(replace(SMALL, train=replace(SMALL.train, seed=1)))
    assert not np.array_equal(other(0)["tokens"], first["tokens"])
    same, longer = held_out(SMALL.task, True)[:5], held_out(SMALL.task, True)[5:]
    assert [batch["tokens"].shape for batch in (same[0], longer[0])] == [(16, 9), (4, 36)]
    assert not np.array_equal(same[0]["tokens"][:4], first["tokens"])


def test_the_loss_and_the_scores_are_those_of_the_answers() -> None:
    task = make_task(SMALL)
    params, batch = jax.jit(task.objective.init)(jax.random.key(0)), task.batch(0)
    silent = jax.tree.map(np.zeros_like, params)
    silent["head"]["out"]["b"] = np.zeros(VOCABULARY)
    silent["head"]["out"]["b"][batch["targets"].max()] = 2.0  # one answer is given everywhere
    given = (batch["targets"] == batch["targets"].max()).sum() / 12  # 4 sequences with 3 answers
    want = np.log(np.exp(2.0) + VOCABULARY - 1) - 2.0 * given
    score = jax.jit(task.objective.score)
    loss, _ = jax.jit(task.objective.loss)(silent, batch, None, jax.random.key(1))
    assert float(loss) == pytest.approx(want, rel=1e-5)
    (nats, accuracy, exact), _ = score(silent, batch, None)
    assert float(nats) == pytest.approx(want, rel=1e-5)
    assert (float(accuracy), float(exact)) == pytest.approx((given, 0.0))
    right = batch | {"targets": np.where(batch["targets"] == NOTHING, NOTHING, batch["targets"].max())}
    assert [float(value) for value in score(silent, right, None)[0][1:]] == [1.0, 1.0]


def test_runs_of_all_kinds_train_in_one_program_as_alone(tmp_path: Path) -> None:
    """Each lane has the data, the numbers and the result of its own kind."""
    configs = [replace(SMALL, task=replace(SMALL.task, kind=kind)) for kind in ("recall", "parity")]
    assert program_key(configs[0]) == program_key(configs[1])
    together = train_bundle([(config, tmp_path / config.task.kind) for config in configs], quiet=True)
    for config, result in zip(configs, together, strict=True):
        alone = train(config, tmp_path / f"{config.task.kind} alone", quiet=True)
        assert result["validation"] == pytest.approx(alone["validation"], rel=1e-4, abs=1e-6)
        assert result["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
    assert [result["validation"]["chance"] for result in together] == [1 / KEYS, 1 / 2]


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    for wrong, message in (({"pairs": 4}, "task.pairs: 4 do not fit into task.length 9; at most 3"),
                           ({"items": 5}, "task.items: 5 do not fit into task.length 9; at most 4")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            train(replace(SMALL, task=replace(SMALL.task, **wrong)), tmp_path / "run", quiet=True)


def test_the_shipped_config_is_one() -> None:
    assert load_config(REPOSITORY / "configs" / "tasks" / "abilities.yaml").task == AbilityTask()
