"""What a recurrent cell is to the recurrence over time, and a scan over its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers import native
from seqjax.layers.dense import Params
from seqjax.through_time.backprop import Backprop, State

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


def output(state: State) -> Array:
    """h of a state: its first array, in every cell."""
    return jax.tree.leaves(state)[0]


def seen(mask: Array | None, there: Tree, elsewhere: Tree) -> Tree:
    """`there` in rows where the mask is true, else `elsewhere`; None is true everywhere."""
    if mask is None:
        return there
    return jax.tree.map(lambda a, b: jnp.where(mask[..., None], a, b), there, elsewhere)


def over_time(
    advance: Callable[[State, Array], tuple[State, Tree]], gates_x_TxBxG: Array, state: State, mask_TxB: Array | None
) -> tuple[State, State, Tree]:
    """The last state, the states after every step, and the residuals of every step."""

    def step(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, tuple[State, Tree]]:
        gates_x_BxG, mask_B = inputs
        moved, kept = advance(state, gates_x_BxG)
        state = seen(mask_B, moved, state)
        return state, (state, kept)

    last, (states, kept) = lax.scan(step, state, (gates_x_TxBxG, mask_TxB), unroll=native.steps_in_a_turn())
    return last, states, kept
