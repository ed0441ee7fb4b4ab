"""The attention in C++ against the whole matrix in float64: values and gradients, any shape, one run or several."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.layers.attention import init_attention, queries_keys_values
from seqjax.layers.native.attention import self_attention
from seqjax.layers.rotary import rotary_angles

pytestmark = pytest.mark.usefixtures("needs_compiled")


def causal_attention(q, k, v):
    """The heads' outputs BxNxTxK, of queries, keys and values that are given as they are."""
    batch, heads, times, width = q.shape
    qkv_BxTxE = jnp.stack([q, k, v]).transpose(1, 3, 0, 2, 4).reshape(batch, times, -1)
    y_BxTxE = self_attention(qkv_BxTxE, None, None, None, heads)
    return y_BxTxE.reshape(batch, times, heads, width).swapaxes(1, 2)


def whole(q, k, v, weights):
    """softmax(Q K^T / sqrt(d_k)) V and the gradients of its weighted sum, written out in float64."""
    scale, times = q.shape[-1] ** -0.5, q.shape[-2]
    scores = np.where(np.tri(times, dtype=bool), scale * np.einsum("...tk,...sk->...ts", q, k), -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    d_p = np.einsum("...tk,...sk->...ts", weights, v)
    d_scores = scale * p * (d_p - (d_p * p).sum(axis=-1, keepdims=True))
    d_q, d_k, d_v = d_scores @ k, d_scores.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ weights
    return ((p @ v) * weights).sum(), (d_q, d_k, d_v)


def example(shape, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal(shape) for _ in range(3)], rng.standard_normal(shape)


def value_and_grads(attention, operands, weights):
    return jax.jit(jax.value_and_grad(lambda *qkv: (attention(*qkv) * weights).sum(), argnums=(0, 1, 2)))(*operands)


def compare(shape, seed, scale=1.0, tolerance=2e-5):
    operands, weights = example(shape, seed, scale)
    want, want_grads = whole(*operands, weights)
    operands = [jnp.asarray(x, jnp.float32) for x in operands]
    got, grads = value_and_grads(causal_attention, operands, jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.sqrt(weights.size))
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 150), st.integers(1, 70), st.integers(0, 99))
def test_any_shape(batch, heads, times, width, seed):
    compare((batch, heads, times, width), seed)


@pytest.mark.parametrize("times", [64, 65, 256])
def test_blocks_and_sharp_weights(times):
    """Scores of some hundreds: all the weight on one key, none of it infinite."""
    compare((1, 2, times, 16), 0, scale=12.0, tolerance=3e-4)  # a score of 500 is rounded by 3e-5


def test_vmapped_runs_are_each_run_alone():
    (q, k, v), weights = example((3, 2, 2, 70, 8), 0)
    operands = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
    run = lambda *qkv: value_and_grads(causal_attention, qkv, jnp.asarray(weights[0], jnp.float32))  # noqa: E731
    together = jax.vmap(run)(*operands)
    for i in range(3):
        alone = run(*(x[i] for x in operands))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5), together, alone)


def test_not_a_number_is_seen():
    (q, k, v), _ = example((1, 1, 70, 8), 0)
    q[0, 0, 40, 3] = np.nan
    y = causal_attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))
    assert np.isnan(y[0, 0, 40]).all() and np.isfinite(y[0, 0, :40]).all() and np.isfinite(y[0, 0, 41:]).all()


@pytest.mark.parametrize("width, times", [(8, 33), (16, 50), (20, 100)])
def test_biases_norms_and_rotation_are_those_of_the_layer(width, times):
    heads, d_model = 2, 2 * width
    params = init_attention(jax.random.key(0), d_model, heads, True, 0.3, 0.3, qk_norm=True)
    keys = jax.random.split(jax.random.key(1), len(params))
    params = {
        name: p + 0.3 * jax.random.normal(key, p.shape) for key, (name, p) in zip(keys, params.items(), strict=True)
    }
    params |= {name: 0.03 * params[name] for name in ("W_qkv", "b_qkv")}  # so small that the norms' epsilon counts
    x, weights = (jax.random.normal(jax.random.key(i), (2, times, d_model)) for i in (2, 3))
    angles = rotary_angles(3 + jnp.arange(times), width)

    def plain(params, x):
        q, k, v = queries_keys_values(params, x, angles, "float32")
        scores = jnp.einsum("BNTK,BNSK->BNTS", 0.5 * q, k) / np.sqrt(width)
        p = jax.nn.softmax(jnp.where(np.tri(times, dtype=bool), scores, -jnp.inf), axis=-1)
        return jnp.einsum("BNTS,BNSK->BTNK", p, v)

    def compiled(params, x):
        qkv = x @ params["W_qkv"].reshape(d_model, -1)
        gains = params["q_gain"], params["k_gain"]
        return self_attention(qkv, params["b_qkv"].reshape(-1), gains, angles, heads, q_scale=0.5)

    def gradients(attention):
        loss = lambda params, x: (attention(params, x).reshape(weights.shape) * weights).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)

    for got, want in zip(*(jax.tree.leaves(gradients(one)) for one in (compiled, plain)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1.0, np.abs(want).max()))
