"""Errors over blocks: the value is the plain mean, and intervals are those of a mean of independent blocks."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.tasks.block_errors import draw, interval, mean_errors, sum_by_block

EDGES = [0, 10, 20, 40, 50]


def test_sums_are_of_the_blocks_that_frames_lie_in() -> None:
    targets = np.array([3, 9, 10, 39, 20])
    sums, count = sum_by_block(np.array([[1.0, 2, 4, 8, 16], [0, 0, 1, 0, 0]]), targets, EDGES)
    np.testing.assert_array_equal(sums, [[3, 4, 24, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(count, [2, 1, 2, 0])


def test_the_first_draw_is_the_mean_over_frames_and_seeds() -> None:
    errors = np.random.default_rng(0).random((3, 5))
    sums, count = sum_by_block(errors, np.array([3, 9, 10, 39, 20]), EDGES)
    drawn = mean_errors(sums, count, draw(count, 3, repeats=50))
    assert drawn.shape == (51,) and drawn[0] == pytest.approx(errors.mean())
    floor = mean_errors(sums[:1], count, draw(count, 3, repeats=50))
    assert floor[0] == pytest.approx(errors[0].mean())


def test_an_interval_is_that_of_a_mean_of_blocks() -> None:
    """Equal blocks, one seed: half the width is 1.96 s / sqrt(n), s with n in its denominator."""
    rng = np.random.default_rng(0)
    blocks = rng.random(200)
    count = np.full(200, 7)
    value, low, high = interval(mean_errors(7 * blocks[None], count, draw(count, 1, repeats=4000)))
    assert value == pytest.approx(blocks.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * blocks.std() / np.sqrt(200), rel=0.06)


def test_seeds_are_drawn_too() -> None:
    """Blocks all alike, three seeds that differ: the interval is theirs."""
    count = np.full(50, 7)
    sums = np.array([[7.0], [14.0], [21.0]]) * np.ones((1, 50))
    value, low, high = interval(mean_errors(sums, count, draw(count, 3)))
    assert value == pytest.approx(2) and low == pytest.approx(1, abs=0.4) and high == pytest.approx(3, abs=0.4)


def test_models_are_compared_on_the_same_draws() -> None:
    """One that is always 0.9 of the other is so in every draw, however far the blocks lie apart."""
    count = np.full(30, 5)
    sums = np.random.default_rng(0).exponential(size=(3, 30))
    draws = draw(count, 3)
    ratio = interval(mean_errors(0.9 * sums, count, draws) / mean_errors(sums, count, draws))
    np.testing.assert_allclose(ratio, 0.9)
    assert interval(mean_errors(sums, count, draws)).high > 1.1 * interval(mean_errors(sums, count, draws)).low
