"""Causal depthwise convolution over time: each channel sums its last few values with weights of its own.

y_t = sum_j w_j * x_{t - J + 1 + j} + b        j = 0 .. J - 1; w_j and b have one entry a channel, E in all
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from seqjax.layers.dense import Params, normal_init


def init_convolution(key: Array, taps: int, channels: int, std: float, bias: bool) -> Params:
    """{"kernel": JxE normal with `std`, "b": E zeros}; "b" only with `bias`. A kernel is no matrix: it is not in N."""
    params = {"kernel": normal_init(std, taps, channels)(key)}
    return params | {"b": jnp.zeros(channels)} if bias else params


def convolve(params: Params, x_BxTxE: Array, past_BxPxE: Array, mask_BxT: Array | None = None) -> tuple[Array, Array]:
    """y_BxTxE in the dtype of the past, and the last P = J - 1 values.

    Args:
      past_BxPxE: the values before x; zeros at the start of a sequence.
      mask_BxT: false for padding, which is read as zero. The values returned are the last ones before padding at the
        end.
    """
    kernel_JxE, n_times = params["kernel"], x_BxTxE.shape[1]
    x_BxTxE = x_BxTxE if mask_BxT is None else jnp.where(mask_BxT[:, :, None], x_BxTxE, 0.0)
    x_BxSxE = jnp.concatenate([past_BxPxE, x_BxTxE.astype(past_BxPxE.dtype)], axis=1)
    y_BxTxE = sum(w_E[None, None, :] * x_BxSxE[:, j : j + n_times] for j, w_E in enumerate(kernel_JxE))
    y_BxTxE = y_BxTxE + params["b"][None, None, :] if "b" in params else y_BxTxE
    n_past = past_BxPxE.shape[1]
    if mask_BxT is None:
        return y_BxTxE, x_BxSxE[:, n_times:]
    last_BxP = mask_BxT.sum(axis=1)[:, None] + jnp.arange(n_past)[None, :]
    return y_BxTxE, jnp.take_along_axis(x_BxSxE, last_BxP[:, :, None], axis=1)
