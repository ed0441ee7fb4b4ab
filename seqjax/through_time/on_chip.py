"""Recurrences by a whole-sequence kernel: when, at any size, and with its gradients.

A TPU has `seqjax.through_time.kernel_tpu`, an NVIDIA GPU `seqjax.through_time.kernel`. Each device of a mesh computes
its own rows of the batch. XLA cannot look into a kernel to share its work, so `jax.shard_map` stands around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from seqjax.layers.dense import Params
from seqjax.layers.precision import carry_dtype
from seqjax.layers.sharing import devices
from seqjax.layers.target import Target, target
from seqjax.through_time import kernel, kernel_tpu
from seqjax.through_time.backprop import State
from seqjax.through_time.inputs import project, project_back

Tree = Any


def computes(cell: Any, params: Params, dtype: DTypeLike) -> bool:
    """Whether the cell has a kernel for the variant of these parameters, and it runs on the target at this size."""
    one = cell.backprop.kernel
    return one is not None and one.knows(params) and kernel_of(target()).fits(one, len(params["W_h"]), dtype, target())


def kernel_of(target: Target) -> Any:
    """The module with the kernel of a platform. Both have `fits`, `arranged`, `padded_width` and `padded_batch`,
    `forward` and `backward`."""
    return kernel_tpu if target.platform == "tpu" else kernel


def run(
    cell: Any, dtype: DTypeLike, params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:
    """h_TxBxH in `dtype` and the last state, float32, for any H and B. The kernel has them padded with zeros.

    Gates of padded units are 0 before activation, so their states stay 0, and no other unit reads them.
    """
    batch, d_hidden = jax.tree.leaves(state)[0].shape
    width = kernel_of(target()).padded_width(d_hidden)
    more_B, more_H = -batch % devices(), width - d_hidden

    def widened(leaf: Array) -> Array:
        """H of every gate in the last axis."""
        of_gate = _pad(leaf.reshape(*leaf.shape[:-1], -1, d_hidden), -1, more_H)
        return of_gate.reshape(*leaf.shape[:-1], -1)

    params = {name: kernel_of(target()).arranged(widened(leaf), width) for name, leaf in params.items()}
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


def _on_own_rows(
    f: Callable[..., Tree], cell: Any, dtype: DTypeLike, axes: Sequence[int | None], results: Sequence[int | None]
) -> Callable[..., Tree]:
    """`f` by each device for its own rows, padded to blocks of the kernel.

    Args:
      axes: of each argument after the parameters, the axis of the rows; None: it is a result of such an `f`, already
        padded, with its rows along the second axis.
      results: of each result the same; None: it stays padded.
    """
    mesh, own, kernel = target().mesh, kernel_of(target()), cell.backprop.kernel

    def of_rows(params: Params, *arguments: Tree) -> Tree:
        batch, width = jax.tree.leaves(arguments[axes.index(0)])[0].shape
        more = own.padded_batch(kernel, batch, width, dtype) - batch

        def grown(x: Array, axis: int | None) -> Array:
            return x if axis is None else _pad(x, axis, more)

        def shortened(x: Array, axis: int | None) -> Array:
            return x if axis is None else lax.slice_in_dim(x, 0, batch, axis=axis)

        arguments = [_each(grown, x, axis) for x, axis in zip(arguments, axes, strict=True)]
        found = f(kernel, dtype, params, *arguments)
        return tuple(_each(shortened, x, axis) for x, axis in zip(found, results, strict=True))

    def spec(axis: int | None) -> P:
        return P(*[None] * (1 if axis is None else axis), mesh.axis_names)

    if mesh is None:
        return of_rows
    inputs, outputs = (P(), *map(spec, axes)), tuple(map(spec, results))
    return jax.shard_map(of_rows, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def _each(f: Callable[..., Array], tree: Tree, axis: int | None) -> Tree:
    return jax.tree.map(partial(f, axis=axis), tree)


def _recurrent(params: Params) -> Params:
    """Without the inputs' part of the gates, which is computed outside."""
    return {name: leaf for name, leaf in params.items() if name not in ("W_x", "b", "table")}


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
    forward = _on_own_rows(kernel_of(target()).forward, cell, dtype, (1, 0, 1), (0, 1, None))
    last, h_TxBxH, kept = forward(_recurrent(params), gates_x_TxBxG, state, mask_TxB)
    return (h_TxBxH, last), (params, x_TxBxD, state, h_TxBxH, kept, mask_TxB)


def _backward(cell: Any, dtype: DTypeLike, residuals: Tree, grads: tuple[Array, State]) -> tuple[Tree, ...]:
    params, x_TxBxD, state, h_TxBxH, kept, mask_TxB = residuals
    one = cell.backprop.kernel
    backward = _on_own_rows(kernel_of(target()).backward, cell, dtype, (0, None, 1, 1, 0), (0, 1))
    d_state, deltas = backward(_recurrent(params), state, kept, mask_TxB, *grads)
    first_BxH = jax.tree.leaves(state)[0].astype(h_TxBxH.dtype)
    before_TxBxH = jnp.concatenate([first_BxH[None], h_TxBxH[:-1]])
    d_gates_x, d_recurrent = one.gradients(params, before_TxBxH, deltas.astype(carry_dtype(dtype)), dtype)
    d_params, d_x = project_back(cell, params, x_TxBxD, dtype, d_gates_x)
    return d_params | d_recurrent, d_x, d_state, None


_run.defvjp(_forward, _backward)
