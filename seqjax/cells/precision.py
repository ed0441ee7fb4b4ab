"""Matrix products in a chosen compute precision with float32 results."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def contract(spec: str, a: Array, b: Array, dtype: DTypeLike) -> Array:
    """Two-operand einsum: operands rounded to `dtype`, products summed and returned in float32 or wider.

    The gradients keep the same promise: the cotangent is rounded to `dtype` for its matmul and each gradient is summed
    in float32, so a float32 weight gets a float32 gradient. (Plain differentiation would multiply the float32
    cotangent with a bfloat16 operand, which is a slow float32 matmul on an accelerator.)

    Args:
      spec: einsum of two operands without ellipsis, every letter of which appears in two of its three terms.
      a, b: floating-point operands of any dtype.
      dtype: compute dtype. In float32 and wider this is plain `einsum`, differentiable any number of times in both
        modes; in narrower types only reverse mode is defined.
    """
    dtype = jnp.dtype(dtype)
    if dtype.itemsize >= 4:
        return jnp.einsum(spec, a.astype(dtype), b.astype(dtype))
    return _narrow_contract(spec, dtype, a, b)


def _narrow_einsum(spec: str, dtype: DTypeLike, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _narrow_contract(spec: str, dtype: DTypeLike, a: Array, b: Array) -> Array:
    return _narrow_einsum(spec, dtype, a, b)


def _narrow_forward(spec: str, dtype: DTypeLike, a: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    like_a, like_b = jnp.empty((0,), a.dtype), jnp.empty((0,), b.dtype)
    a, b = a.astype(dtype), b.astype(dtype)
    return _narrow_einsum(spec, dtype, a, b), (a, b, like_a, like_b)


def _narrow_backward(spec: str, dtype: DTypeLike, residuals: tuple[Array, ...], d_out: Array) -> tuple[Array, Array]:
    a, b, like_a, like_b = residuals
    operands, out = spec.split("->")
    in_a, in_b = operands.split(",")
    d_a = _narrow_einsum(f"{out},{in_b}->{in_a}", dtype, d_out, b)
    d_b = _narrow_einsum(f"{in_a},{out}->{in_b}", dtype, a, d_out)
    return d_a.astype(like_a.dtype), d_b.astype(like_b.dtype)


_narrow_contract.defvjp(_narrow_forward, _narrow_backward)


def carry_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which state is carried: float32, or `dtype` where that is wider."""
    return jnp.promote_types(dtype, jnp.float32)
