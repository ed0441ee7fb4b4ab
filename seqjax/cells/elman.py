"""Simple recurrent network of Elman (1990), "Finding structure in time", Cognitive Science 14.

    h_t = tanh(W_h h_{t-1} + W_x x_t + b)

Parameters: W_x DxH, W_h HxH, b H. State: h BxH. Vectors are rows here, so the code has x W where the equation has W x.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells.cell import Cell, Params, init_gates, project_gates
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


CELL = Cell(init, initial_state, project_gates, step)
