"""Delayed copies: where symbol, noise and question stand, and that nothing else tells the answer."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.data.delays import delayed_copies, vocabulary_size

V, N = 4, 3


@pytest.mark.parametrize("distance", [1, 2, 9])
def test_symbol_noise_and_question_are_in_their_places(distance: int) -> None:
    tokens_BxT, answers_B = delayed_copies(np.random.default_rng(0), 500, distance, V, N)
    assert tokens_BxT.shape == (500, distance + 1) and tokens_BxT.dtype == answers_B.dtype == np.int32
    np.testing.assert_array_equal(tokens_BxT[:, 0], answers_B)
    assert (tokens_BxT[:, -1] == V + N).all() and vocabulary_size(V, N) == V + N + 1
    assert set(answers_B) == set(range(V))
    assert set(tokens_BxT[:, 1:-1].ravel()) == (set(range(V, V + N)) if distance > 1 else set())


def test_without_the_first_token_the_answer_is_chance() -> None:
    """The best guess from any one noise token is right no more often than 1 / V, within five standard errors."""
    count = 40_000
    tokens_BxT, answers_B = delayed_copies(np.random.default_rng(1), count, 6, V, N)
    for t in range(1, 6):
        joint = np.zeros((V + N, V))
        np.add.at(joint, (tokens_BxT[:, t], answers_B), 1)
        assert joint.max(axis=1).sum() / count < 1 / V + 5 * np.sqrt(N / count)


def test_a_draw_is_its_random_numbers() -> None:
    one, same, other = (delayed_copies(np.random.default_rng((0, s)), 8, 5, V, N)[0] for s in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
