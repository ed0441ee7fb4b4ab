"""One vector from a sequence: its last state, the mean of all, or a weighted mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from seqjax.layers.precision import contract


def pool_last(h_BxTxH: Array, mask_BxT: Array) -> Array:
    """h at the last element that the mask keeps: BxH."""
    last_B = mask_BxT.shape[1] - 1 - jnp.argmax(mask_BxT[:, ::-1], axis=1)
    return jnp.take_along_axis(h_BxTxH, last_B[:, None, None], axis=1)[:, 0]


def pool_mean(h_BxTxH: Array, mask_BxT: Array) -> Array:
    """Mean of h over the elements that the mask keeps: BxH."""
    count_Bx1 = jnp.maximum(mask_BxT.sum(axis=1, keepdims=True), 1)
    return jnp.where(mask_BxT[:, :, None], h_BxTxH, 0.0).sum(axis=1) / count_Bx1


def pool_attention(h_BxTxH: Array, mask_BxT: Array, W_HxA: Array, b_A: Array, u_A: Array) -> Array:
    """sum_t a_t h_t with a = softmax over t of u . tanh(W h_t + b): BxH (Yang et al. 2016, NAACL, equations 5 to 7)."""
    e_BxT = jnp.tanh(contract("BTH,HA->BTA", h_BxTxH, W_HxA, h_BxTxH.dtype) + b_A[None, None]) @ u_A
    a_BxT = jax.nn.softmax(jnp.where(mask_BxT, e_BxT, jnp.finfo(e_BxT.dtype).min), axis=-1)
    return jnp.einsum("BT,BTH->BH", a_BxT, h_BxTxH)
