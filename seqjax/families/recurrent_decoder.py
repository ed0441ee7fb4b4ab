"""The decoder of recurrent families: stacked cells that read a memory, the states of an encoder.

These functions are methods of `seqjax.families.recurrent.Recurrent`, whose cells they call.

A decoder without attention (Cho et al. 2014, arXiv 1406.1078) has the mean of the memory m_1 .. m_S as the context c of
every step. A decoder with attention (Bahdanau et al. 2015, arXiv 1409.0473, equations 4 to 6 and appendix A.2.2) has

    e_tj = v . tanh(W_s s_{t-1} + W_m m_j),  a_t = softmax(e_t),  c_t = sum_j a_tj m_j
    s_t  = cell(s_{t-1}, [y_{t-1}, c_t]),    s_0 = tanh(W_0 mean(m) + b_0)
    o_t  = tanh(W_out [s_t, c_t, y_{t-1}] + b_out)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.families.family import Output
from seqjax.layers.attention import additive_attention
from seqjax.layers.dense import Params, draw_normal, dropout, stack_init
from seqjax.layers.norms import normalize
from seqjax.layers.pooling import pool_mean
from seqjax.layers.precision import contract
from seqjax.layers.sharing import gathered
from seqjax.through_time.cell import output
from seqjax.through_time.nonlinear import unroll

Cells = Any  # a seqjax.families.recurrent.Recurrent
State = Any  # a pytree of BxH arrays; of all layers LxBxH
Memory = dict[str, Array]


def init_decoder(cells: Cells, key: Array, context: int, attention: bool) -> Params:
    """{"first": the cell over [y, c]; "layers": the L - 1 cells above it, if any; "W_0", "b_0" of the first state;
    "W_out", "b_out"; with attention "W_s" HxA, "W_m" MxA, "v" A with A = H}."""
    d_model, d_hidden, width = cells.d_model, cells.hidden, cells.width(causal=False)
    key_first, key_layers, key_rest = jax.random.split(key, 3)
    params = {"first": cells.init_cell(key_first, d_model + width)}
    if cells.n_layers > 1:
        params["layers"] = stack_init(partial(cells.init_cell, d_in=d_hidden), cells.n_layers - 1)(key_layers)
    params |= {name: init(key_layers) for name, init in cells.init_norms().items()}
    weights = {"W_0": (width, cells.n_layers * d_hidden), "W_out": (d_hidden + width + d_model, d_model)}
    if attention:
        weights |= {"W_s": (d_hidden, d_hidden), "W_m": (width, d_hidden), "v": (d_hidden,)}
    params |= draw_normal(key_rest, **{name: (shape[0] ** -0.5, shape) for name, shape in weights.items()})
    return params | {"b_0": jnp.zeros(cells.n_layers * d_hidden), "b_out": jnp.zeros(d_model)}


def memory(cells: Cells, params: Params, m_BxSxM: Array, mask_BxS: Array, dtype: DTypeLike) -> dict[str, Array]:
    """What the decoder reads: the encoder's states "m" BxSxM and the "mask" BxS."""
    return {"m": m_BxSxM, "mask": mask_BxS}


def start_decoder(cells: Cells, params: Params, memory: Memory, context: int, dtype: DTypeLike) -> State:
    """h of every layer = tanh(W_0 mean(m) + b_0), other arrays of the state zero; LxBxH."""
    mean_BxM = pool_mean(memory["m"], memory["mask"])
    h_BxLH = jnp.tanh(mean_BxM @ params["W_0"] + params["b_0"][None])
    h_LxBxH = h_BxLH.reshape(len(h_BxLH), cells.n_layers, -1).swapaxes(0, 1)
    zero = cells.zero_state(len(h_BxLH))
    first, *others = jax.tree.leaves(zero)
    return jax.tree.unflatten(jax.tree.structure(zero), [h_LxBxH.astype(first.dtype), *others])


def decode(
    cells: Cells,
    params: Params,
    y_TxBxD: Array,
    state: State,
    memory: Memory,
    key: Array | None,
    dtype: DTypeLike,
) -> Output:
    """The stacked cells over [y_{t-1}, c_t]: o_BxTxD and the state after.

    Dropout applies to y_{t-1} for the first layer, to the inputs of those above, and to what is read.
    """
    of_layer = [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in range(cells.n_layers)]
    dropped_TxBxD = dropout(y_TxBxD, key, 0, cells.dropout)
    first, h_TxBxH, c_TxBxM = _first_layer(cells, params, dropped_TxBxD, of_layer[0], memory, dtype)
    of_layer[0] = first
    for index in range(1, cells.n_layers):
        layer, norm = jax.tree.map(lambda leaf, i=index: leaf[i - 1], (params["layers"], params.get("norms")))
        x_TxBxH = dropout(normalize(cells.norm, norm, h_TxBxH), key, index, cells.dropout)
        layer = gathered(layer)
        above_TxBxH, of_layer[index] = unroll(cells, layer, x_TxBxH, of_layer[index], dtype, cells.recurrence)
        h_TxBxH = cells.joined(h_TxBxH, above_TxBxH)
    read = jnp.concatenate([z.swapaxes(0, 1) for z in (h_TxBxH, c_TxBxM, y_TxBxD)], axis=-1)
    read = dropout(read, key, cells.n_layers, cells.dropout)
    o_BxTxD = jnp.tanh(contract("BTR,RD->BTD", read, params["W_out"], dtype) + params["b_out"][None, None])
    return Output(o_BxTxD, jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_layer))


def _first_layer(
    cells: Cells, params: Params, y_TxBxD: Array, state: State, memory: Memory, dtype: DTypeLike
) -> tuple[State, Array, Array]:
    """The last state, h_TxBxH and c_TxBxM. W_x [y, c] = W_y y + W_c c: the first for all times at once."""
    cell, m_BxSxM, mask_BxS = params["first"], memory["m"], memory["mask"]
    W_y, W_c = cell["W_x"][: cells.d_model], cell["W_x"][cells.d_model :]
    gates_y_TxBxG = cells.project({**cell, "W_x": W_y}, y_TxBxD, dtype)
    if "v" not in params:
        c_BxM = pool_mean(m_BxSxM, mask_BxS)
        gates_TxBxG = gates_y_TxBxG + contract("BM,MG->BG", c_BxM, W_c, dtype)[None]
        c_TxBxM = jnp.broadcast_to(c_BxM[None], (len(y_TxBxD), *c_BxM.shape))

        def step(state: State, gates_BxG: Array) -> tuple[State, Array]:
            state = cells.step(cell, state, gates_BxG, dtype)
            return state, output(state)

        last, h_TxBxH = lax.scan(step, state, gates_TxBxG)
        return last, h_TxBxH, c_TxBxM
    keys_BxSxA = contract("BSM,MA->BSA", m_BxSxM, params["W_m"], dtype)

    def attend_and_step(state: State, gates_y_BxG: Array) -> tuple[State, tuple[Array, Array]]:
        query_BxA = contract("BH,HA->BA", output(state), params["W_s"], dtype)
        c_BxM = additive_attention(query_BxA, keys_BxSxA, params["v"], m_BxSxM, mask_BxS)
        state = cells.step(cell, state, gates_y_BxG + contract("BM,MG->BG", c_BxM, W_c, dtype), dtype)
        return state, (output(state), c_BxM)

    last, (h_TxBxH, c_TxBxM) = lax.scan(attend_and_step, state, gates_y_TxBxG)
    return last, h_TxBxH, c_TxBxM
