"""Truncated back-propagation through time: time is cut into pieces, and no gradient passes from piece to piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Tree = Any


def in_pieces(run: Callable[[Tree, Tree], tuple[Array, Tree]], length: int, inputs: Tree, state: Tree) -> Any:
    """`run` over pieces of `length` steps and the remainder, without gradients between pieces.

    Args:
      run: (inputs of T steps, state) -> (h_Tx..., state after).
      inputs: a tree of arrays Tx...; None is a tree without arrays.
      state: before the first step; it has the gradient of the first piece.

    Returns:
      h_Tx... of all steps, and the state after the last.
    """
    n_times = len(jax.tree.leaves(inputs)[0])
    n_pieces, whole = n_times // length, n_times // length * length

    def piece(state: Tree, numbered: tuple[Array, Tree]) -> tuple[Tree, Array]:
        index, inputs = numbered
        h_Tx, last = run(inputs, jax.tree.map(lambda s: jnp.where(index == 0, s, lax.stop_gradient(s)), state))
        return last, h_Tx

    cut = jax.tree.map(lambda y: y[:whole].reshape(n_pieces, length, *y.shape[1:]), inputs)
    last, h_pxTx = lax.scan(piece, state, (jnp.arange(n_pieces), cut))
    h_Tx = h_pxTx.reshape(whole, *h_pxTx.shape[2:])
    if whole < n_times:
        left_Tx, last = run(jax.tree.map(lambda y: y[whole:], inputs), lax.stop_gradient(last))
        h_Tx = jnp.concatenate([h_Tx, left_Tx])
    return h_Tx, last
