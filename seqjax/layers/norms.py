"""Normalization of the residual stream."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from seqjax.layers.dense import Params
from seqjax.layers.native import rows
from seqjax.layers.precision import carry_dtype

NORM_EPSILON = 1e-5


def init_norm(kind: str, d_model: int, bias: bool) -> Params:
    """{"gain": D ones}; a layernorm with `bias` adds {"bias": D zeros}. Kind is "layernorm" or "rmsnorm"."""
    params = {"gain": jnp.ones(d_model)}
    if bias and kind == "layernorm":
        params["bias"] = jnp.zeros(d_model)
    return params


def normalize(kind: str, params: Params, x_BxTxD: Array, epsilon: float = NORM_EPSILON) -> Array:
    """Normalization over the last axis in float32 (or wider): gain * (x - mean) / sqrt(variance + epsilon) + bias.

    "layernorm" is Ba et al. (2016), arXiv 1607.06450, equation 4; "rmsnorm" is Zhang & Sennrich (2019),
    arXiv 1910.07467, equation 4: the mean is not subtracted and there is no bias, and x may have more axes; "none"
    returns x.
    """
    if kind == "none":
        return x_BxTxD
    x_BxTxD = x_BxTxD.astype(carry_dtype(x_BxTxD.dtype))
    if kind == "layernorm":
        x_BxTxD = x_BxTxD - jnp.mean(x_BxTxD, axis=-1, keepdims=True)
    mean_square_BxTx1 = jnp.mean(x_BxTxD * x_BxTxD, axis=-1, keepdims=True)
    gain_1x1xD = params["gain"].reshape((1,) * (x_BxTxD.ndim - 1) + (-1,))
    y_BxTxD = x_BxTxD * lax.rsqrt(mean_square_BxTx1 + epsilon) * gain_1x1xD
    return y_BxTxD + params["bias"][None, None, :] if "bias" in params else y_BxTxD


def branch(kind: str, params: Params, x_BxTxD: Array, epsilon: float = NORM_EPSILON) -> tuple[Array, Array]:
    """x for the residual sum, and `normalize` of it for the sub-layer; in C++ where it is available."""
    if kind == "none" or epsilon != NORM_EPSILON or not rows.usable(x_BxTxD, x_BxTxD.dtype):
        return x_BxTxD, normalize(kind, params, x_BxTxD, epsilon)
    return rows.branch(kind, x_BxTxD, params["gain"], params.get("bias", jnp.zeros(0, jnp.float32)))
