"""The whole-sequence kernel for TPUs, run as operations on arrays, against the plain scan; and what fits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import slow
from recurrences import bfloat16_is_within_the_scans_noise, both
from variants import recurrent

from seqjax.layers.target import Target, compiled_for
from seqjax.through_time import kernel_tpu, on_chip

V5E = Target("tpu", (5, 0))


@pytest.fixture
def used(monkeypatch):
    """The kernel is used on this machine too, where JAX interprets it, in blocks of few rows and steps."""
    small = {"LANES": 8, "SUBLANES": 2, "MOST_ROWS": (4,), "MOST_STEPS": 2, "fits": lambda *case: True}
    for name, value in small.items():
        monkeypatch.setattr(kernel_tpu, name, value)
    monkeypatch.setattr(on_chip, "kernel_of", lambda target: kernel_tpu)


def equal(*case, **kinds):
    got, want = both(*case, "float32", **kinds)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("family, devices", [("lstm", 2), slow("gru", 1)])
def test_a_bundle_with_a_mask(used, family, devices):
    """Several blocks of rows and of time, of which the last are not full; the runs are an axis of the grid."""
    equal(family, 5, 11, 5, runs=2, devices=devices)


CASES = [
    ("lstm", 1, 1, 1, {}),
    ("lstm", 4, 4, 8, {"table": True, "devices": 2}),
    ("gru", 5, 6, 8, {"masked": False, "bias": False}),
]


@pytest.mark.slow
@pytest.mark.parametrize("family, times, batch, d_hidden, kinds", CASES)
def test_shapes_and_variants(used, family, times, batch, d_hidden, kinds):
    equal(family, times, batch, d_hidden, **kinds)


@pytest.mark.slow
def test_bfloat16(used):
    bfloat16_is_within_the_scans_noise("lstm")


@pytest.mark.parametrize(
    "family, d_hidden, dtype, target, whether",
    [
        ("lstm", 2048, "bfloat16", V5E, True),
        ("lstm", 2049, "bfloat16", V5E, False),
        ("lstm", 1536, "float32", V5E, True),
        ("lstm", 1537, "float32", V5E, False),
        ("gru", 2432, "bfloat16", V5E, True),
        ("gru", 1792, "float32", V5E, True),
        ("gru", 1793, "float32", V5E, False),
        ("lstm", 32, "bfloat16", Target("tpu", (7, 0), jax.make_mesh((1,), ("data",))), True),
        ("lstm", 32, "float16", V5E, False),
        ("lstm", 32, "bfloat16", Target("tpu", (4, 0)), False),
        ("lstm", 32, "bfloat16", Target("cpu"), False),
    ],
)
def test_when_it_is_used(family, d_hidden, dtype, target, whether):
    assert kernel_tpu.fits(recurrent(family).backprop.kernel, d_hidden, dtype, target) == whether


@pytest.mark.parametrize("batch", [1, 33, 64, 300])
@pytest.mark.parametrize("d_hidden", [100, 1024, 2048])
def test_blocks_fit_and_share_the_rows_evenly(batch, d_hidden):
    """The padded batch has the same blocks; fewer rows than a block are no reason for more of them."""
    one = recurrent("lstm").backprop.kernel
    cut = kernel_tpu.cut(one, d_hidden, batch, "bfloat16")
    padded = kernel_tpu.padded_batch(one, batch, d_hidden, "bfloat16")
    assert kernel_tpu.bytes_needed(one, d_hidden, "bfloat16", cut) <= kernel_tpu.VMEM
    assert kernel_tpu.cut(one, d_hidden, padded, "bfloat16") == cut
    assert padded % cut.rows == 0 and cut.rows % 16 == 0 and batch <= padded < batch + 16 * padded // cut.rows


def test_a_tpu_has_its_own_kernel():
    """Chosen for the target, whatever the machine is."""
    cell = recurrent("lstm", 8)
    params = cell.init_cell(jax.random.key(0), 8)
    with compiled_for(V5E):
        assert on_chip.computes(cell, params, "bfloat16")
        program = jax.make_jaxpr(lambda x: on_chip.run(cell, "bfloat16", params, x, cell.cell_state(4), None)[0])
        assert "lstm_forward" in str(program(jnp.zeros((3, 4, 8))))
    with compiled_for(Target("cpu")):
        assert not on_chip.computes(cell, params, "bfloat16")
