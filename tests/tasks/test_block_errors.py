"""Errors over blocks: the value is the plain mean, and intervals are those of a mean of independent blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from seqjax.tasks.block_errors import draw_blocks, draw_seeds, interval, log_errors, sum_by_block

EDGES = [0, 10, 20, 40, 50]


def test_sums_are_of_the_blocks_that_frames_lie_in() -> None:
    targets = np.array([3, 9, 10, 39, 20])
    sums, count = sum_by_block(np.array([[1.0, 2, 4, 8, 16], [0, 0, 1, 0, 0]]), targets, EDGES)
    np.testing.assert_array_equal(sums, [[3, 4, 24, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(count, [2, 1, 2, 0])


def test_the_first_draw_is_the_mean_over_frames_and_seeds() -> None:
    errors = np.random.default_rng(0).random((3, 5))
    sums, count = sum_by_block(errors, np.array([3, 9, 10, 39, 20]), EDGES)
    drawn = log_errors(sums, count, draw_blocks(count, 50), draw_seeds(3, 50))
    assert drawn.shape == (51,) and np.exp(drawn[0]) == pytest.approx(errors.mean())
    assert np.exp(log_errors(sums[:1], count, draw_blocks(count, 50))[0]) == pytest.approx(errors[0].mean())


def test_an_interval_is_that_of_a_mean_of_blocks() -> None:
    """Equal blocks, one seed: half the width is t s / sqrt(n), also where blocks without frames lie between."""
    rng = np.random.default_rng(0)
    blocks, count = 1 + 0.1 * rng.random(200), np.full(200, 7)
    value, low, high = interval(log_errors(7 * blocks[None], count, draw_blocks(count, 4000)))
    half = t.ppf(0.975, 199) * blocks.std(ddof=1) / np.sqrt(200)
    assert value == pytest.approx(blocks.mean()) and (high - low) / 2 == pytest.approx(half, rel=0.06)
    thin = np.where(np.arange(600) % 3 == 0, np.repeat(blocks, 3), 0.0)
    found = interval(log_errors(7 * thin[None], 7 * (thin > 0), draw_blocks(thin > 0, 4000)))
    np.testing.assert_allclose(found, (value, low, high), rtol=2e-3)


def test_an_interval_is_that_of_a_mean_of_seeds() -> None:
    """Blocks all alike, three seeds that differ: the interval is theirs."""
    count, seeds = np.full(50, 7), np.array([0.97, 1.0, 1.03])
    drawn = log_errors(7 * seeds[:, None] * np.ones((1, 50)), count, draw_blocks(count), draw_seeds(3))
    value, low, high = interval(drawn)
    half = t.ppf(0.975, 2) * seeds.std(ddof=1) / np.sqrt(3)
    assert value == pytest.approx(1) and (high - low) / 2 == pytest.approx(half, rel=0.25)


def test_a_single_block_has_no_interval() -> None:
    value, low, high = interval(
        log_errors(np.full((3, 1), 7.0), np.array([7]), draw_blocks(np.array([7])), draw_seeds(3))
    )
    assert value == pytest.approx(1) and np.isnan([low, high]).all()


def test_models_are_compared_on_the_same_draws_of_blocks() -> None:
    """One that is always 0.9 of the other is so in every draw, however far the blocks lie apart."""
    count, seeds = np.full(30, 5), draw_seeds(3)
    sums = np.random.default_rng(0).exponential(size=(3, 30))
    one, other = (log_errors(factor * sums, count, draw_blocks(count), seeds) for factor in (1.0, 0.9))
    np.testing.assert_allclose(interval(other - one), 0.9)
    assert interval(one).high > 1.1 * interval(one).low


def test_intervals_of_few_blocks_and_seeds_hold_the_truth() -> None:
    """5 blocks and 3 seeds, errors (93 %) and ratios of two models (99 %); without the factors about 80 %."""
    rng, count, held = np.random.default_rng(0), np.full(5, 130), np.zeros(2)
    for trial in range(300):
        hard_B = np.exp(0.5 * rng.standard_normal(5))
        logs = []
        for model in range(2):
            noise_SxB = 0.07 * rng.standard_normal((3, 1)) + 0.1 * rng.standard_normal((1, 5))
            sums_SxB = 130 * hard_B * np.exp(noise_SxB)
            logs.append(
                log_errors(sums_SxB, count, draw_blocks(count, 200, trial), draw_seeds(3, 200, 2 * trial + model))
            )
        of_one, of_ratio = interval(logs[0]), interval(logs[0] - logs[1])
        held += [of_one.low <= np.exp(0.5**2 / 2) <= of_one.high, of_ratio.low <= 1 <= of_ratio.high]
    assert (held / 300 > 0.9).all(), held / 300
