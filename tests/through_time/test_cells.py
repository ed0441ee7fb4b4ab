"""Every cell against its equations, written once more in float64 numpy, one step after the other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import recurrent

from seqjax.families import GRU, LSTM
from seqjax.through_time.nonlinear import unroll

T, B, D, H = 5, 2, 3, 4
CONFIGS = [
    pytest.param(recurrent(family, bias=bias, reset=reset), id=f"{family}-{reset}-{'bias' if bias else 'plain'}")
    for family, reset in (("elman", "after"), ("lstm", "after"), ("gru", "after"), ("gru", "before"))
    for bias in (True, False)
]


def run(config, params, x_TxBxD, state, dtype):
    """`unroll` of the config's cell in one compiled program."""
    return jax.jit(lambda *arguments: unroll(config, *arguments, dtype))(params, x_TxBxD, state)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(config, params, x_TxBxD, state):
    """The papers' equations with one matrix a gate and the concatenation [h, x]; returns outputs and last state."""
    n_gates = {"elman": 1, "lstm": 4, "gru": 3}[config.family]
    W_x = np.split(params["W_x"], n_gates, axis=1)
    W_h = np.split(params["W_h"], params["W_h"].shape[1] // H, axis=1)
    if "W_hn" in params:
        W_h = [*W_h, params["W_hn"]]
    b = np.split(params["b"], n_gates) if "b" in params else [0.0] * n_gates
    W = [np.concatenate([u, w]) for u, w in zip(W_h, W_x, strict=True)]
    h, c = state if config.family == "lstm" else (state, None)
    outputs = []
    for x in x_TxBxD:
        hx = np.concatenate([h, x], axis=1)
        if config.family == "elman":
            h = np.tanh(hx @ W[0] + b[0])
        elif config.family == "lstm":
            i, f, o = (sigmoid(hx @ W[j] + b[j]) for j in (0, 1, 3))
            c = f * c + i * np.tanh(hx @ W[2] + b[2])
            h = o * np.tanh(c)
        else:
            r, z = sigmoid(hx @ W[0] + b[0]), sigmoid(hx @ W[1] + b[1])
            if config.reset == "before":
                n = np.tanh(np.concatenate([r * h, x], axis=1) @ W[2] + b[2])
            else:
                n = np.tanh(x @ W_x[2] + b[2] + r * (h @ W_h[2] + params.get("b_hn", 0.0)))
            h = z * h + (1 - z) * n
        outputs.append(h)
    return np.stack(outputs), (h, c) if config.family == "lstm" else h


def example(config):
    """Float64 parameters with every entry away from its initial zero, inputs, and a state that is not zero."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: replace(config, d_hidden=H).init_cell(jax.random.key(0), D))
    state = jax.eval_shape(lambda: replace(config, d_hidden=H).cell_state(B))

    def draw(leaf):
        return 0.7 * rng.standard_normal(leaf.shape)

    return jax.tree.map(draw, shapes), rng.standard_normal((T, B, D)), jax.tree.map(draw, state)


@pytest.mark.parametrize("config", CONFIGS)
def test_forward_is_the_equations(config):
    params, x, state = example(config)
    want = reference(config, params, x, state)
    with jax.enable_x64(True):
        got = run(config, jax.tree.map(jnp.asarray, params), jnp.asarray(x), state, "float64")
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), got, want)
    params, x, state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x, state))
    got = run(config, params, x, state, "float32")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_are_differences_of_the_equations(config):
    """Central differences of the numpy reference for inputs, initial state and every weight, entry by entry."""
    arguments = example(config)
    leaves, tree = jax.tree.flatten(arguments)
    rng = np.random.default_rng(1)
    weights = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), reference(config, *arguments))

    def weighted_sum(outputs):
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), outputs, weights)))

    with jax.enable_x64(True):
        grads = jax.jit(jax.grad(lambda args: weighted_sum(unroll(config, *args, "float64"))))(
            jax.tree.map(jnp.asarray, arguments)
        )
    for leaf, grad in zip(leaves, jax.tree.leaves(grads), strict=True):
        difference = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            kept, values = leaf[index], []
            for shift in (1e-5, -1e-5):
                leaf[index] = kept + shift
                values.append(weighted_sum(reference(config, *jax.tree.unflatten(tree, leaves))))
            leaf[index] = kept
            difference[index] = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(grad, difference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("config", CONFIGS)
def test_initial_values(config):
    d_in, d_hidden = 200, 64
    params = jax.jit(lambda key: replace(config, d_hidden=d_hidden).init_cell(key, d_in))(jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in params.values())
    assert np.std(params["W_x"]) == pytest.approx(d_in**-0.5, rel=0.05)
    recurrent = [params[name] for name in ("W_h", "W_hn") if name in params]
    gates = np.split(np.concatenate(recurrent, axis=1), params["W_x"].shape[1] // d_hidden, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(d_hidden), atol=1e-5)
    assert all(np.abs(gates[0] - gate).max() > 0.1 for gate in gates[1:])
    biases = {name: leaf for name, leaf in params.items() if name.startswith("b")}
    if not config.bias:
        assert not biases
    elif config.family == "lstm":
        i, f, g, o = np.split(biases["b"], 4)
        assert (f == 1).all() and not np.concatenate([i, g, o]).any()
    else:
        assert biases and not any(leaf.any() for leaf in biases.values())


def test_forget_bias_is_the_option():
    params = LSTM(d_hidden=H, forget_bias=2.5).init_cell(jax.random.key(0), D)
    assert params["b"].tolist() == [0.0] * H + [2.5] * H + [0.0] * 2 * H


@pytest.mark.parametrize("config", CONFIGS[::2])
def test_two_pieces_are_one_sequence(config):
    params, x, state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), example(config))
    whole, last = run(config, params, x, state, "float32")
    first, state = run(config, params, x[:2], state, "float32")
    second, state = run(config, params, x[2:], state, "float32")
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-6, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), state, last)


@pytest.mark.parametrize("config", CONFIGS[::2])
def test_bfloat16_carries_float32(config):
    """Outputs are rounded to bfloat16; the state is not, and stays near the float32 one."""
    params, x, state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), example(config))
    want, want_state = run(config, params, x, state, "float32")
    h, new_state = run(config, params, x, state, "bfloat16")
    assert h.dtype == jnp.bfloat16
    np.testing.assert_allclose(h.astype(jnp.float32), want, atol=0.05)
    for got, near in zip(jax.tree.leaves(new_state), jax.tree.leaves(want_state), strict=True):
        assert got.dtype == jnp.float32
        assert (got != got.astype(jnp.bfloat16)).any(), "the carry was rounded"
        np.testing.assert_allclose(got, near, atol=0.05)


@pytest.mark.parametrize("config", CONFIGS[::2])
def test_vmapped_runs_are_each_run_alone(config):
    cell = config
    _, x, state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), example(config))

    def run_seed(key):
        params = replace(cell, d_hidden=H).init_cell(key, D)
        return params, jax.grad(lambda params: jnp.sum(unroll(cell, params, x, state, "float32")[0] ** 2))(params)

    keys = jax.random.split(jax.random.key(0), 2)
    together, alone = jax.jit(jax.vmap(run_seed))(keys), jax.jit(run_seed)
    for i, key in enumerate(keys):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5), together, alone(key))


def test_orthogonal_matrices_are_made_one_by_one():
    """A program with two batches of QR factorizations can wait for ever on a CPU, see `seqjax.through_time.gates`."""
    init = partial(GRU(d_hidden=7).init_cell, d_in=5)
    text = jax.jit(jax.vmap(init)).lower(jax.random.split(jax.random.key(0), 3)).as_text()
    calls = [line for line in text.splitlines() if "geqrf" in line]
    assert calls and all("(tensor<7x7xf32>)" in line for line in calls)
