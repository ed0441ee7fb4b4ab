"""Batches: pure in (seed, step), every window once per epoch, streams without gaps."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data import (
    evaluation_windows,
    gather_windows,
    segments_per_epoch,
    stream_batch,
    window_batch,
)
from seqjax.data.batches import _epoch_shape, _slot
from seqjax.errors import UserError

TOKENS = np.arange(1000, dtype=np.uint16)


def test_window_batch_is_pure_in_seed_and_step() -> None:
    first = [window_batch(TOKENS, 3, step, 4, 16) for step in range(40)]
    _slot.cache_clear()
    for step in (39, 0, 17):
        np.testing.assert_array_equal(window_batch(TOKENS, 3, step, 4, 16), first[step])
    assert not np.array_equal(window_batch(TOKENS, 4, 0, 4, 16), first[0])
    assert first[0].shape == (4, 17) and first[0].dtype == np.int32
    assert (np.diff(first[0], axis=1) == 1).all()


def test_another_process_draws_the_same_batch() -> None:
    code = (
        "import numpy as np; from seqjax.data import window_batch;"
        "print(window_batch(np.arange(1000, dtype=np.uint16), 3, 123, 4, 16)[:, 0].tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(window_batch(TOKENS, 3, 123, 4, 16)[:, 0].tolist())


@given(st.integers(2, 300), st.integers(1, 20), st.integers(1, 7), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_epoch_takes_each_window_once(n: int, context: int, batch: int, seed: int) -> None:
    if n < context + 1:
        return
    tokens = np.arange(n, dtype=np.uint16)
    windows, _ = _epoch_shape(n, context)
    steps = -(-3 * windows // batch)
    starts = np.concatenate([window_batch(tokens, seed, s, batch, context)[:, 0] for s in range(steps)])
    for epoch in range(3):
        taken = np.sort(starts[epoch * windows : (epoch + 1) * windows])
        assert (np.diff(taken) == context).all()
        assert 0 <= taken[0] and len(taken) == windows
        assert taken[-1] + context < n


def test_epochs_differ_in_order_and_phase() -> None:
    windows, _ = _epoch_shape(len(TOKENS), 16)
    epochs = [window_batch(TOKENS, 0, e, windows, 16)[:, 0] for e in range(20)]
    assert len({tuple(e) for e in epochs}) == 20
    assert len({int(e.min()) for e in epochs}) > 8
    assert windows >= (len(TOKENS) - 1) // 16 - 1


def test_every_token_is_seen_over_epochs() -> None:
    seen = np.zeros(len(TOKENS), bool)
    for step in range(2000):
        seen[window_batch(TOKENS, 0, step, 4, 64)[:, 1:]] = True
    assert seen[1:].all()


def test_streams_are_contiguous_and_begin_again() -> None:
    batch, context = 4, 16
    segments = segments_per_epoch(len(TOKENS), batch, context)
    assert segments == 249 // 16
    rows = [stream_batch(TOKENS, step, batch, context) for step in range(segments + 1)]
    assert [reset for _, reset in rows] == [True] + [False] * (segments - 1) + [True]
    for (before, _), (after, reset) in pairwise(rows):
        if not reset:
            np.testing.assert_array_equal(after[:, 0], before[:, -1])
    np.testing.assert_array_equal(rows[-1][0], rows[0][0])
    np.testing.assert_array_equal(rows[0][0][:, 0], np.arange(batch) * 249)
    targets = np.concatenate([x[:, 1:].ravel() for x, _ in rows[:-1]])
    assert len(np.unique(targets)) == len(targets) == batch * segments * context


def test_streams_resume_from_the_step_alone() -> None:
    whole = [stream_batch(TOKENS, step, 3, 10) for step in range(100)]
    for step in (70, 32, 0):
        x, reset = stream_batch(TOKENS, step, 3, 10)
        np.testing.assert_array_equal(x, whole[step][0])
        assert reset == whole[step][1]


@given(st.integers(2, 500), st.integers(1, 30), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_evaluation_windows_are_fixed_spread_and_disjoint(n: int, context: int, count: int) -> None:
    if n < context + 1:
        return
    tokens = np.arange(n)
    starts = evaluation_windows(tokens, count, context)
    assert starts.dtype == np.int64 and len(starts) == min(count, (n - 1) // context)
    np.testing.assert_array_equal(starts, evaluation_windows(tokens, count, context))
    assert starts[0] == 0 and (np.diff(starts) >= context).all() and starts[-1] + context < n
    if len(starts) > 1:
        assert starts[-1] + context == n - 1
        assert np.ptp(np.diff(starts)) <= 1


def test_gather_windows_gives_inputs_and_targets() -> None:
    np.testing.assert_array_equal(gather_windows(TOKENS, np.array([5, 0]), 2), [[5, 6, 7], [0, 1, 2]])


def test_wide_tokens_survive() -> None:
    tokens = np.arange(70_000, 70_100, dtype=np.uint32)
    assert window_batch(tokens, 0, 0, 2, 8).min() >= 70_000


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="16 tokens are too few for context_length 16: at least 17"):
        window_batch(TOKENS[:16], 0, 0, 1, 16)
    assert window_batch(TOKENS[:17], 0, 0, 1, 16).shape == (1, 17)
    with pytest.raises(UserError, match="at least 17"):
        evaluation_windows(TOKENS[:16], 1, 16)
    with pytest.raises(UserError, match="must be at least 1"):
        evaluation_windows(TOKENS, 0, 16)
    with pytest.raises(UserError, match="too few for 4 streams of context_length 16: at least 65"):
        stream_batch(TOKENS[:64], 0, 4, 16)
    assert stream_batch(TOKENS[:65], 0, 4, 16)[1]
