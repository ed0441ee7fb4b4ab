"""Simple recurrent network of Elman (1990), "Finding structure in time", Cognitive Science 14.

    h_t = tanh(W_h h_{t-1} + W_x x_t + b)

Parameters: W_x DxH, W_h HxH, b H. State: h BxH. Vectors are rows here, so the code has x W where the equation has W x.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells.cell import Backprop, Cell, Params, init_gates, project_gates
from seqjax.cells.precision import contract
from seqjax.config import RecurrentConfig


def init(key: Array, d_in: int, d_hidden: int, config: RecurrentConfig) -> Params:
    """Fresh parameters, float32; `b` only with `config.bias`."""
    return init_gates(key, d_in, d_hidden, n_gates=1, bias=config.bias)


def initial_state(batch: int, d_hidden: int) -> Array:
    """h_BxH of zeros, float32."""
    return jnp.zeros((batch, d_hidden), jnp.float32)


def step(params: Params, h_BxH: Array, gates_x_BxH: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """h_t from h_{t-1} and gates_x = W_x x_t + b."""
    h_BxH = jnp.tanh(gates_x_BxH + contract("BH,HG->BG", h_BxH, params["W_h"], dtype))
    return h_BxH, h_BxH


def advance(params: Params, h_BxH: Array, gates_x_BxH: Array, dtype: DTypeLike) -> tuple[Array, None]:
    """h_t; nothing else is needed on the way back."""
    return step(params, h_BxH, gates_x_BxH, dtype)[0], None


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


CELL = Cell("elman", init, initial_state, project_gates, step, Backprop(advance, slopes, retreat, gradients))
