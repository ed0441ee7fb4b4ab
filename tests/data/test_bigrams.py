"""Bigrams by counting against a loop over the definition, and against a process whose entropy is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from seqjax.data.bigrams import bigram, cross_entropies, pairs_of, unigram


def test_probabilities_are_the_definition_and_sum_to_one() -> None:
    tokens = np.random.default_rng(0).integers(0, 5, 40)  # of 7 tokens two are never seen
    pairs = np.stack([tokens[:-1], tokens[1:]], axis=1)
    found = bigram(pairs, 7)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    counts = Counter(map(tuple, pairs.tolist()))
    singles = Counter(pairs[:, 1].tolist())
    for a in range(7):
        kinds = len([pair for pair in counts if pair[0] == a])
        total = sum(count for pair, count in counts.items() if pair[0] == a)
        for b in range(7):
            p = (singles[b] + 1) / (39 + 7)
            want = (counts[a, b] + kinds * p) / (total + kinds) if total else p
            assert found[a, b] == pytest.approx(want)
    np.testing.assert_allclose(unigram(pairs[:, 1], 7), [(singles[b] + 1) / 46 for b in range(7)])


def test_a_chain_is_predicted_to_its_entropy() -> None:
    """Tokens that stay with probability 0.9: H = 0.325 nats; their unigram is even: log 4."""
    rng = np.random.default_rng(1)
    steps = np.where(rng.uniform(size=100_000) < 0.9, 0, rng.integers(1, 4, 100_000))
    tokens = np.cumsum(steps) % 4
    pairs = np.stack([tokens[:-1], tokens[1:]], axis=1)
    by_unigram, by_bigram = cross_entropies(pairs[:50_000], pairs[50_000:], 4)
    entropy = -0.9 * np.log(0.9) - 0.1 * np.log(0.1 / 3)
    assert by_bigram == pytest.approx(entropy, abs=0.01) and by_unigram == pytest.approx(np.log(4), abs=0.01)


def test_pairs_stay_within_their_window() -> None:
    assert pairs_of(np.array([[1, 2, 3], [7, 8, 9]])).tolist() == [[1, 2], [2, 3], [7, 8], [8, 9]]
