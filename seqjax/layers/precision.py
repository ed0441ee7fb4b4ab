"""Matrix products in a chosen compute precision with float32 results."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.typing import DTypeLike


def contract(spec: str, a: Array, b: Array, dtype: DTypeLike) -> Array:
    """Two-operand einsum: operands rounded to `dtype`, products summed and returned in float32 or wider.

    The gradients (reverse mode) are written out for two reasons. First, precision: the cotangent is rounded to `dtype`
    for its matmul, and each gradient is summed in float32. JAX's own rule would multiply the float32 cotangent with a
    bfloat16 operand: a slow float32 matmul on an accelerator. Second, the order of axes: JAX's own rule gives the
    gradient of a weight matrix transposed, which on a CPU costs a copy of the cotangent and about twice the time
    (`experiments/benchmarks/pieces.py`).

    Args:
      spec: einsum of two operands without ellipsis; every letter appears in two of its three terms.
      a, b: floating-point operands of any dtype.
      dtype: compute dtype.
    """
    return _contract(spec, jnp.dtype(dtype), a, b)


def _einsum(spec: str, dtype: DTypeLike, a: Array, b: Array) -> Array:
    """The product. Below float32 its axes are put in order after it: XLA's CPU runtime refuses some bfloat16 products
    that write them in another order than batch, a's, b's (jax 0.10.2, "Unsupported element type for DotThunk")."""
    a, b, wide = a.astype(dtype), b.astype(dtype), carry_dtype(dtype)
    if wide == dtype:
        return jnp.einsum(spec, a, b, preferred_element_type=wide)
    operands, out = spec.split("->")
    in_a, in_b = operands.split(",")
    parts = ({*in_a} & {*in_b}, {*in_a} - {*in_b}, {*in_b} - {*in_a})
    order = "".join(letter for part in parts for letter in in_a + in_b if letter in out and letter in part)
    order = "".join(dict.fromkeys(order))
    product = jnp.einsum(f"{operands}->{order}", a, b, preferred_element_type=wide)
    return product if order == out else product.transpose([order.index(letter) for letter in out])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _contract(spec: str, dtype: DTypeLike, a: Array, b: Array) -> Array:
    return _einsum(spec, dtype, a, b)


def _forward(spec: str, dtype: DTypeLike, a: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    like_a, like_b = jnp.empty((0,), a.dtype), jnp.empty((0,), b.dtype)
    a, b = a.astype(dtype), b.astype(dtype)
    return _einsum(spec, dtype, a, b), (a, b, like_a, like_b)


def _backward(spec: str, dtype: DTypeLike, residuals: tuple[Array, ...], d_out: Array) -> tuple[Array, Array]:
    a, b, like_a, like_b = residuals
    operands, out = spec.split("->")
    in_a, in_b = operands.split(",")
    d_a = _einsum(f"{out},{in_b}->{in_a}", dtype, d_out, b)
    d_b = _weight_gradient(in_a, out, in_b, dtype, a, d_out)
    return d_a.astype(like_a.dtype), d_b.astype(like_b.dtype)


def _weight_gradient(in_a: str, out: str, in_b: str, dtype: DTypeLike, a: Array, d_out: Array) -> Array:
    """einsum(a, d_out -> b), with the operand that has fewer columns first.

    XLA copies the first operand of this product into its transpose, so the smaller one should be first. The barrier
    keeps XLA from swapping the operands back. Under `vmap` they are not swapped: XLA's CPU compiler aborts on some
    small batched products with swapped operands (jax 0.10.2, dot_op_emitter.cc).
    """
    size = dict(zip(in_a + out, a.shape + d_out.shape, strict=True))
    from_a = [letter for letter in in_b if letter not in out]
    from_out = [letter for letter in in_b if letter not in in_a]

    def as_written(a: Array, d_out: Array) -> Array:
        return _einsum(f"{in_a},{out}->{in_b}", dtype, a, d_out)

    @custom_vmap
    def turned(a: Array, d_out: Array) -> Array:
        product = "".join(from_out + from_a)
        d_b = _einsum(f"{out},{in_a}->{product}", dtype, d_out, a)
        return jnp.einsum(f"{product}->{in_b}", lax.optimization_barrier(d_b))

    @turned.def_vmap
    def over_runs(axis_size: int, batched: list[bool], a: Array, d_out: Array) -> tuple[Array, bool]:
        return jax.vmap(as_written, in_axes=[0 if one else None for one in batched])(a, d_out), True

    product = jax.custom_vjp(turned)  # its gradient is the gradient of `as_written`
    product.defvjp(lambda *args: (turned(*args), args), lambda args, d_b: jax.vjp(as_written, *args)[1](d_b))
    wide_a = math.prod(size[letter] for letter in from_a) > math.prod(size[letter] for letter in from_out)
    return product(a, d_out) if wide_a else as_written(a, d_out)


_contract.defvjp(_forward, _backward)


def carry_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of carried state: float32, or `dtype` if that is wider."""
    return jnp.promote_types(dtype, jnp.float32)
