"""Blockwise attention against torch and against attention that holds the whole matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick

from seqjax.layers.attention import attend, init_attention, self_attention
from seqjax.layers.blockwise import ROWS, blockwise_attention

LENGTHS = [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 44]


def example(length, dtype="float64", batch=2, heads=3, width=4):
    rng = np.random.default_rng(length)
    return [jnp.asarray(2 * rng.standard_normal((batch, heads, length, width)), dtype) for _ in range(4)]


def whole_matrix(q, k, v, dtype):
    mask = np.tril(np.ones((q.shape[2], q.shape[2]), bool))
    return jax.vmap(jax.vmap(lambda q, k, v: attend(q, k, v, mask, dtype)))(q, k, v)


@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients_are_those_of_torch(length):
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        *qkv, weights = example(length)
        tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in qkv]
        want = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
        (want * torch.tensor(np.asarray(weights))).sum().backward()
        got, pullback = jax.vjp(jax.jit(lambda *qkv: blockwise_attention(*qkv, "float64")), *qkv)
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-10, atol=1e-13)
        for grad, tensor in zip(pullback(weights), tensors, strict=True):
            np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", quick(LENGTHS, LENGTHS[-1]))
def test_runs_side_by_side_are_runs_alone(length):
    *qkv, weights = example(length, "float32")
    stacked = [jnp.stack([x, 0.5 * x]) for x in qkv]
    got, pullback = jax.vjp(jax.vmap(blockwise_attention), *stacked)
    grads = pullback(jnp.stack([weights, weights]))
    for run, scale in enumerate((1.0, 0.5)):
        alone, pullback = jax.vjp(blockwise_attention, *(scale * x for x in qkv))
        np.testing.assert_allclose(got[run], alone, rtol=1e-5, atol=1e-5)
        for grad, of_run in zip(grads, pullback(weights), strict=True):
            np.testing.assert_allclose(grad[run], of_run, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_float32_within_one_unit_in_the_last_place_of_bfloat16():
    *qkv, weights = example(2 * ROWS, "float32")
    short = [x.astype("bfloat16") for x in qkv]
    exact = jax.vjp(lambda *qkv: whole_matrix(*qkv, "float32"), *(x.astype("float32") for x in short))
    block = jax.vjp(lambda *qkv: blockwise_attention(*qkv, "bfloat16"), *short)
    assert block[0].dtype == jnp.float32
    for want, got in zip(*((y, *pullback(weights)) for y, pullback in (exact, block)), strict=True):
        assert distance(got, want) < 2**-7
    assert all(grad.dtype == jnp.bfloat16 for grad in block[1](weights))


def distance(a, b):
    return np.linalg.norm(a.astype("float32") - b.astype("float32")) / np.linalg.norm(b.astype("float32"))


def test_the_layer_uses_it_for_long_sequences_and_says_the_same():
    """From ROWS + 1 tokens on the layer's program holds no T x T array, and its output is that of a filled cache."""
    length, d_model = ROWS + 30, 8
    params = init_attention(jax.random.key(0), d_model, 2, True, 0.5, 0.5)
    x = jax.random.normal(jax.random.key(1), (2, length, d_model))
    layer = jax.jit(lambda x: self_attention(params, x, 0, None, None, "float32")[0])
    empty = {name: jnp.zeros((2, 2, length, d_model // 2)) for name in "kv"}
    cached, *_ = self_attention(params, x, 0, None, empty, "float32")
    np.testing.assert_allclose(layer(x), cached, rtol=1e-4, atol=1e-5)
    if jax.default_backend() == "cpu":
        assert f"{length},{length}]" not in str(jax.make_jaxpr(layer)(x))
        assert f"{length},{length}]" in str(
            jax.make_jaxpr(lambda x: self_attention(params, x, 0, None, empty, "float32"))(x)
        )
