"""Batches of pairs of unequal length: padded to a few shapes, in an order that is a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

PIECE = 8  # lengths are padded to a multiple of this: every shape compiles another program


@dataclass(frozen=True)
class TokenPairs:
    """Sentence pairs as token ids.

    Attributes:
        sources, targets: int32 arrays. A source ends with the end mark; a target has the begin and the end mark.
    """

    sources: tuple[np.ndarray, ...]
    targets: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.sources)


def padded(rows: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows padded with zeros: int32 [B, length], and the mask of their tokens, bool [B, length]."""
    tokens_BxT = np.zeros((len(rows), length), np.int32)
    for row, tokens in zip(tokens_BxT, rows, strict=True):
        row[: len(tokens)] = tokens
    return tokens_BxT, np.arange(length)[None] < np.array([len(row) for row in rows])[:, None]


def rounded(length: int) -> int:
    """The next multiple of `PIECE`."""
    return -(-length // PIECE) * PIECE


def pair_batch(
    pairs: TokenPairs, indices: Sequence[int], size: int | None = None, rows: slice = slice(None)
) -> dict[str, np.ndarray]:
    """A padded batch of pairs: "source", "source_mask" [B, S], "target", "target_mask" [B, T + 1].

    S = T is the longest length of the batch, rounded up, so that few shapes occur. With ``size``, rows whose target
    mask is false are added up to B = ``size``. With ``rows``, only these of its rows are made.
    """
    sources = [pairs.sources[i] for i in indices]
    targets = [pairs.targets[i] for i in indices]
    missing = 0 if size is None else size - len(sources)
    length = rounded(max(max(map(len, sources)), max(map(len, targets)) - 1))
    source, source_mask = padded((sources + sources[:1] * missing)[rows], length)
    target, target_mask = padded((targets + [np.zeros(0, np.int32)] * missing)[rows], length + 1)
    return {"source": source, "source_mask": source_mask, "target": target, "target_mask": target_mask}


def training_batches(pairs: TokenPairs, seed: int, size: int) -> Callable[[int], np.ndarray]:
    """Step -> the indices of its pairs, a pure function. Pairs of a batch have similar lengths. Each epoch drops an
    incomplete batch."""
    lengths = np.array([rounded(max(len(s), len(t) - 1)) for s, t in zip(pairs.sources, pairs.targets, strict=True)])
    size = min(size, len(pairs))
    count, over = divmod(len(pairs), size)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        """Indices [batches, size]: shuffled, sorted by length with ties at random, batches shuffled."""
        rng = np.random.default_rng((seed, epoch))
        indices = rng.permutation(len(pairs))
        indices = indices[np.argsort(lengths[indices], kind="stable")]
        first = rng.integers(over + 1)
        return rng.permutation(indices[first : first + count * size].reshape(count, size))

    return lambda step: order(step // count)[step % count]


def ordered_batches(pairs: TokenPairs, size: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """All pairs once, sorted by length: their indices, and the batch, padded to ``size`` rows."""
    order = np.argsort(
        [max(len(s), len(t) - 1) for s, t in zip(pairs.sources, pairs.targets, strict=True)], kind="stable"
    )
    for first in range(0, len(order), size):
        indices = order[first : first + size]
        yield indices, pair_batch(pairs, indices, size)
