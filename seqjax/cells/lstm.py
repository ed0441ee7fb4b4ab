"""Long short-term memory of Hochreiter & Schmidhuber (1997), Neural Computation 9(8), with the forget gate of Gers,
Schmidhuber & Cummins (2000), Neural Computation 12(10).

    i_t = sigmoid(W_i [h_{t-1}, x_t] + b_i)        input gate
    f_t = sigmoid(W_f [h_{t-1}, x_t] + b_f)        forget gate
    g_t = tanh   (W_g [h_{t-1}, x_t] + b_g)        candidate
    o_t = sigmoid(W_o [h_{t-1}, x_t] + b_o)        output gate
    c_t = f_t * c_{t-1} + i_t * g_t
    h_t = o_t * tanh(c_t)

The product with the concatenation [h, x] is split into W_h h + W_x x, with the four gates side by side in the order
i, f, g, o (torch's). Parameters: W_x DxG, W_h HxG, b G with G = 4H. State: (h, c), both BxH. Vectors are rows here, so
the code has x W where the equations have W x.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells.cell import Cell, Params, init_gates, project_gates
from seqjax.cells.precision import contract
from seqjax.config import RecurrentConfig

State = tuple[Array, Array]


def init(key: Array, d_in: int, d_hidden: int, config: RecurrentConfig) -> Params:
    """Fresh parameters, float32; `b` only with `config.bias`.

    The forget gate's bias starts at `config.forget_bias`: 1 keeps the cell's memory open at the start
    (Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures").
    """
    params = init_gates(key, d_in, d_hidden, n_gates=4, bias=config.bias)
    if config.bias:
        params["b"] = params["b"].at[d_hidden : 2 * d_hidden].set(config.forget_bias)
    return params


def initial_state(batch: int, d_hidden: int) -> State:
    """(h_BxH, c_BxH) of zeros, float32."""
    return jnp.zeros((batch, d_hidden), jnp.float32), jnp.zeros((batch, d_hidden), jnp.float32)


def step(params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[State, Array]:
    """(h_t, c_t) and h_t from (h_{t-1}, c_{t-1}) and gates_x = W_x x_t + b."""
    h_BxH, c_BxH = state
    gates_BxG = gates_x_BxG + contract("BH,HG->BG", h_BxH, params["W_h"], dtype)
    i, f, g, o = jnp.split(gates_BxG, 4, axis=-1)
    c_BxH = jax.nn.sigmoid(f) * c_BxH + jax.nn.sigmoid(i) * jnp.tanh(g)
    h_BxH = jax.nn.sigmoid(o) * jnp.tanh(c_BxH)
    return (h_BxH, c_BxH), h_BxH


CELL = Cell(init, initial_state, project_gates, step)
