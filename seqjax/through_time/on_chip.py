"""Recurrences by a whole-sequence kernel (`seqjax.through_time.kernel`): when, at any size, and with its gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers.dense import Params
from seqjax.layers.precision import carry_dtype
from seqjax.layers.target import target
from seqjax.through_time import kernel
from seqjax.through_time.backprop import State
from seqjax.through_time.inputs import project, project_back

Tree = Any


def computes(cell: Any, params: Params, dtype: DTypeLike) -> bool:
    """Whether the cell has a kernel for the variant of these parameters, and it runs on the target at this size."""
    one = cell.backprop.kernel
    return one is not None and one.knows(params) and kernel.fits(one, len(params["W_h"]), dtype, target())


def run(
    cell: Any, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:
    """h_TxBxH in `dtype` and the last state, float32, for any H and B. The kernel has them padded with zeros.

    Gates of padded units are 0 before activation, so their states stay 0, and no other unit reads them.
    """
    batch, d_hidden = jax.tree.leaves(state)[0].shape
    more_B, more_H = -batch % kernel.ROWS, kernel.padded_width(d_hidden) - d_hidden

    def widened(leaf: Array) -> Array:
        """H of every gate in the last axis."""
        of_gate = _pad(leaf.reshape(*leaf.shape[:-1], -1, d_hidden), -1, more_H)
        return of_gate.reshape(*leaf.shape[:-1], -1)

    order = kernel.order(d_hidden + more_H)
    params = {name: order.permute(widened(leaf)) for name, leaf in params.items()}
    params["W_h"] = _pad(params["W_h"], 0, more_H)
    state = jax.tree.map(lambda leaf: _pad(_pad(leaf, -1, more_H), 0, more_B), state)
    mask_TxB = None if mask_TxB is None else _pad(mask_TxB, 1, more_B)
    h_TxBxH, last = _run(cell, dtype, params, _pad(x_TxBxD, 1, more_B), state, mask_TxB)
    return h_TxBxH[:, :batch, :d_hidden], jax.tree.map(lambda leaf: leaf[:batch, :d_hidden], last)


def _pad(array: Array, axis: int, more: int) -> Array:
    """`more` zeros at the end of an axis."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, more)
    return jnp.pad(array, widths) if more else array


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
    cell: Any, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:
    """`run` at sizes of the kernel."""
    return _forward(cell, dtype, params, x_TxBxD, state, mask_TxB)[0]


def _forward(
    cell: Any, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[tuple[Array, State], Tree]:
    gates_x_TxBxG = project(cell, params, x_TxBxD, dtype)
    last, h_TxBxH, kept = kernel.forward(cell.backprop.kernel, dtype, params, gates_x_TxBxG, state, mask_TxB)
    return (h_TxBxH, last), (params, x_TxBxD, state, h_TxBxH, kept, mask_TxB)


def _backward(cell: Any, dtype: DTypeLike, residuals: Tree, grads: tuple[Array, State]) -> tuple[Tree, ...]:
    params, x_TxBxD, state, h_TxBxH, kept, mask_TxB = residuals
    one = cell.backprop.kernel
    d_state, deltas = kernel.backward(one, dtype, params, state, kept, mask_TxB, *grads)
    first_BxH = jax.tree.leaves(state)[0].astype(h_TxBxH.dtype)
    before_TxBxH = jnp.concatenate([first_BxH[None], h_TxBxH[:-1]])
    d_gates_x, d_recurrent = one.gradients(params, before_TxBxH, deltas.astype(carry_dtype(dtype)), dtype)
    d_params, d_x = project_back(cell, params, x_TxBxD, dtype, d_gates_x)
    return d_params | d_recurrent, d_x, d_state, None


_run.defvjp(_forward, _backward)
