"""The whole-sequence kernel for TPUs, run as operations on arrays, against the plain scan; and what fits."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from recurrences import both

from seqjax.through_time import kernel_tpu, on_chip


@pytest.fixture
def used(monkeypatch):
    """The kernel is used on this machine too, where JAX interprets it, in blocks of few rows and steps."""
    monkeypatch.setattr(on_chip, "kernel_of", lambda target: kernel_tpu)
    monkeypatch.setattr(kernel_tpu, "fits", lambda *case: True)
    monkeypatch.setattr(kernel_tpu, "LANES", 8)
    monkeypatch.setattr(kernel_tpu, "SUBLANES", 2)
    monkeypatch.setattr(kernel_tpu, "MOST_ROWS", (4,))
    monkeypatch.setattr(kernel_tpu, "MOST_STEPS", 2)


@pytest.mark.parametrize("family", ["lstm", "gru"])
def test_a_bundle_with_a_mask(used, family):
    """Blocks of rows and of time, the last of both not full; runs are an axis of the grid."""
    got, want = both(family, 5, 6, 5, "float32", runs=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
