"""Mean squared errors of several models on the same frames, with intervals over blocks of time and over seeds.

Errors of neighbouring frames are correlated, so blocks of frames are resampled, not single frames:

    E = sum_b SSE_b / sum_b n_b          over blocks b;  SSE_b = sum of squared errors of a block, mean over seeds

Blocks and seeds are drawn with replacement, each alone. An interval is the middle 95 % of

    log E + f_B (log E_blocks - log E) + f_S (log E_seeds - log E)
    f_n = sqrt(n / (n - 1)) t_{0.975, n-1} / z_{0.975}

Without the factors, intervals of 5 blocks and 3 seeds hold the truth in about 80 % of cases: draws of few have too
small a spread, whose size is uncertain besides. With them it is 93 % for errors, and more for ratios. All models have
the same draws of blocks, so differences of logarithms are paired (Efron & Tibshirani 1993, chapter 8). Each trained
model has draws of seeds of its own: seed 0 of one and seed 0 of another have nothing in common.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from seqjax.laws.intervals import bounds_of
from seqjax.laws.noise import students_factor

REPEATS = 2000


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def sum_by_block(errors_SxN: np.ndarray, targets_N: np.ndarray, edges: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the errors at frames ``targets`` [S, blocks], and the number of these frames in each block [blocks]."""
    block_N, n_blocks = np.searchsorted(edges, targets_N, side="right") - 1, len(edges) - 1
    sums = [np.bincount(block_N, weights=errors, minlength=n_blocks) for errors in np.atleast_2d(errors_SxN)]
    return np.stack(sums), np.bincount(block_N, minlength=n_blocks)


def draw_blocks(count_B: np.ndarray, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
    """How often each block with frames is drawn, [1 + R, blocks]; the first row is the data itself."""
    held = count_B > 0
    drawn = np.zeros((repeats + 1, len(count_B)))
    drawn[:, held] = draw_seeds(int(held.sum()), repeats, seed)
    return drawn


def draw_seeds(count: int, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
    """How often each of ``count`` is drawn, [1 + R, count]; the first row is the data itself."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=repeats)
    return np.concatenate([np.ones((1, count)), drawn])


def log_errors(
    sums_SxB: np.ndarray, count_B: np.ndarray, blocks_RxB: np.ndarray, seeds_RxS: np.ndarray | None = None
) -> np.ndarray:
    """log E of every draw, widened as the module says, [R]; NaN after the first for a single block.

    Args:
        seeds_RxS: None for a single seed, and for a floor, which has none: the interval is over blocks.
    """
    log_E, of_blocks_R = _log_mean(sums_SxB, count_B, blocks_RxB, np.ones((1, len(sums_SxB))))
    drawn_R = log_E + _widening((count_B > 0).sum()) * (of_blocks_R - log_E)
    if seeds_RxS is not None:
        of_seeds_R = _log_mean(sums_SxB, count_B, np.ones((1, len(count_B))), seeds_RxS)[1]
        drawn_R = drawn_R + _widening(seeds_RxS.shape[1]) * (of_seeds_R - log_E)
    return np.concatenate([[log_E], drawn_R[1:]])


def interval(logs_R: np.ndarray) -> Interval:
    """exp of the first value, with the middle 95 % of the others."""
    low, high = np.exp(bounds_of(logs_R[1:, None])[:, 0])
    return Interval(float(np.exp(logs_R[0])), float(low), float(high))


def _log_mean(
    sums_SxB: np.ndarray, count_B: np.ndarray, blocks_RxB: np.ndarray, seeds_RxS: np.ndarray
) -> tuple[float, np.ndarray]:
    """log E of the data and of every draw."""
    with np.errstate(divide="ignore"):
        total_RxB = seeds_RxS @ sums_SxB / seeds_RxS.sum(axis=1, keepdims=True)
        drawn_R = np.log((blocks_RxB * total_RxB).sum(axis=1) / (blocks_RxB @ count_B))
        return float(np.log(sums_SxB.mean(axis=0).sum() / count_B.sum())), drawn_R


def _widening(count: int) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt(np.divide(count, count - 1.0)) * students_factor(count - 1))
