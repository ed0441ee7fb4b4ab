"""Backward pass of the LSTM; the equations are in `seqjax.families.lstm`.

The activations i, f, g, o of every step are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers import native
from seqjax.layers.dense import Params
from seqjax.layers.precision import contract
from seqjax.through_time.backprop import Backprop, Compiled, Kernel
from seqjax.through_time.gates import activate

State = tuple[Array, Array]


def advance(params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[State, Array]:
    """As `step`; keeps the activations [i, f, g, o], BxG."""
    h_BxH, c_BxH = state
    gates_BxG = gates_x_BxG + contract("BH,HG->BG", h_BxH, params["W_h"], dtype)
    kept_BxG = activate(gates_BxG, is_sigmoid=(True, True, False, True))
    i, f, g, o = jnp.split(kept_BxG, 4, axis=-1)
    c_BxH = f * c_BxH + i * g
    return (o * jnp.tanh(c_BxH), c_BxH), kept_BxG


def slopes(params: Params, before: State, after: State, kept_TxBxG: Array) -> tuple[Array, Array, Array]:
    """dc_t (i, f, g) or dh_t (o) by the gates before activation, TxBxG; dh_t / dc_t; dc_t / dc_{t-1}.

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


def compiled_forward(params: Params, gates_x_TxBxG: Array, state: State) -> tuple[State, State, Array]:
    """The last state, all states, and the activations."""
    h_TxBxH = native.like(gates_x_TxBxG, state[0].shape[-1])
    results = (h_TxBxH, h_TxBxH, gates_x_TxBxG)
    *states, kept_TxBxG = native.call("lstm_forward", results, gates_x_TxBxG, params["W_h"], *state)
    return (states[0][-1], states[1][-1]), tuple(states), kept_TxBxG


def compiled_backward(
    params: Params, first: State, states: State, kept_TxBxG: Array, d_h_TxBxH: Array, d_last: State
) -> tuple[State, Array]:
    """The gradient of the first state, and the deltas."""
    arguments = (kept_TxBxG, params["W_h"], first[1], states[1], d_h_TxBxH, *d_last)
    deltas, *d_first = native.call("lstm_backward", (kept_TxBxG, *d_last), *arguments)
    return tuple(d_first), deltas


def kernel_advance(
    gates_x: Sequence[Array], products: Sequence[Array], state: State, tanh: Callable[[Array], Array]
) -> tuple[State, list[Array]]:
    """As `advance`, one array for each gate."""
    i, f, g, o = (x + u for x, u in zip(gates_x, products, strict=True))
    i, f, o = (0.5 * tanh(0.5 * gate) + 0.5 for gate in (i, f, o))
    g = tanh(g)
    c_BxH = f * state[1] + i * g
    return (o * tanh(c_BxH), c_BxH), [i, f, g, o]


def kernel_retreat(
    d_state: State, kept: Sequence[Array], before: Array, after: Array, tanh: Callable[[Array], Array]
) -> tuple[list[Array], State]:
    """As `slopes` and `retreat`, from c before and after the step."""
    (d_h, d_c), (i, f, g, o), tanh_c = d_state, kept, tanh(after)
    d_c = d_c + d_h * o * (1 - tanh_c * tanh_c)
    d_o = d_h * tanh_c * o * (1 - o)
    deltas = [d_c * g * i * (1 - i), d_c * before * f * (1 - f), d_c * i * (1 - g * g), d_o]
    return deltas, (jnp.zeros_like(d_h), d_c * f)


COMPILED = Compiled(lambda params: True, compiled_forward, compiled_backward)
KERNEL = Kernel(
    name="lstm",
    knows=lambda params: True,
    n_gates=4,
    n_kept=4,
    n_deltas=4,
    reads=1,
    bias=lambda params: None,
    advance=kernel_advance,
    retreat=kernel_retreat,
    gradients=lambda params, h_TxBxH, deltas, dtype: gradients(params, (h_TxBxH,), None, deltas, dtype),
)
BACKPROP = Backprop(advance, slopes, retreat, gradients, COMPILED, KERNEL)
