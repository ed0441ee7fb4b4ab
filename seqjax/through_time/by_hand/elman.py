"""Backward pass of the Elman network; the equations are in `seqjax.families.elman`.

Only the states are kept.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers import native
from seqjax.layers.dense import Params
from seqjax.layers.precision import contract
from seqjax.through_time.backprop import Backprop, Compiled


def advance(params: Params, h_BxH: Array, gates_x_BxH: Array, dtype: DTypeLike) -> tuple[Array, None]:
    """h_t; nothing is kept."""
    return jnp.tanh(gates_x_BxH + contract("BH,HG->BG", h_BxH, params["W_h"], dtype)), None


def slopes(params: Params, before_TxBxH: Array, h_TxBxH: Array, kept: None) -> Array:
    """dh_t / dgate_t = 1 - h_t^2."""
    return 1 - h_TxBxH * h_TxBxH


def retreat(params: Params, d_h_BxH: Array, slope_BxH: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """delta_t = dL/dgate_t, and dL/dh_{t-1} = W_h^T delta_t."""
    d_gates_BxH = d_h_BxH * slope_BxH
    return d_gates_BxH, contract("BG,HG->BH", d_gates_BxH, params["W_h"], dtype)


def gradients(
    params: Params, before_TxBxH: Array, kept: None, d_gates_TxBxH: Array, dtype: DTypeLike
) -> tuple[Array, Params]:
    """The deltas are the gradient of gates_x; dL/dW_h = sum_t h_{t-1} delta_t."""
    return d_gates_TxBxH, {"W_h": contract("TBH,TBG->HG", before_TxBxH, d_gates_TxBxH, dtype)}


def compiled_forward(params: Params, gates_x_TxBxH: Array, h_BxH: Array) -> tuple[Array, Array, None]:
    """The last state and all states."""
    (h_TxBxH,) = native.call("elman_forward", (gates_x_TxBxH,), gates_x_TxBxH, params["W_h"], h_BxH)
    return h_TxBxH[-1], h_TxBxH, None


def compiled_backward(
    params: Params, first: Array, h_TxBxH: Array, kept: None, d_h_TxBxH: Array, d_last: Array
) -> tuple[Array, Array]:
    """The gradient of the first state, and the deltas."""
    deltas, d_first = native.call("elman_backward", (h_TxBxH, d_last), h_TxBxH, params["W_h"], d_h_TxBxH, d_last)
    return d_first, deltas


COMPILED = Compiled(lambda params: True, compiled_forward, compiled_backward)
BACKPROP = Backprop(advance, slopes, retreat, gradients, COMPILED)
