"""The causal self-attention of attention.cc: everything between the two products with weights."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers import native

WIDEST = 16  # floats of a vector register


def usable(dtype: DTypeLike) -> bool:
    """Whether the compute dtype is float32 and the compiled function is available."""
    return jnp.dtype(dtype) == jnp.float32 and native.in_use()


def self_attention(
    qkv_BxTxE: Array,
    bias_E: Array | None,
    gains: tuple[Array, Array] | None,
    angles_TxK: Array | None,
    n_heads: int,
    q_scale: float = 1.0,
) -> Array:
    """softmax(Q K^T / sqrt(K)) V over the keys up to each query, for every head; float32 BxTx(N K).

    Args:
      qkv_BxTxE: queries, keys and values of the N heads one after another, E = 3 N K.
      bias_E: added to them; None: nothing.
      gains: RMSNorm of every head's queries and keys with these gains [K]; None: no norm.
      angles_TxK: then queries and keys are rotated by these angles Tx(K/2); None: no rotation.
      q_scale: then queries are multiplied by it.
    """
    none, d_head = jnp.zeros(0, jnp.float32), qkv_BxTxE.shape[-1] // (3 * n_heads)
    turns = none
    if angles_TxK is not None:
        turns = jnp.stack([jnp.cos(angles_TxK.T), jnp.sin(angles_TxK.T)])
        turns = jnp.pad(turns, [(0, 0), (0, 0), (0, -turns.shape[-1] % WIDEST)])  # whole vectors are read
    bias_E = none if bias_E is None else bias_E.astype(jnp.float32)
    gains_K = none if gains is None else jnp.concatenate(gains).astype(jnp.float32)
    return _attention(n_heads, q_scale * d_head**-0.5, qkv_BxTxE, bias_E, gains_K, turns)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(n_heads: int, scale: float, qkv: Array, bias: Array, gains: Array, turns: Array) -> Array:
    return _forward(n_heads, scale, qkv, bias, gains, turns)[0]


def _forward(n_heads: int, scale: float, *operands: Array) -> tuple[Array, tuple[Array, ...]]:
    n_rows, n_times, width = operands[0].shape
    log_sum_BxNxT = jax.ShapeDtypeStruct((n_rows, n_heads, n_times), jnp.float32)
    results = native.like(operands[0], width // 3), log_sum_BxNxT
    y, log_sum = native.call("attention_forward", results, *operands, scale=np.float32(scale))
    return y, (*operands, y, log_sum)


def _backward(n_heads: int, scale: float, kept: tuple[Array, ...], d_y: Array) -> tuple[Array, ...]:
    grads = native.call("attention_backward", kept[:3], *kept, d_y, scale=np.float32(scale))
    return *grads, jnp.zeros_like(kept[3])


_attention.defvjp(_forward, _backward)
