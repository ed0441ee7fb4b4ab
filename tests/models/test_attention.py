"""Attention and rotary positions against float64 numpy and torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.layers.attention import attend, init_attention, self_attention
from seqjax.layers.rotary import rotary_angles, rotate

T, S, K = 5, 7, 8


def example():
    rng = np.random.default_rng(0)
    q, k, v = (3 * rng.standard_normal((n, K)) for n in (T, S, S))
    return q, k, v, np.arange(S)[None, :] <= np.arange(T)[:, None] + 2


def reference(q, k, v, mask):
    """Row by row over the visible keys only."""
    rows = []
    for query, visible in zip(q, mask, strict=True):
        scores = k[visible] @ query / np.sqrt(len(query))
        weights = np.exp(scores - scores.max())
        rows.append(weights / weights.sum() @ v[visible])
    return np.stack(rows)


def test_attend_is_the_equation():
    q, k, v, mask = example()
    want = reference(q, k, v, mask)
    with jax.enable_x64(True):
        np.testing.assert_allclose(attend(*map(jnp.asarray, (q, k, v, mask)), "float64"), want, rtol=1e-12)
    q, k, v = (jnp.asarray(a, jnp.float32) for a in (q, k, v))
    np.testing.assert_allclose(attend(q, k, v, mask), want, rtol=1e-5, atol=1e-5)
    narrow = attend(q, k, v, mask, "bfloat16")
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, want, atol=0.1)


def test_attend_is_torch_scaled_dot_product_attention():
    torch = pytest.importorskip("torch")
    *qkv, mask = example()
    weights = np.random.default_rng(1).standard_normal((T, K))
    tensors = [torch.tensor(a, requires_grad=True) for a in qkv]
    want = torch.nn.functional.scaled_dot_product_attention(*(t[None] for t in tensors), torch.tensor(mask)[None])[0]
    (want * torch.tensor(weights)).sum().backward()
    with jax.enable_x64(True):
        got, pullback = jax.vjp(jax.jit(lambda *qkv: attend(*qkv, mask, "float64")), *map(jnp.asarray, qkv))
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-10)
        for grad, tensor in zip(pullback(jnp.asarray(weights)), tensors, strict=True):
            np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-9, atol=1e-12)


def turn(x, angles):
    """Rotary positions as complex numbers: the halves of x are real and imaginary parts."""
    turned = (x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


@pytest.mark.parametrize("rotary", [False, True])
def test_heads_are_independent_attentions(rotary):
    """Multi-head attention is `attend` on each head's own slice, each written to the output by its own slice of W_o.

    Rotary positions turn queries and keys, not values.
    """
    d_model, n_heads, batch = 8, 2, 3
    angles = np.arange(T)[:, None] * np.array([[1.0, 0.01]]) if rotary else None
    params = jax.eval_shape(lambda: init_attention(jax.random.key(0), d_model, n_heads, True, 1.0, 1.0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), params)
    x = jnp.asarray(rng.standard_normal((batch, T, d_model)), jnp.float32)
    given = rotary_angles(jnp.arange(T), d_model // n_heads) if rotary else None
    got, cache, _ = jax.jit(lambda params, x: self_attention(params, x, 0, given, None, "float32"))(params, x)
    assert cache is None
    p, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
    mask = np.tril(np.ones((T, T), bool))
    want = np.zeros(x.shape) + p["b_o"]
    for b in range(batch):
        for n in range(n_heads):
            q, k, v = (x[b] @ p["W_qkv"][:, c, n] + p["b_qkv"][c, n] for c in range(3))
            q, k = (turn(q, angles), turn(k, angles)) if rotary else (q, k)
            want[b] += reference(q, k, v, mask) @ p["W_o"][n]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_rotation_is_complex_multiplication():
    x = np.random.default_rng(0).standard_normal((1, 1, T, K))
    positions = np.array([0, 1, 5, 100, 2047])
    angles = positions[:, None] * 10000.0 ** (-2 * np.arange(K // 2) / K)[None, :]
    got = rotate(jnp.asarray(x, jnp.float32), rotary_angles(jnp.asarray(positions), K))
    np.testing.assert_allclose(got, turn(x, angles), atol=2e-4)
    np.testing.assert_array_equal(got[0, 0, 0], x[0, 0, 0].astype(np.float32))


def test_rotary_products_depend_on_distance_only():
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, K)) for i in range(2))

    def product(m, n):
        return float(jnp.sum(rotate(q, rotary_angles(jnp.array([m]), K)) * rotate(k, rotary_angles(jnp.array([n]), K))))

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    for late in (4094, 3_000_000, 2_000_000_000):  # 4,094: on both sides of the end of a block
        assert product(7, 3) == pytest.approx(product(late + 4, late), abs=5e-4)
    assert abs(product(7, 3) - product(8, 3)) > 1e-2


@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (2, 3, 3, 2), (3, 3, 2, 1)])
def test_gradients_of_tiny_heads_compile(shape):
    """XLA's CPU compiler aborts on batched products of some such shapes when they are turned round."""
    mask_TxT = jnp.tril(jnp.ones((shape[-2], shape[-2]), bool))
    heads = jax.vmap(jax.vmap(lambda q, k, v: attend(q, k, v, mask_TxT)))
    q, k, v = jnp.ones((3, *shape))
    grads = jax.jit(jax.grad(lambda *qkv: (heads(*qkv) * jnp.arange(q.size).reshape(shape)).sum(), (0, 1, 2)))(q, k, v)
    assert all(np.isfinite(grad).all() for grad in grads)
