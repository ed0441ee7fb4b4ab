"""A cell over T time steps: a plain scan, which is the reference, and the same recurrence with its own backward pass.

JAX's gradient of the plain scan computes the weight gradients in every time step, each a product of B rows, and keeps a
dozen arrays of the size of the state per step. But a cell's backward pass is linear in the incoming gradient, and its
factors depend only on the forward pass. So here

    forward    state_t, kept_t = advance(state_{t-1}, gates_x_t)
    slopes     the local derivatives of every step at once, without a recurrence
    backward   delta_t, d_state_{t-1} = retreat(d_state_t + d_h_t, slopes_t): one product and a few multiplications
    gradients  of weights and inputs from all the deltas, one large product each

"fast" keeps the activations of the gates. "lean" keeps only the states and recomputes the activations in chunks of
`CHUNK` time steps, in parallel within a chunk: its memory does not grow with T x G. A sequence that fits into one chunk
is always "fast".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers import native
from seqjax.layers.dense import Params
from seqjax.layers.precision import carry_dtype
from seqjax.through_time.backprop import Backprop, State
from seqjax.through_time.pieces import in_pieces

CHUNK = 64  # time steps in a chunk of "lean"
Tree = Any


class Cell(Protocol):
    """A recurrent cell; hashable, since it is a key of compiled programs. See `seqjax.families.recurrent.Recurrent`."""

    backprop: Backprop | None
    """A backward pass written by hand; None: JAX differentiates `step`."""

    def project(self, params: Params, x_TxBxD: Array, dtype: DTypeLike) -> Array:
        """gates_x_TxBxG, float32: the part of the step that does not depend on the state, for all T at once."""

    def step(self, params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> State:
        """The state after one step, float32; its first array is the output h."""

    def gates(self, params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> dict[str, Array]:
        """The gates of a step by name, each BxH."""


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
        only; see above). A cell without `backprop` is always "scan".
      mask_TxB: bool; where it is false, the state and the output are unchanged.
      truncate: k, the time steps of a piece; None: no truncation.

    Returns:
      h_TxBxH in `dtype`, and the state after the last step in float32 (or wider).
    """
    state = jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), state)
    if recurrence == "scan" or cell.backprop is None:
        run = partial(_plain, cell, dtype, params)
    elif recurrence == "fast" or len(x_TxBxD) <= CHUNK:
        run = partial(_fast, cell, jnp.dtype(dtype), params)
    else:
        run = partial(_in_chunks, cell, jnp.dtype(dtype), params)
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

    last, states, _ = _forward(advance, project(cell, params, x_TxBxD, dtype), state, mask_TxB)
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
        state = _seen(mask_B, cell.step(params, state, gates_x_BxG, dtype), state)
        state = state if nudge is None else jax.tree.map(jnp.add, state, nudge)
        return state, (state, gates)

    state = jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), state)
    last, (states, gates) = lax.scan(step, state, (project(cell, params, x_TxBxD, dtype), mask_TxB, nudges))
    return output(states).astype(dtype), last, states, gates


def tabulate(cell: Cell, params: Params, embedding_VxD: Array, dtype: DTypeLike) -> Params:
    """Parameters for tokens as inputs: {"table": VxG, and the recurrent weights unchanged}.

    W_x E[token] + b has only V different values. If V is less than T B, it is cheaper to compute them once and to look
    them up. The backward pass is cheaper too: the gradient of the table is a sum over equal tokens.
    """
    table_VxG = cell.project(params, embedding_VxD[None], dtype)[0]
    return {"table": table_VxG} | {name: leaf for name, leaf in params.items() if name not in ("W_x", "b")}


def project(cell: Cell, params: Params, x_TxBxD: Array, dtype: DTypeLike) -> Array:
    """gates_x_TxBxG, float32: the part of the gates that does not depend on the state, for all T at once."""
    return params["table"][x_TxBxD] if "table" in params else cell.project(params, x_TxBxD, dtype)


def output(state: State) -> Array:
    """h of a state: its first array, in every cell."""
    return jax.tree.leaves(state)[0]


def _seen(mask: Array | None, there: Tree, elsewhere: Tree) -> Tree:
    """`there` in rows where the mask is true, else `elsewhere`; None is true everywhere."""
    if mask is None:
        return there
    return jax.tree.map(lambda a, b: jnp.where(mask[..., None], a, b), there, elsewhere)


