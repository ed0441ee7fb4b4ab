"""Batches as pure functions of (seed, step): there is no other state, so a run resumes from its step alone.

Each of the B sequences has T + 1 tokens: inputs are all but the last, targets all but the first.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from seqjax.errors import UserError


def window_batch(
    tokens: np.ndarray, seed: int, step: int, batch_size: int, context_length: int, rows: slice = slice(None)
) -> np.ndarray:
    """Random windows without replacement: int32 [B, T+1], batch ``step`` of the order given by ``seed``.

    An epoch cuts the tokens into windows that predict no token twice. The start of the first window and the order are
    drawn from (seed, epoch). Example i = step B + row belongs to epoch i // W, where W is the number of windows, so a
    batch may span epochs. Only the ``rows`` of the batch are read.

    ``seed`` and ``step`` are at least 0. Raises UserError if there are fewer than T + 1 tokens.
    """
    n_windows, n_phases = _epoch_shape(len(tokens), context_length)
    examples = step * batch_size + np.arange(batch_size)
    epochs, positions = np.divmod(examples, n_windows)
    starts = np.empty(batch_size, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        phase, order = _epoch_order(n_windows, n_phases, seed, epoch)
        here = epochs == epoch
        starts[here] = phase + context_length * order[positions[here]].astype(np.int64)
    return gather_windows(tokens, starts[rows], context_length)


def stream_batch(
    tokens: np.ndarray, step: int, batch_size: int, context_length: int, rows: slice = slice(None)
) -> tuple[np.ndarray, bool]:
    """Contiguous streams for carried recurrent state (Zaremba et al. 2014): int32 [B, T+1], and whether to reset it.

    The tokens are cut into B equal streams. Row b of batch ``step`` continues row b of the batch before. After the last
    whole segment the streams begin again. The flag is True for the first batch of each pass: reset the state before it.
    Only the ``rows`` of the batch are read.

    Raises UserError if a stream is shorter than T + 1 tokens.
    """
    length = (len(tokens) - 1) // batch_size
    segment = step % segments_per_epoch(len(tokens), batch_size, context_length)
    starts = np.arange(batch_size, dtype=np.int64) * length + segment * context_length
    return gather_windows(tokens, starts[rows], context_length), segment == 0


def segments_per_epoch(n_tokens: int, batch_size: int, context_length: int) -> int:
    """Number of batches after which `stream_batch` begins again."""
    segments = (n_tokens - 1) // batch_size // context_length
    if segments < 1:
        raise UserError(
            f"{n_tokens} tokens are too few for {batch_size} streams of context_length {context_length}: "
            f"at least {batch_size * context_length + 1} are needed"
        )
    return segments


def evaluation_windows(tokens: np.ndarray, count: int, context_length: int) -> np.ndarray:
    """Starts (int64) of ``count`` fixed windows, evenly spread, no token predicted twice; fewer if fewer fit.

    Raises UserError if ``count`` is below 1 or no window of T + 1 tokens fits.
    """
    fitting = (len(tokens) - 1) // context_length
    if fitting < 1:
        raise _too_few(len(tokens), context_length)
    if count < 1:
        raise UserError(f"the number of evaluation windows is {count}: it must be at least 1")
    count = min(count, fitting)
    room = len(tokens) - 1 - context_length
    return np.arange(count, dtype=np.int64) * room // max(count - 1, 1)


def gather_windows(tokens: np.ndarray, starts: np.ndarray, context_length: int) -> np.ndarray:
    """The T + 1 tokens from each start: int32 [len(starts), T+1]."""
    at = np.asarray(starts)[:, None] + np.arange(context_length + 1)
    return np.asarray(tokens)[at].astype(np.int32)  # asarray: the indexing of a memmap is slow


def _epoch_shape(n_tokens: int, context_length: int) -> tuple[int, int]:
    """Number of windows in every epoch, and number of possible starts of the first.

    One window fewer than would fit leaves at least T starts, so that every token can be in an epoch.
    """
    if n_tokens < context_length + 1:
        raise _too_few(n_tokens, context_length)
    n_windows = max(1, (n_tokens - context_length) // context_length)
    return n_windows, n_tokens - n_windows * context_length


def _epoch_order(n_windows: int, n_phases: int, seed: int, epoch: int) -> tuple[int, np.ndarray]:
    """Phase and order of an epoch. The last two epochs of each seed are kept: a bundle of runs has many seeds."""
    slot = _slot(n_windows, n_phases, seed, epoch % 2)
    if (found := slot.get(epoch)) is None:
        slot.clear()
        found = slot[epoch] = _draw_order(n_windows, n_phases, seed, epoch)
    return found


@lru_cache(maxsize=512)
def _slot(n_windows: int, n_phases: int, seed: int, parity: int) -> dict[int, tuple[int, np.ndarray]]:
    return {}


def _draw_order(n_windows: int, n_phases: int, seed: int, epoch: int) -> tuple[int, np.ndarray]:
    rng = np.random.default_rng([seed, epoch])
    phase = int(rng.integers(n_phases))
    order = rng.permutation(np.arange(n_windows, dtype=np.uint32 if n_windows < 1 << 32 else np.int64))
    order.setflags(write=False)
    return phase, order


def _too_few(n_tokens: int, context_length: int) -> UserError:
    return UserError(
        f"{n_tokens} tokens are too few for context_length {context_length}: at least {context_length + 1} are needed"
    )
