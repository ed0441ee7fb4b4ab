"""The recurrences of recurrence.cc: what `seqjax.cells.recurrence` scans over time, in one call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax import native

Params = dict[str, Array]
State = Any


def usable(family: str, params: Params, dtype: DTypeLike, mask_TxB: Array | None) -> bool:
    """Whether these functions know the case: float32, no mask, reset gate after the product; and are there at all."""
    known = family in ("elman", "lstm", "gru") and "W_hn" not in params
    arrays = [leaf for name, leaf in params.items() if name in ("W_h", "b_hn")]
    float32 = jnp.dtype(dtype) == jnp.float32 and all(leaf.dtype == jnp.float32 for leaf in arrays)
    return known and float32 and mask_TxB is None and native.compiled()


def forward(family: str, params: Params, gates_x_TxBxG: Array, state: State) -> tuple[State, State, Any]:
    """The last state, the states after every step, and what the backward pass needs: as a scan of `Cell.advance`."""
    h_TxBxH = native.like(gates_x_TxBxG, jax.tree.leaves(state)[0].shape[-1])
    weights = params["W_h"]
    if family == "elman":
        (states,), kept = native.call("elman_forward", (h_TxBxH,), gates_x_TxBxG, weights, state), None
    elif family == "lstm":
        *states, kept = native.call("lstm_forward", (h_TxBxH, h_TxBxH, gates_x_TxBxG), gates_x_TxBxG, weights, *state)
        states = tuple(states)
    else:
        d_hidden = weights.shape[0]
        bias = params.get("b_hn", jnp.zeros(d_hidden, jnp.float32))
        results = (h_TxBxH, native.like(gates_x_TxBxG, 2 * d_hidden), h_TxBxH, h_TxBxH)
        states, *kept = native.call("gru_forward", results, gates_x_TxBxG, weights, bias, state)
        kept = tuple(kept)
    return jax.tree.map(lambda h_TxBxH: h_TxBxH[-1], states), states, kept


def backward(
    family: str, params: Params, first: State, states: State, kept: Any, d_h_TxBxH: Array, d_last: State
) -> tuple[State, Any]:
    """The gradient of the first state, and the deltas of every step: as a scan of `Cell.retreat`."""
    weights = params["W_h"]
    if family == "elman":
        deltas, d_first = native.call("elman_backward", (states, d_last), states, weights, d_h_TxBxH, d_last)
        return d_first, deltas
    if family == "lstm":
        arguments = (kept, weights, first[1], states[1], d_h_TxBxH, *d_last)
        deltas, *d_first = native.call("lstm_backward", (kept, *d_last), *arguments)
        return tuple(d_first), deltas
    results = (native.like(d_h_TxBxH, weights.shape[1]), d_h_TxBxH, d_last)
    *deltas, d_first = native.call("gru_backward", results, first, states, *kept, weights, d_h_TxBxH, d_last)
    return d_first, tuple(deltas)
