"""Matmuls in bfloat16 must sum in float32, backwards too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.layers.precision import carry_dtype, contract

RNG = np.random.default_rng(0)
A = RNG.standard_normal((3, 7, 5)).astype(np.float32)
B = RNG.standard_normal((5, 2, 4)).astype(np.float32)
SPEC = "BTD,DNK->BNTK"


def test_float32_is_einsum():
    want = np.einsum(SPEC, A.astype(np.float64), B.astype(np.float64))
    np.testing.assert_allclose(contract(SPEC, A, B, "float32"), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_rounds_operands_and_nothing_else(dtype):
    """The result is the exact einsum of the rounded operands, so its error is float32's, not bfloat16's."""
    a, b = (np.asarray(jnp.asarray(x, dtype), np.float64) for x in (A, B))
    out = contract(SPEC, jnp.asarray(A), jnp.asarray(B), dtype)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.einsum(SPEC, a, b), rtol=1e-5, atol=1e-5)

    weights = np.asarray(jnp.asarray(RNG.standard_normal(out.shape), dtype), np.float64)

    def loss(a, b):
        return jnp.sum(contract(SPEC, a, b, dtype) * weights.astype(np.float32))

    d_a, d_b = jax.grad(loss, argnums=(0, 1))(jnp.asarray(A), jnp.asarray(B))
    assert d_a.dtype == d_b.dtype == jnp.float32
    np.testing.assert_allclose(d_a, np.einsum("BNTK,DNK->BTD", weights, b), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_b, np.einsum("BTD,BNTK->DNK", a, weights), rtol=1e-5, atol=1e-5)


def test_long_sums_do_not_saturate():
    """In bfloat16 a sum of ones stops at 256; the gradient of a weight sums over all tokens."""
    x, w = jnp.ones((1, 1001, 1)), jnp.ones((1, 1))
    assert jax.grad(lambda w: contract("BTD,DF->BTF", x, w, "bfloat16").sum())(w) == 1001


def test_vmap_equals_each_alone():
    b = jnp.stack([B, 2 * B])

    def grad(b):
        return jax.grad(lambda b: jnp.sum(contract(SPEC, jnp.asarray(A), b, "bfloat16") ** 2))(b)

    np.testing.assert_allclose(jax.vmap(grad)(b), jnp.stack([grad(b[0]), grad(b[1])]), rtol=1e-6)


def test_carry_dtype():
    assert carry_dtype("bfloat16") == carry_dtype("float32") == jnp.float32
    assert carry_dtype("float64") == jnp.float64


def test_second_derivatives_where_the_product_is_turned_round():
    """Reverse over reverse of a matrix with more rows than columns, against plain einsum."""
    x, W = jax.random.normal(jax.random.key(0), (2, 4, 8)), jax.random.normal(jax.random.key(1), (8, 3))

    def curvature(product):
        gradient = jax.grad(lambda W: (product(W) ** 3).sum())
        return jax.grad(lambda W: (gradient(W) ** 2).sum())(W)

    got = curvature(lambda W: contract("BTF,FD->BTD", x, W, "float32"))
    want = curvature(lambda W: jnp.einsum("BTF,FD->BTD", x, W))
    np.testing.assert_allclose(got, want, rtol=1e-4)
