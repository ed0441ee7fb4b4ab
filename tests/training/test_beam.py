"""Beam search against all sequences there are."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.models.beam import Found, beam_search

V, LENGTH, END, BEGIN = 4, 4, 3, 0


def language(seed: int, rows: int) -> np.ndarray:
    """Logits of the next token given the two before it and the row: [B, V, V, V]."""
    return 2.0 * np.random.default_rng(seed).normal(size=(rows, V, V, V)).astype(np.float32)


def step(state: dict[str, jax.Array], token_N: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    logits = state["table"][jnp.arange(len(token_N)), state["before"], token_N]
    return logits, {"table": state["table"], "before": token_N}


@partial(jax.jit, static_argnums=(1, 2))
def search(table: np.ndarray, beam: int, penalty: float) -> Found:
    state = {"table": table, "before": jnp.full(len(table), BEGIN)}
    return beam_search(step, state, BEGIN, END, beam, LENGTH, penalty)


def log_p(table: np.ndarray, tokens: tuple[int, ...]) -> float:
    before, last, total = BEGIN, BEGIN, 0.0
    for token in tokens:
        logits = table[before, last].astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        before, last = last, token
    return total


def every_ended(table: np.ndarray, penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """All sequences with an end mark within LENGTH tokens, by score."""
    found = []
    for length in range(1, LENGTH + 1):
        for beginning in itertools.product(range(END), repeat=length - 1):
            tokens = (*beginning, END)
            found.append((log_p(table, tokens) / ((5 + length) / 6) ** penalty, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty: float) -> None:
    table, beam = language(0, rows=5), 110  # more than the 108 continuations of the beginnings of three tokens
    found = search(table, beam, penalty)
    for row in range(5):
        wanted = every_ended(table[row], penalty)[:beam]
        for k, (score, tokens) in enumerate(wanted):
            np.testing.assert_allclose(found.score_BxK[row, k], score, rtol=1e-5)
            assert tuple(found.tokens_BxKxT[row, k])[: len(tokens)] == tokens
            assert set(found.tokens_BxKxT[row, k, len(tokens) :].tolist()) <= {END}
            np.testing.assert_allclose(found.log_p_BxK[row, k], log_p(table[row], tokens), rtol=1e-5)


def test_a_beam_of_one_is_greedy() -> None:
    table = language(1, rows=400)
    found = search(table, 1, 0.0)
    lengths = []
    for row in range(400):
        before, last, tokens = BEGIN, BEGIN, []
        while len(tokens) < LENGTH and (not tokens or tokens[-1] != END):
            before, last = last, int(table[row, before, last].argmax())
            tokens.append(last)
        lengths.append(len(tokens) if END in tokens else LENGTH + 1)
        if END in tokens:
            assert tuple(found.tokens_BxKxT[row, 0])[: len(tokens)] == tuple(tokens)
            np.testing.assert_allclose(found.log_p_BxK[row, 0], log_p(table[row], tuple(tokens)), rtol=1e-5, atol=1e-6)
    assert min(lengths.count(length) for length in range(1, LENGTH + 2)) > 5  # all cases are there


def test_a_wider_beam_is_never_worse_here_and_rows_do_not_mix() -> None:
    table = language(2, rows=24)
    narrow = search(table, 2, 0.6)
    wide = search(table, 12, 0.6)
    ended = (np.asarray(narrow.tokens_BxKxT[:, 0]) == END).any(axis=1)
    assert ended.sum() > 3
    assert np.all(np.asarray(wide.score_BxK[:, 0] - narrow.score_BxK[:, 0])[ended] >= -1e-5)
    for row in range(24):
        alone = search(table[row : row + 1], 2, 0.6)
        np.testing.assert_array_equal(alone.tokens_BxKxT[0], narrow.tokens_BxKxT[row])


def test_what_never_ends_is_given_as_it_is() -> None:
    table = language(3, rows=2)
    table[..., END] = -60.0
    found = search(table, 3, 0.0)
    best = max((log_p(table[0], tokens), tokens) for tokens in itertools.product(range(END), repeat=LENGTH))
    open_ones = [row for row in np.asarray(found.tokens_BxKxT[0]).tolist() if END not in row]
    assert not open_ones or np.isclose(log_p(table[0], tuple(open_ones[0])), best[0], atol=2.0)
    assert np.all(np.isfinite(found.score_BxK)) and np.all(np.diff(found.score_BxK, axis=1) <= 1e-5)


@pytest.mark.parametrize("penalty", [0.6, 1.0])
def test_long_ones_that_never_end_are_given_whole(penalty: float) -> None:
    """The weight of a long sequence is over ten here: what cannot be must not come before what has not ended."""
    logits_V = jnp.array([1.0, 0.5, 0.0, -60.0])

    def endless(state: jax.Array, token_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.tile(logits_V, (len(token_N), 1)), state

    found = jax.jit(partial(beam_search, endless, begin=BEGIN, end=END, beam=3, length=64, penalty=penalty))(
        jnp.zeros(2)
    )
    assert not (np.asarray(found.tokens_BxKxT) == END).any()
    best = 64 * float(jax.nn.log_softmax(logits_V)[0])
    np.testing.assert_allclose(found.log_p_BxK[:, 0], best, rtol=1e-5)
    assert (np.asarray(found.log_p_BxK) > 2 * best).all()
