"""The parts of a hand-written backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from seqjax.layers.dense import Params

State = Any  # a pytree of BxH arrays; the first one is the output h


class Compiled(NamedTuple):
    """The same recurrence in C++ for CPUs (`seqjax.layers.native`), in float32 and without a mask."""

    knows: Callable[[Params], bool]
    """Whether it computes the variant of these parameters."""
    forward: Callable[[Params, Array, State], tuple[State, State, Any]]
    """(params, gates_x_TxBxG, state) -> (last state, states after every step, kept)."""
    backward: Callable[..., tuple[State, Any]]
    """(params, first state, states, kept, d_h_TxBxH, d_last) -> (d_first, deltas)."""


class Kernel(NamedTuple):
    """The same recurrence as the step of a whole-sequence kernel (`seqjax.through_time.kernel`).

    The arrays of a step are 16xH, one for each gate: a kernel cannot cut an array that it holds.
    """

    name: str
    knows: Callable[[Params], bool]
    """Whether it computes the variant of these parameters."""
    n_gates: int
    n_kept: int
    n_deltas: int
    reads: int
    """The array of the state that `retreat` reads."""
    bias: Callable[[Params], Array | None]
    """Added to the products with the state, 1xG; None: nothing."""
    advance: Callable[..., tuple[tuple[Array, ...], list[Array]]]
    """(gates_x, products, state, tanh) -> (state, the `n_kept` activations that `retreat` reads)."""
    retreat: Callable[..., tuple[list[Array], tuple[Array, ...]]]
    """(d_state after, activations, array `reads` before and after, tanh) -> (deltas, d_state before without products).
    The first `n_gates` deltas are multiplied with W_h."""
    gradients: Callable[..., tuple[Array, Params]]
    """(params, h_TxBxH before, deltas side by side, dtype) -> (d_gates_x_TxBxG, recurrent weights' gradients)."""


class Backprop(NamedTuple):
    """The backward pass of one cell as four pure functions: see `seqjax.through_time.fast_and_lean`.

    The gradient of the state before a step is linear in the gradient after it. The factors depend only on the forward
    pass, so they are computed for all steps at once. The loop is left with one product with the recurrent weights.
    """

    advance: Callable[..., tuple[State, Any]]
    """(params, state, gates_x_BxG, dtype) -> (state, kept): the cell's step with few activation calls. `kept` are the
    residuals of the backward pass besides the states, a pytree of Bx... arrays."""
    slopes: Callable[[Params, State, State, Any], Any]
    """(params, states before, states after, kept), all TxBx... -> the local derivatives for `retreat`, TxBx...."""
    retreat: Callable[..., tuple[Any, State]]
    """(params, d_state after, slopes of the step, dtype) -> (deltas, d_state before)."""
    gradients: Callable[..., tuple[Array, Params]]
    """(params, states before, kept, deltas, dtype), all TxBx... -> (d_gates_x_TxBxG, recurrent weights' gradients)."""
    compiled: Compiled | None = None
    kernel: Kernel | None = None
