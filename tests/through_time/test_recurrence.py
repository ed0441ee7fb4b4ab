"""The recurrences with their own backward pass, in JAX and in C++, against the plain scan: values and all gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import slow
from recurrences import example, value_and_grads
from variants import recurrent

from seqjax.families import LSTM
from seqjax.layers import native
from seqjax.through_time import fast_and_lean
from seqjax.through_time.nonlinear import unroll

VARIANTS = [("elman", "after"), ("lstm", "after"), ("gru", "after"), ("gru", "before")]


@pytest.fixture(params=[False, True], ids=["xla", "native"])
def in_native(request, monkeypatch):
    """Without and with the compiled functions."""
    if request.param and not native.compiled():
        pytest.skip("no C++ compiler here, or compiling failed")
    if not request.param:
        monkeypatch.setattr(native, "compiled", lambda: False)
    return request.param


ANY = given(
    st.sampled_from(VARIANTS), st.booleans(), st.integers(1, 13), st.integers(1, 5), st.integers(1, 9), st.booleans(),
    st.booleans(), st.sampled_from(["fast", "lean"]), st.integers(0, 99),
)  # fmt: skip


def any_shape_mask_and_cell(variant, bias, times, batch, d_hidden, masked, table, how, seed):
    """In float64, with chunks of 4 steps."""
    (family, reset), chunk = variant, fast_and_lean.CHUNK
    config = recurrent(family, reset=reset, bias=bias)
    *arguments, tokens, weights = example(config, times, batch, d_hidden, seed)
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_and_lean, "CHUNK", 4)
        arguments, weights = jax.tree.map(jnp.asarray, (arguments, weights))
        mask = jnp.asarray(np.random.default_rng(seed).random((times, batch)) < 0.6) if masked else None
        want = value_and_grads(config, arguments, tokens, weights, "float64", "scan", mask)
        got = value_and_grads(config, arguments, tokens, weights, "float64", how, mask, table)
    assert fast_and_lean.CHUNK == chunk
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), got, want)


test_any_shape_mask_and_cell = settings(max_examples=5, deadline=None)(ANY(any_shape_mask_and_cell))
test_many_shapes_masks_and_cells = pytest.mark.slow(
    settings(max_examples=15, deadline=None)(ANY(any_shape_mask_and_cell))
)


@pytest.mark.parametrize(
    "times, batch, d_hidden, runs, bias",
    [(17, 13, 48, 3, True), slow(1, 1, 1, 3, False), slow(30, 32, 100, 0, False)],
)
@pytest.mark.parametrize("family, reset", VARIANTS)
def test_float32_and_bundles(in_native, family, reset, runs, times, batch, d_hidden, bias):
    """Against the plain scan in float64, also vmapped over runs with parameters of their own."""
    config = recurrent(family, reset=reset, bias=bias)
    examples = [example(config, times, batch, d_hidden, seed) for seed in range(runs or 1)]
    tokens, weights = examples[0][3:]
    each = [example[:3] for example in examples]
    with jax.enable_x64(True):
        want = [value_and_grads(config, jax.tree.map(jnp.asarray, one), tokens, weights, "float64", "scan")
                for one in each]  # fmt: skip
    each, weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (each, weights))
    run = lambda *one: value_and_grads(config, one, tokens, weights, "float32", "fast")  # noqa: E731
    if runs:
        together = jax.vmap(run)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
        got = [jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(runs)]
    else:
        got = [run(*each[0])]
    scale = 2e-5 * max(1.0, float(np.sqrt(times * batch)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=scale), got, want)


@pytest.mark.parametrize("family, reset", VARIANTS)
def test_bfloat16_products_with_float32_carry(family, reset, monkeypatch):
    """The same roundings as in the plain scan, but for those of gradients that are summed in another order."""
    monkeypatch.setattr(fast_and_lean, "CHUNK", 4)
    config = recurrent(family, reset=reset)
    *arguments, tokens, weights = example(config, 9, 4, 16, 0)
    arguments, weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (arguments, weights))
    want, want_grads = value_and_grads(config, arguments, tokens, weights, "bfloat16", "scan")

    def close(a, b):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.abs(b).max()))

    for how in ("fast", "lean"):
        got, grads = value_and_grads(config, arguments, tokens, weights, "bfloat16", how)
        np.testing.assert_allclose(got, want, rtol=1e-2)
        jax.tree.map(close, grads, want_grads)


@pytest.mark.parametrize("family, reset", VARIANTS)
def test_masked_steps_are_as_if_they_were_not_there(family, reset, monkeypatch):
    """Padding in the middle and at the end: outputs of the other steps, last state and gradients do not notice."""
    monkeypatch.setattr(fast_and_lean, "CHUNK", 4)
    config = recurrent(family, reset=reset)
    *arguments, tokens, weights = example(config, 6, 2, 5, 1)
    kept = np.array([True, False, True, True, False, True, True, True, False])
    padded = np.zeros((9, 2), np.int64)
    padded[kept] = tokens
    spread = np.zeros((9, 2, 5))
    spread[kept] = weights[0]
    with jax.enable_x64(True):
        arguments, weights = jax.tree.map(jnp.asarray, (arguments, weights))
        want = value_and_grads(config, arguments, tokens, weights, "float64", "scan")
        mask = jnp.asarray(np.repeat(kept[:, None], 2, axis=1))
        for how in ("scan", "fast", "lean"):
            got = value_and_grads(config, arguments, padded, (jnp.asarray(spread), weights[1]), "float64", how, mask)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), got, want)


def test_a_diverged_state_is_seen(in_native):
    """NaN and infinity pass through activations and products."""
    for family, reset in VARIANTS:
        config = recurrent(family, reset=reset)
        params, embedding, state, tokens, _ = example(config, 5, 2, 16, 0)
        params["W_h"][0, 0] = np.nan
        arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, embedding[tokens], state))
        h, _ = unroll(config, *arguments, "float32", "fast")
        assert np.isnan(h).any()


def test_results_do_not_depend_on_how_rows_are_grouped(in_native):
    """A row alone, in a small and in a large batch: equal bit for bit where our own product computes it."""
    if not in_native:
        pytest.skip("XLA's products choose their own order")
    config = LSTM()
    params, embedding, state, tokens, _ = example(config, 20, 13, 70, 0)
    arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, embedding[tokens], state))
    params, x, state = arguments
    gates = config.project(params, x, "float32")
    whole = config.backprop.compiled.forward(params, gates, state)[1]
    for rows in (slice(0, 1), slice(3, 8), slice(11, 13)):
        of_rows = jax.tree.map(lambda h, r=rows: h[r], state)
        part = config.backprop.compiled.forward(params, gates[:, rows], of_rows)[1]
        jax.tree.map(lambda a, b, r=rows: np.testing.assert_array_equal(a, b[:, r]), part, whole)