def _forward(
    advance: Callable[[State, Array], tuple[State, Tree]], gates_x_TxBxG: Array, state: State, mask_TxB: Array | None
) -> tuple[State, State, Tree]:
    """The last state, the states after every step, and the residuals of every step."""

    def step(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, tuple[State, Tree]]:
        gates_x_BxG, mask_B = inputs
        moved, kept = advance(state, gates_x_BxG)
        state = _seen(mask_B, moved, state)
        return state, (state, kept)

    last, (states, kept) = lax.scan(step, state, (gates_x_TxBxG, mask_TxB), unroll=native.steps_in_a_turn())
    return last, states, kept


def _backward(
    cell: Cell, dtype: DTypeLike, params: Params, before: State, after: State, kept: Tree, mask_TxB: Array | None,
    d_h_TxBxH: Array, d_last: State,
) -> tuple[State, Tree]:  # fmt: skip
    """The gradient of the first state, and the deltas of every step."""

    def step(d_state: State, inputs: tuple[Tree, Array, Array | None]) -> tuple[State, Tree]:
        slopes, d_h_BxH, mask_B = inputs
        (d_h, *d_others), structure = jax.tree.flatten(d_state)
        d_state = jax.tree.unflatten(structure, [d_h + d_h_BxH, *d_others])
        deltas, d_before = cell.backprop.retreat(params, d_state, slopes, dtype)
        return _seen(mask_B, d_before, d_state), _seen(mask_B, deltas, jax.tree.map(jnp.zeros_like, deltas))

    slopes = cell.backprop.slopes(params, before, after, kept)
    return lax.scan(step, d_last, (slopes, d_h_TxBxH, mask_TxB), reverse=True, unroll=native.steps_in_a_turn())


def _gradients(
    cell: Cell, dtype: DTypeLike, params: Params, x_TxBxD: Array, before: State, kept: Tree, deltas: Tree
) -> tuple[Params, Array | None]:
    """Gradients of all parameters, and of the inputs unless they are tokens."""
    d_gates_x_TxBxG, d_recurrent = cell.backprop.gradients(params, before, kept, deltas, dtype)
    if "table" in params:
        _, pull = jax.vjp(lambda p: project(cell, p, x_TxBxD, dtype), params)
        (d_params,), d_x = pull(d_gates_x_TxBxG), None
    else:
        _, pull = jax.vjp(lambda p, x: project(cell, p, x, dtype), params, x_TxBxD)
        d_params, d_x = pull(d_gates_x_TxBxG)
    return d_params | d_recurrent, d_x


def _shifted(first: State, states: State) -> State:
    """The states before every step, from the states after."""
    return jax.tree.map(lambda h, h_TxBxH: jnp.concatenate([h[None], h_TxBxH[:-1]]), first, states)


