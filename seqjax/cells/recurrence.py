"""A cell through time."""

from __future__ import annotations

import jax
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.cells.cell import Cell, Params, State
from seqjax.cells.precision import carry_dtype


def unroll(cell: Cell, params: Params, x_TxBxD: Array, state: State, dtype: DTypeLike) -> tuple[Array, State]:
    """Run `cell` over T time steps by `lax.scan`: the reference for every faster way.

    Args:
      cell: one of `seqjax.cells.CELLS`.
      params: its parameters.
      x_TxBxD: inputs, time first.
      state: state before the first step, a pytree of BxH arrays.
      dtype: dtype of the matmuls; state and gates are float32 (or wider, as `dtype`).

    Returns:
      h_TxBxH in `dtype`, and the state after the last step in float32 (or wider).
    """
    gates_x_TxBxG = cell.project(params, x_TxBxD, dtype)
    state = jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), state)

    def step(state: State, gates_x_BxG: Array) -> tuple[State, Array]:
        state, h_BxH = cell.step(params, state, gates_x_BxG, dtype)
        return state, h_BxH.astype(dtype)

    state, h_TxBxH = lax.scan(step, state, gates_x_TxBxG)
    return h_TxBxH, state
