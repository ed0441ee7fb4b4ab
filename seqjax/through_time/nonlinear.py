"""A cell over T time steps: a plain scan, which is the reference, or the same recurrence with its own backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers.dense import Params
from seqjax.layers.precision import carry_dtype
from seqjax.through_time import on_chip
from seqjax.through_time.backprop import State
from seqjax.through_time.cell import Cell, output, over_time, seen
from seqjax.through_time.fast_and_lean import fast, lean
from seqjax.through_time.inputs import project
from seqjax.through_time.pieces import in_pieces

Tree = Any


def unroll(
    cell: Cell,
    params: Params,
    x_TxBxD: Array,
    state: State,
    dtype: DTypeLike,
    recurrence: str = "scan",
    mask_TxB: Array | None = None,
    truncate: int | None = None,
) -> tuple[Array, State]:
    """Run `cell` over T time steps.

    `truncate` = k truncates back-propagation through time. Time is cut into pieces of k steps (the last may be
    shorter). The state passes from piece to piece; gradients do not. A loss at the n-th step of a piece has gradients
    for that step and the n - 1 before it, and none for another piece (BPTT(h; h') of Williams & Peng 1990, Neural
    Computation 2(4), with h = h' = k; Elman 1990 is k = 1). Values are the same for every k. The state before the first
    step has the gradient of the first piece.

    Args:
      cell: the equations.
      params: its parameters, or the result of `tabulate`.
      x_TxBxD: inputs, time first; with tabulated parameters integer tokens, TxB.
      state: state before the first step, a pytree of BxH arrays.
      dtype: dtype of the matmuls; state and gates are float32 (or wider, as `dtype`).
      recurrence: "scan" (plain `lax.scan`, differentiated by JAX), or "fast" or "lean" (own backward pass, reverse mode
        only; see above), or "kernel" (as "fast"; all steps in one kernel where `on_chip.computes` it). A cell without
        `backprop` is always "scan".
      mask_TxB: bool; where it is false, the state and the output are unchanged.
      truncate: k, the time steps of a piece; None: no truncation.

    Returns:
      h_TxBxH in `dtype`, and the state after the last step in float32 (or wider).
    """
    state = jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), state)
    if recurrence == "scan" or cell.backprop is None:
        run = partial(_plain, cell, dtype, params)
    elif recurrence == "kernel" and on_chip.computes(cell, params, dtype):
        run = partial(on_chip.run, cell, jnp.dtype(dtype), params)
    elif recurrence in ("fast", "kernel"):
        run = partial(fast, cell, jnp.dtype(dtype), params)
    else:
        run = partial(lean, cell, jnp.dtype(dtype), params)
    if truncate is None or truncate >= len(x_TxBxD):
        h_TxBxH, last = run(x_TxBxD, state, mask_TxB)
    else:
        h_TxBxH, last = in_pieces(lambda xs, state: run(xs[0], state, xs[1]), truncate, (x_TxBxD, mask_TxB), state)
    return h_TxBxH.astype(dtype), last


def _plain(
    cell: Cell, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:
    """h_TxBxH and the last state by a scan that JAX differentiates."""

    def advance(state: State, gates_x_BxG: Array) -> tuple[State, None]:
        return cell.step(params, state, gates_x_BxG, dtype), None

    last, states, _ = over_time(advance, project(cell, params, x_TxBxD, dtype), state, mask_TxB)
    return output(states), last


def watch(
    cell: Cell, params: Params, x_TxBxD: Array, state: State, dtype: DTypeLike, mask_TxB: Array | None = None,
    nudges: Tree = None,
) -> tuple[Array, State, State, dict[str, Array]]:  # fmt: skip
    """As `unroll` with "scan"; also returns the states and the gates of every step.

    Args:
      nudges: added to the state after each step, TxBxH like the state; None: nothing is added.

    Returns:
      h_TxBxH in `dtype`; the last state; the states after every step and the gates by name, all TxBxH.
    """

    def step(state: State, inputs: tuple[Array, Array | None, Tree]) -> tuple[State, tuple[State, dict[str, Array]]]:
        gates_x_BxG, mask_B, nudge = inputs
        gates = cell.gates(params, state, gates_x_BxG, dtype)
        state = seen(mask_B, cell.step(params, state, gates_x_BxG, dtype), state)
        state = state if nudge is None else jax.tree.map(jnp.add, state, nudge)
        return state, (state, gates)

    state = jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), state)
    last, (states, gates) = lax.scan(step, state, (project(cell, params, x_TxBxD, dtype), mask_TxB, nudges))
    return output(states).astype(dtype), last, states, gates


def tabulate(cell: Cell, params: Params, embedding_VxD: Array, dtype: DTypeLike) -> Params:
    """Parameters for tokens as inputs: {"table": VxG, and the others unchanged}.

    W_x E[token] + b has only V different values. If V is less than T B, it is cheaper to compute them once and to look
    them up. The backward pass is cheaper too: the gradient of the table is a sum over equal tokens.
    """
    table_VxG = cell.project(params, embedding_VxD[None], dtype)[0]
    used = () if cell.backprop is None else ("W_x", "b")  # a `step` that JAX differentiates may read them too
    return {"table": table_VxG} | {name: leaf for name, leaf in params.items() if name not in used}
