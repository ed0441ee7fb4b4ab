"""The whole-sequence kernel, run as operations on arrays, against the plain scan; and its program for an NVIDIA GPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import slow
from recurrences import bfloat16_is_within_the_scans_noise, both
from variants import recurrent

from seqjax.layers.target import Target, compiled_for
from seqjax.through_time import kernel
from seqjax.through_time.nonlinear import unroll

H100 = Target("cuda", (9, 0))
CPU = Target("cpu")


@pytest.fixture
def used(monkeypatch):
    """The kernel is used on this machine too, where JAX interprets it."""
    monkeypatch.setattr(kernel, "fits", lambda *case: True)


@pytest.mark.parametrize("family", ["lstm", slow("gru")])
def test_a_bundle_with_a_mask(used, family):
    """B and H are padded, the runs are an axis of the grid."""
    got, want = both(family, 4, 3, 5, "float32", runs=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


CASES = [
    ("lstm", 1, 1, 1, {}),
    ("lstm", 9, 17, 20, {"masked": False, "bias": False}),
    ("lstm", 5, 32, 16, {"table": True, "devices": 2}),
    ("gru", 9, 17, 20, {"masked": False, "bias": False}),
    ("gru", 5, 32, 16, {"table": True, "runs": 2}),
]


@pytest.mark.slow
@pytest.mark.parametrize("family, times, batch, d_hidden, kinds", CASES)
def test_shapes_and_variants(used, family, times, batch, d_hidden, kinds):
    """Rows in several programs, no padding, one step, tables, no bias, no mask."""
    got, want = both(family, times, batch, d_hidden, "float32", **kinds)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), got, want)


@pytest.mark.parametrize("family", [slow("lstm"), slow("gru")])
def test_bfloat16(used, family):
    bfloat16_is_within_the_scans_noise(family)


@pytest.mark.parametrize(
    "family, d_hidden, dtype, target, whether",
    [
        ("lstm", 128, "bfloat16", H100, True),
        ("lstm", 129, "bfloat16", H100, False),
        ("lstm", 64, "float32", H100, True),
        ("lstm", 110, "float32", H100, False),
        ("gru", 128, "float16", H100, True),
        ("gru", 256, "bfloat16", H100, False),
        ("lstm", 32, "float64", H100, False),
        ("lstm", 32, "bfloat16", Target("cuda", (7, 0)), False),
        ("lstm", 32, "bfloat16", Target("rocm"), False),
        ("lstm", 32, "bfloat16", Target("tpu"), False),
        ("lstm", 32, "bfloat16", CPU, False),
        ("lstm", 32, "bfloat16", Target("cuda", (9, 0), jax.make_mesh((1,), ("data",))), True),
    ],
)
def test_when_it_is_used(family, d_hidden, dtype, target, whether):
    assert kernel.fits(recurrent(family).backprop.kernel, d_hidden, dtype, target) == whether


def traced(family, d_hidden, target, runs=3, reset="after"):
    """The program for the gradients of 32 rows, as JAX traces it for the target."""
    cell = recurrent(family, d_hidden, reset=reset)

    def loss(params, x, state):
        return unroll(cell, params, x, state, "bfloat16", "kernel")[0].astype(jnp.float32).sum()

    def drawn(key):
        return cell.init_cell(key, d_hidden), jnp.zeros((4, 32, d_hidden)), cell.cell_state(32)

    arguments = jax.eval_shape(jax.vmap(drawn), jax.random.split(jax.random.key(0), runs))
    with compiled_for(target):
        return jax.jit(jax.vmap(jax.grad(loss))).trace(*arguments).jaxpr


def equations(jaxpr, name):
    """All equations of a primitive, also within others, but not within its own."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
            continue
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner, name)


@pytest.mark.parametrize("family, gates", [("lstm", 4), ("gru", 3)])
def test_the_program_for_a_gpu(family, gates):
    """Two kernels and no loop around them; a program for each run and 16 rows; no loop over time reads W_h."""
    program = traced(family, 20, H100)
    forward, backward = equations(program, "pallas_call")
    assert len(list(equations(program, "scan"))) == 2  # those within the kernels
    for one, matrix in ((forward, (32, gates * 32)), (backward, (gates * 32, 32))):
        assert one.params["grid_mapping"].grid == (3, 2)
        (loop,) = equations(one.params["jaxpr"], "scan")
        read = [variable.aval.shape for variable in loop.invars]
        assert matrix not in [shape[-2:] for shape in read]
        assert read.count((32, 32)) == gates  # the matrix of each gate, read before the loop


@pytest.mark.parametrize("case", [("lstm", 129, H100), ("lstm", 20, CPU), ("gru", 20, H100, 3, "before")])
def test_otherwise_a_scan_with_its_weights_rounded_once(case):
    """Before its loops: XLA does not move the conversion out of them."""
    program = traced(*case)
    assert not list(equations(program, "pallas_call"))
    loops = list(equations(program, "scan"))
    assert len(loops) == 2
    for loop in loops:
        matrices = [read.aval for read in loop.invars if read.aval.shape[-2:-1] == (case[1],)]
        assert matrices and all(aval.dtype == jnp.bfloat16 for aval in matrices)


@pytest.mark.parametrize("width, dtype", [(16, "bfloat16"), (32, "float32"), (128, "bfloat16"), (128, "float32")])
def test_orders_of_threads_and_back(width, dtype):
    """What a thread stores is what it loads, and columns that are permuted are read as they were."""
    order = kernel.order(width)
    array = jnp.arange(16 * width, dtype=jnp.float32).reshape(16, width).astype(dtype)
    stored = order.store(array, dtype)
    assert stored.shape == order.shape(1, 16, 1, dtype).shape[3:]
    np.testing.assert_array_equal(order.load(stored), array.astype(jnp.float32))
    gates = jnp.stack([jnp.concatenate([array, 2 * array], axis=-1)] * 2)
    permuted = order.permute(gates)
    np.testing.assert_array_equal(order.restore(permuted), gates)
    np.testing.assert_array_equal(order.by_rows(order.read(permuted, 1, 1)), 2 * array)


def test_a_thread_has_what_the_tensor_core_gives_it():
    """Lane 4 r + c of warp w: rows r and r + 8, columns 2 c, 2 c + 1 of the warp's 8 (PTX ISA, mma.m16n8k16)."""
    order = kernel.order(128)
    places = jnp.asarray(np.arange(16)[:, None] * 1000 + np.arange(128))
    of_thread = np.asarray(order.store(places, "float32").reshape(-1, 8 * 32, 4)).transpose(1, 0, 2).reshape(256, -1)
    for warp, lane in ((0, 0), (3, 13), (7, 31)):
        rows, columns = (lane // 4, lane // 4 + 8), (2 * (lane % 4), 2 * (lane % 4) + 1)
        want = {1000 * row + 64 * i + 8 * warp + column for i in (0, 1) for row in rows for column in columns}
        assert set(of_thread[32 * warp + lane]) == want
