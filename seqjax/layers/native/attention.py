"""The causal attention of attention.cc."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers import native


def usable(q: Array, dtype: DTypeLike) -> bool:
    """Whether the dtypes are float32 and the compiled function is available."""
    return jnp.dtype(dtype) == jnp.float32 and q.dtype == jnp.float32 and native.in_use()


@jax.custom_vjp
def causal_attention(q_BxNxTxK: Array, k_BxNxTxK: Array, v_BxNxTxK: Array) -> Array:
    """softmax(Q K^T / sqrt(d_k)) V over the keys up to each query, for every head; float32 BxNxTxK."""
    return _forward(q_BxNxTxK, k_BxNxTxK, v_BxNxTxK)[0]


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    log_sum_BxNxT = jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32)
    y, log_sum = native.call("attention_forward", (q, log_sum_BxNxT), q, k, v)
    return y, (q, k, v, y, log_sum)


def _backward(kept: tuple[Array, ...], d_y: Array) -> tuple[Array, ...]:
    return tuple(native.call("attention_backward", kept[:3], *kept, d_y))


causal_attention.defvjp(_forward, _backward)
