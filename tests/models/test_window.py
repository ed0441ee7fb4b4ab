"""The window model against plain loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.families import Window
from seqjax.families.window import stack_last
from seqjax.models import build_model

B, T, D, V = 2, 6, 3, 11


@pytest.mark.parametrize("window", [1, 2, 4, 9])
def test_stack_last(window):
    x, history = np.random.default_rng(0).standard_normal((2, B, 20, D))
    x, history = x[:, :T], history[:, : window - 1]
    for past, given in ((np.zeros_like(history), None), (history, jnp.asarray(history, jnp.float32))):
        got = stack_last(jnp.asarray(x, jnp.float32), window, given)
        assert got.shape == (B, T, window, D)
        line = np.concatenate([past, x], axis=1).astype(np.float32)
        for t in range(T):
            np.testing.assert_array_equal(got[:, t], line[:, t : t + window])
            np.testing.assert_array_equal(got[:, t, -1], x[:, t].astype(np.float32))


def test_stacking_is_concatenating():
    """A dense layer over the stack is the same layer over the concatenation."""
    y = stack_last(jax.random.normal(jax.random.key(0), (B, T, D)), 4)
    weight = jax.random.normal(jax.random.key(1), (4, D, 5))
    stacked = jnp.einsum("BTWD,WDF->BTF", y, weight)
    np.testing.assert_allclose(y.reshape(B, T, 4 * D) @ weight.reshape(4 * D, 5), stacked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_layers, tied, bias", [(1, False, True), (1, True, False), (6, False, True)])
def test_model_is_its_equations(n_layers, tied, bias):
    d_ff = D if tied else 5
    config = Window(d_model=D, window=3, d_ff=d_ff, n_layers=n_layers, tied_embeddings=tied, bias=bias)
    model = build_model(config, V, T)
    tokens = np.random.default_rng(0).integers(0, V, (B, T))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(tokens))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), params)
    logits, state = jax.jit(model.apply)({"params": params}, jnp.asarray(tokens))
    assert state is None
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    line = np.concatenate([np.zeros((B, 2, D)), np.sqrt(D) * p["embedding"][tokens]], axis=1)
    for t in range(T):
        x = line[:, t : t + 3].reshape(B, 3 * D)
        a = np.tanh(x @ p["first"]["W"].reshape(3 * D, -1) + (p["first"]["b"] if bias else 0.0))
        for i in range(n_layers - 1):
            a = np.tanh(a @ p["layers"]["W"][i] + p["layers"]["b"][i])
        want = a @ (p["embedding"].T if tied else p["readout"]) + (p["readout_bias"] if bias else 0.0)
        np.testing.assert_allclose(logits[:, t], want, rtol=1e-4, atol=1e-4)


def test_state_is_the_last_inputs():
    """Of the tokens named; -1 is the place before the first one, a vector of zeros."""
    model = build_model(Window(d_model=D, window=4, d_ff=5), V, T)
    state = model.initial_state(B)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    params["embedding"] = jnp.arange(1.0, V + 1)[:, None] * jnp.ones((V, D))
    apply = jax.jit(model.apply)
    for piece, want in (([7, 8], [-1, 7, 8]), ([9], [7, 8, 9]), ([1, 2, 3, 4], [2, 3, 4])):
        state = apply({"params": params}, jnp.array([piece] * B), state)[1]
        want_PxD = np.sqrt(D) * (np.array(want)[:, None] + 1) * np.ones(D)
        np.testing.assert_allclose(state, [want_PxD] * B, rtol=1e-6)
