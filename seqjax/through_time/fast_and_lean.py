"""A cell over T time steps with its own backward pass: "fast" and "lean".

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

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers import native
from seqjax.layers.dense import Params
from seqjax.through_time.backprop import State
from seqjax.through_time.cell import Cell, output, over_time, seen
from seqjax.through_time.inputs import project, project_back

CHUNK = 64  # time steps in a chunk of "lean"
Tree = Any


def _rounded(params: Params, dtype: DTypeLike) -> Params:
    """The matrices in the dtype of their products. XLA does not move the conversion out of a loop by itself."""
    return {name: leaf.astype(dtype) if leaf.ndim == 2 else leaf for name, leaf in params.items()}


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
        return seen(mask_B, d_before, d_state), seen(mask_B, deltas, jax.tree.map(jnp.zeros_like, deltas))

    slopes, params = cell.backprop.slopes(params, before, after, kept), _rounded(params, dtype)
    return lax.scan(step, d_last, (slopes, d_h_TxBxH, mask_TxB), reverse=True, unroll=native.steps_in_a_turn())


def _gradients(
    cell: Cell, dtype: DTypeLike, params: Params, x_TxBxD: Array, before: State, kept: Tree, deltas: Tree
) -> tuple[Params, Array | None]:
    """Gradients of all parameters, and of the inputs unless they are tokens."""
    d_gates_x_TxBxG, d_recurrent = cell.backprop.gradients(params, before, kept, deltas, dtype)
    d_params, d_x = project_back(cell, params, x_TxBxD, dtype, d_gates_x_TxBxG)
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
def fast(
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
        advance = partial(cell.backprop.advance, _rounded(params, dtype), dtype=dtype)
        last, states, kept = over_time(advance, gates_x_TxBxG, state, mask_TxB)
    return (output(states), last), (params, x_TxBxD, state, states, kept, mask_TxB)


def _fast_backward(cell: Cell, dtype: DTypeLike, residuals: Tree, grads: tuple[Array, State]) -> tuple[Tree, ...]:
    params, x_TxBxD, state, states, kept, mask_TxB = residuals
    before = _shifted(state, states)
    if _is_compiled(cell, params, dtype, mask_TxB):
        d_state, deltas = cell.backprop.compiled.backward(params, state, states, kept, *grads)
    else:
        d_state, deltas = _backward(cell, dtype, params, before, states, kept, mask_TxB, *grads)
    return *_gradients(cell, dtype, params, x_TxBxD, before, kept, deltas), d_state, None


fast.defvjp(_fast_forward, _fast_backward)


def lean(
    cell: Cell, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:
    """As `fast`, with time cut into equal chunks; the last one is padded and masked."""
    if (length := len(x_TxBxD)) <= CHUNK:
        return fast(cell, dtype, params, x_TxBxD, state, mask_TxB)
    chunks = -(-length // CHUNK)
    missing = -length % chunks
    if missing and mask_TxB is None:
        mask_TxB = jnp.ones(x_TxBxD.shape[:2], bool)

    def cut(y_Tx: Array) -> Array:
        padded = jnp.pad(y_Tx, [(0, missing)] + [(0, 0)] * (y_Tx.ndim - 1))
        return padded.reshape(chunks, -1, *y_Tx.shape[1:])

    h, last = _of_chunks(cell, dtype, params, cut(x_TxBxD), state, None if mask_TxB is None else cut(mask_TxB))
    return h.reshape(-1, *h.shape[2:])[:length], last


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _of_chunks(
    cell: Cell, dtype: DTypeLike, params: Params, x_cxTxBxD: Array, state: State, mask_cxTxB: Array | None
) -> tuple[Array, State]:
    """h_cxTxBxH and the last state, over c chunks of T steps."""
    return _of_chunks_forward(cell, dtype, params, x_cxTxBxD, state, mask_cxTxB)[0]


def _of_chunks_forward(
    cell: Cell, dtype: DTypeLike, params: Params, x_cxTxBxD: Array, state: State, mask_cxTxB: Array | None
) -> tuple[tuple[Array, State], Tree]:
    matrices = _rounded(params, dtype)

    def advance(state: State, gates_x_BxG: Array) -> tuple[State, None]:
        return cell.backprop.advance(matrices, state, gates_x_BxG, dtype)[0], None

    def chunk(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, State]:
        x_TxBxD, mask_TxB = inputs
        last, states, _ = over_time(advance, project(cell, params, x_TxBxD, dtype), state, mask_TxB)
        return last, states

    last, states = lax.scan(chunk, state, (x_cxTxBxD, mask_cxTxB))
    return (output(states), last), (params, x_cxTxBxD, state, states, mask_cxTxB)


def _of_chunks_backward(cell: Cell, dtype: DTypeLike, residuals: Tree, grads: tuple[Array, State]) -> tuple[Tree, ...]:
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


_of_chunks.defvjp(_of_chunks_forward, _of_chunks_backward)


def _kept(cell: Cell, dtype: DTypeLike, params: Params, before: State, gates_x_TxBxG: Array) -> Tree:
    """The residuals of every step, from the states before: all steps are rows of one large step."""
    times, batch = gates_x_TxBxG.shape[:2]
    before, gates_x = jax.tree.map(lambda y: y.reshape(-1, y.shape[-1]), (before, gates_x_TxBxG))
    _, kept = cell.backprop.advance(params, before, gates_x, dtype)
    return jax.tree.map(lambda y: y.reshape(times, batch, y.shape[-1]), kept)