def _is_compiled(cell: Cell, params: Params, dtype: DTypeLike, mask_TxB: Array | None) -> bool:
    """Whether C++ computes this case: float32, no mask, a known variant, and the compiled code is available."""
    compiled = cell.backprop.compiled
    if compiled is None or mask_TxB is not None or jnp.dtype(dtype) != jnp.float32 or not compiled.knows(params):
        return False
    recurrent = [leaf for name, leaf in params.items() if name in ("W_h", "b_hn")]
    return all(leaf.dtype == jnp.float32 for leaf in recurrent) and native.in_use()


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fast(
    cell: Cell, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:
    """h_TxBxH and the last state."""
    return _fast_forward(cell, dtype, params, x_TxBxD, state, mask_TxB)[0]


def _fast_forward(
    cell: Cell, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[tuple[Array, State], Tree]:
    gates_x_TxBxG = project(cell, params, x_TxBxD, dtype)
    if _is_compiled(cell, params, dtype, mask_TxB):
        last, states, kept = cell.backprop.compiled.forward(params, gates_x_TxBxG, state)
    else:
        advance = partial(cell.backprop.advance, params, dtype=dtype)
        last, states, kept = _forward(advance, gates_x_TxBxG, state, mask_TxB)
    return (output(states), last), (params, x_TxBxD, state, states, kept, mask_TxB)


def _fast_backward(cell: Cell, dtype: DTypeLike, residuals: Tree, grads: tuple[Array, State]) -> tuple[Tree, ...]:
    params, x_TxBxD, state, states, kept, mask_TxB = residuals
    before = _shifted(state, states)
    if _is_compiled(cell, params, dtype, mask_TxB):
        d_state, deltas = cell.backprop.compiled.backward(params, state, states, kept, *grads)
    else:
        d_state, deltas = _backward(cell, dtype, params, before, states, kept, mask_TxB, *grads)
    return *_gradients(cell, dtype, params, x_TxBxD, before, kept, deltas), d_state, None


_fast.defvjp(_fast_forward, _fast_backward)


def _in_chunks(
    cell: Cell, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:
    """As `_fast`, with time cut into equal chunks; the last one is padded and masked."""
    length = len(x_TxBxD)
    chunks = -(-length // CHUNK)
    missing = -length % chunks
    if missing and mask_TxB is None:
        mask_TxB = jnp.ones(x_TxBxD.shape[:2], bool)

    def cut(y_Tx: Array) -> Array:
        padded = jnp.pad(y_Tx, [(0, missing)] + [(0, 0)] * (y_Tx.ndim - 1))
        return padded.reshape(chunks, -1, *y_Tx.shape[1:])

    h, last = _lean(cell, dtype, params, cut(x_TxBxD), state, None if mask_TxB is None else cut(mask_TxB))
    return h.reshape(-1, *h.shape[2:])[:length], last


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _lean(
    cell: Cell, dtype: DTypeLike, params: Params, x_cxTxBxD: Array, state: State, mask_cxTxB: Array | None
) -> tuple[Array, State]:
    """h_cxTxBxH and the last state, over c chunks of T steps."""
    return _lean_forward(cell, dtype, params, x_cxTxBxD, state, mask_cxTxB)[0]


def _lean_forward(
    cell: Cell, dtype: DTypeLike, params: Params, x_cxTxBxD: Array, state: State, mask_cxTxB: Array | None
) -> tuple[tuple[Array, State], Tree]:
    def advance(state: State, gates_x_BxG: Array) -> tuple[State, None]:
        return cell.backprop.advance(params, state, gates_x_BxG, dtype)[0], None

    def chunk(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, State]:
        x_TxBxD, mask_TxB = inputs
        last, states, _ = _forward(advance, project(cell, params, x_TxBxD, dtype), state, mask_TxB)
        return last, states

    last, states = lax.scan(chunk, state, (x_cxTxBxD, mask_cxTxB))
    return (output(states), last), (params, x_cxTxBxD, state, states, mask_cxTxB)


def _lean_backward(cell: Cell, dtype: DTypeLike, residuals: Tree, grads: tuple[Array, State]) -> tuple[Tree, ...]:
    params, x_cxTxBxD, state, states, mask_cxTxB = residuals
    d_h_cxTxBxH, d_last = grads
    firsts = _shifted(state, jax.tree.map(lambda h: h[:, -1], states))

    def chunk(carried: tuple[State, Params], inputs: Tree) -> tuple[tuple[State, Params], Array | None]:
        (d_last, total), (x_TxBxD, first, after, mask_TxB, d_h_TxBxH) = carried, inputs
        before = _shifted(first, after)
        kept = _kept(cell, dtype, params, before, project(cell, params, x_TxBxD, dtype))
        d_first, deltas = _backward(cell, dtype, params, before, after, kept, mask_TxB, d_h_TxBxH, d_last)
        d_params, d_x = _gradients(cell, dtype, params, x_TxBxD, before, kept, deltas)
        return (d_first, jax.tree.map(jnp.add, total, d_params)), d_x

    start = (d_last, jax.tree.map(jnp.zeros_like, params))
    inputs = (x_cxTxBxD, firsts, states, mask_cxTxB, d_h_cxTxBxH)
    (d_state, d_params), d_x = lax.scan(chunk, start, inputs, reverse=True)
    return d_params, d_x, d_state, None


_lean.defvjp(_lean_forward, _lean_backward)


def _kept(cell: Cell, dtype: DTypeLike, params: Params, before: State, gates_x_TxBxG: Array) -> Tree:
    """The residuals of every step, from the states before: all steps are rows of one large step."""
    times, batch = gates_x_TxBxG.shape[:2]
    before, gates_x = jax.tree.map(lambda y: y.reshape(-1, y.shape[-1]), (before, gates_x_TxBxG))
    _, kept = cell.backprop.advance(params, before, gates_x, dtype)
    return jax.tree.map(lambda y: y.reshape(times, batch, y.shape[-1]), kept)
