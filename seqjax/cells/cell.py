"""What every recurrent cell is made of.

A cell separates what depends on time from what does not, because speed lives there: `project` multiplies the inputs of
all time steps in one matmul, `step` does the rest for one time step with one fused matmul over all gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells.precision import contract
from seqjax.config import RecurrentConfig

Params = dict[str, Array]
State = Any  # a pytree of BxH arrays


class Backprop(NamedTuple):
    """How gradients pass back through one cell, as four pure functions: see `seqjax.cells.recurrence`.

    The state's gradient before a step is linear in the one after it, and the factors are the same for no two steps; so
    they are found for all steps at once, and what is left for the loop is one product with the recurrent weights.
    """

    advance: Callable[..., tuple[State, Any]]
    """(params, state, gates_x_BxG, dtype) -> (state, kept): `Cell.step` with one activation call for as many gates as
    the algebra allows; `kept` is what the backward pass needs besides the states, a pytree of Bx... arrays."""
    slopes: Callable[[Params, State, State, Any], Any]
    """(params, states before, states after, kept), all TxBx... -> local derivatives TxBx..., those `retreat` wants."""
    retreat: Callable[..., tuple[Any, State]]
    """(params, d_state after, slopes of the step, dtype) -> (deltas, d_state before)."""
    gradients: Callable[..., tuple[Array, Params]]
    """(params, states before, kept, deltas, dtype), all TxBx... -> (d_gates_x_TxBxG, recurrent weights' gradients)."""


class Cell(NamedTuple):
    """One recurrent cell as pure functions; any of them may be vmapped (over layers, over runs).

    The first array of a state is its output h.
    """

    family: str
    """Its name, as in configs."""
    init: Callable[[Array, int, int, RecurrentConfig], Params]
    """(key, D, H, config) -> {"W_x": DxG, "W_h": HxG, "b": G, ...}, float32; no biases unless config.bias."""
    initial_state: Callable[[int, int], State]
    """(B, H) -> state of zeros, float32 BxH."""
    project: Callable[[Params, Array, DTypeLike], Array]
    """(params, x_TxBxD, compute dtype) -> gates_x_TxBxG, float32: the part that does not depend on time."""
    step: Callable[[Params, State, Array, DTypeLike], tuple[State, Array]]
    """(params, state, gates_x_BxG, compute dtype) -> (state, h_BxH), float32: one time step."""
    backprop: Backprop
    """The same step, and the way back."""


def draw_normal(key: Array, **arrays: tuple[float, tuple[int, ...]]) -> Params:
    """Normal float32 arrays of the given (standard deviation, shape), all from one draw.

    Every call of the random generator adds a few hundred instructions to a program, so one call for all the arrays of a
    layer compiles in a fraction of the time.
    """
    sizes = [math.prod(shape) for _, shape in arrays.values()]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return {name: std * part.reshape(shape) for (name, (std, shape)), part in zip(arrays.items(), parts, strict=True)}


def init_gates(key: Array, d_in: int, d_hidden: int, n_gates: int, bias: bool) -> Params:
    """Weights of `n_gates` gates side by side: input weights LeCun normal, recurrent weights orthogonal, biases zero.

    LeCun normal: standard deviation D^-0.5. Orthogonal recurrent weights (Saxe et al. 2014, arXiv 1312.6120) keep the
    length of the state and of its gradient through the linear part of the recurrence; each gate has its own random
    orthogonal HxH matrix.

    Returns:
      {"W_x": DxG, "W_h": HxG, "b": G} with G = n_gates H, float32; "b" only with `bias`.
    """
    shapes = {"W_x": (d_in**-0.5, (d_in, n_gates * d_hidden)), "W_h": (1.0, (n_gates, d_hidden, d_hidden))}
    params = draw_normal(key, **shapes)
    params["W_h"] = jnp.concatenate(list(jax.vmap(_orthogonal)(params["W_h"])), axis=1)
    if bias:
        params["b"] = jnp.zeros(n_gates * d_hidden)
    return params


@jax.custom_batching.sequential_vmap
def _orthogonal(normal_HxH: Array) -> Array:
    """A random orthogonal matrix, uniform over all of them, from one of normal numbers.

    One matrix at a time, also under vmap: on a CPU jaxlib 0.10 hands a batch of QR factorizations to the pool of
    threads and waits for it on a thread of the same pool, so that a program with two such batches can wait for ever.
    """
    q_HxH, r_HxH = jnp.linalg.qr(normal_HxH)
    return q_HxH * jnp.sign(jnp.diagonal(r_HxH))[None, :]


def project_gates(params: Params, x_TxBxD: Array, dtype: DTypeLike) -> Array:
    """gates_x_TxBxG = W_x x_t + b for all t in one matmul, float32."""
    gates_x_TxBxG = contract("TBD,DG->TBG", x_TxBxD, params["W_x"], dtype)
    return gates_x_TxBxG + params["b"][None, None, :] if "b" in params else gates_x_TxBxG


def activate(gates_BxG: Array, is_sigmoid: tuple[bool, ...]) -> Array:
    """Sigmoid or tanh of gates side by side by one tanh, as sigmoid(x) = tanh(x / 2) / 2 + 1/2.

    Apart, every gate would be a loop of its own, and on a CPU XLA does not vectorise several activations in one loop:
    five times as fast for an LSTM's four gates of 128 units.

    Args:
      is_sigmoid: of each gate, whether it is a sigmoid; the gates are of equal width.
    """
    half_G = np.where(is_sigmoid, 0.5, 1.0).repeat(gates_BxG.shape[-1] // len(is_sigmoid)).astype(gates_BxG.dtype)
    return half_G[None] * jnp.tanh(half_G[None] * gates_BxG) + (1 - half_G)[None]
