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

from seqjax.cells.cell import Backprop, Cell, Params, activate, init_gates, project_gates
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


def advance(params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[State, Array]:
    """As `step`; keeps the activations i, f, g, o side by side."""
    h_BxH, c_BxH = state
    gates_BxG = gates_x_BxG + contract("BH,HG->BG", h_BxH, params["W_h"], dtype)
    kept_BxG = activate(gates_BxG, is_sigmoid=(True, True, False, True))
    i, f, g, o = jnp.split(kept_BxG, 4, axis=-1)
    c_BxH = f * c_BxH + i * g
    return (o * jnp.tanh(c_BxH), c_BxH), kept_BxG


def slopes(params: Params, before: State, after: State, kept_TxBxG: Array) -> tuple[Array, Array, Array]:
    """Of the gates before activation with respect to c_t (i, f, g) and to h_t (o), TxBxG; dh_t / dc_t; dc_t / dc_{t-1}.

    With i' = i (1 - i) and g' = 1 - g^2:  dc/di = g i',  dc/df = c_{t-1} f',  dc/dg = i g',  dh/do = tanh(c_t) o'.
    """
    i, f, g, o = jnp.split(kept_TxBxG, 4, axis=-1)
    tanh_c_TxBxH = jnp.tanh(after[1])
    of_gates = (g * i * (1 - i), before[1] * f * (1 - f), i * (1 - g * g), tanh_c_TxBxH * o * (1 - o))
    return jnp.concatenate(of_gates, axis=-1), o * (1 - tanh_c_TxBxH * tanh_c_TxBxH), f


def retreat(
    params: Params, d_state: State, slopes: tuple[Array, Array, Array], dtype: DTypeLike
) -> tuple[Array, State]:
    """delta_t = dL/dgates_t, BxG, and dL/d(h_{t-1}, c_{t-1})."""
    (d_h_BxH, d_c_BxH), (slope_BxG, dh_dc, f) = d_state, slopes
    d_c_BxH = d_c_BxH + d_h_BxH * dh_dc
    to_c_BxG, to_h_BxH = jnp.split(slope_BxG, [3 * f.shape[-1]], axis=-1)
    d_gates_BxG = jnp.concatenate([to_c_BxG * jnp.tile(d_c_BxH, (1, 3)), to_h_BxH * d_h_BxH], axis=-1)
    return d_gates_BxG, (contract("BG,HG->BH", d_gates_BxG, params["W_h"], dtype), d_c_BxH * f)


def gradients(
    params: Params, before: State, kept_TxBxG: Array, d_gates_TxBxG: Array, dtype: DTypeLike
) -> tuple[Array, Params]:
    """The deltas are the gradient of gates_x; dL/dW_h = sum_t h_{t-1} delta_t."""
    return d_gates_TxBxG, {"W_h": contract("TBH,TBG->HG", before[0], d_gates_TxBxG, dtype)}


CELL = Cell("lstm", init, initial_state, project_gates, step, Backprop(advance, slopes, retreat, gradients))
