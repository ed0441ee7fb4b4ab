"""Mean squared errors of several models on the same frames, with intervals over blocks of time and over seeds.

Errors of neighbouring frames are correlated, so blocks of frames are resampled, not single frames:

    E = sum_b SSE_b / sum_b n_b          over blocks b;  SSE_b = sum of squared errors of a block, mean over seeds

An interval is the middle 95 % of E over draws of blocks and seeds with replacement. The draws are the same for all
models, so differences and ratios are paired (Efron & Tibshirani 1993, chapter 8).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from seqjax.laws.intervals import bounds_of


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


class Draws(NamedTuple):
    """How often each block [R, blocks] and each seed [R, S] is drawn; the first row is the data itself."""

    blocks: np.ndarray
    seeds: np.ndarray


def draw(count_B: np.ndarray, n_seeds: int, repeats: int = 2000, seed: int = 0) -> Draws:
    """Draws with replacement of the blocks that contain frames, and of the seeds."""
    rng = np.random.default_rng(seed)
    held = count_B > 0
    blocks = np.zeros((repeats + 1, len(count_B)))
    blocks[0, held] = 1
    blocks[1:, held] = rng.multinomial(held.sum(), np.full(held.sum(), 1 / held.sum()), size=repeats)
    seeds = np.concatenate([np.ones((1, n_seeds)), rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), repeats)])
    return Draws(blocks, seeds)


def mean_errors(sums_SxB: np.ndarray, count_B: np.ndarray, draws: Draws) -> np.ndarray:
    """E of every draw [R]. S = 1 for a model without seeds (a floor)."""
    if len(sums_SxB) == 1:
        total_RxB = np.broadcast_to(sums_SxB, draws.blocks.shape)
    else:
        total_RxB = draws.seeds @ sums_SxB / draws.seeds.sum(axis=1, keepdims=True)
    return (draws.blocks * total_RxB).sum(axis=1) / (draws.blocks @ count_B)


def interval(values_R: np.ndarray) -> Interval:
    """The first value, with the middle 95 % of the others."""
    low, high = bounds_of(values_R[1:, None])[:, 0]
    return Interval(float(values_R[0]), float(low), float(high))
