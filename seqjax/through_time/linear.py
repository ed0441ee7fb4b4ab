"""The diagonal linear recurrence over T time steps, three ways to compute it, and its own backward pass.

    h_t = a_t * h_{t-1} + b_t                                            elementwise, for t = 1 .. T

    sequential     one step after the other: the reference
    associative    pairs (a, b) are combined in a tree: (a1, b1), (a2, b2) -> (a1 a2, a2 b1 + b2) (Blelloch 1990)
    blocked        sqrt(T) blocks side by side, each from zero; then the state passes from block to block
    auto           sequential on a CPU, blocked elsewhere

With g_t, the gradient of the loss by h_t without its later steps, the gradient is the same recurrence in reverse:

    d_t = g_t + a_{t+1} d_{t+1},    dL/db_t = d_t,    dL/da_t = d_t h_{t-1},    dL/dh_0 = a_1 d_1

So the backward pass keeps only a and h. Gradients are of reverse mode, and of any order.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from seqjax.layers.target import target

Way = Literal["auto", "sequential", "associative", "blocked"]


def linear_scan(
    a_TxBxR: Array, b_TxBxR: Array, h_BxR: Array, way: Way = "auto", mask_TxB: Array | None = None
) -> Array:
    """h_TxBxR, the states after every step.

    Args:
      a_TxBxR, b_TxBxR: factors and terms, of one dtype: float32 or wider.
      h_BxR: the state before the first step.
      way: see above. All ways give the same values up to rounding.
      mask_TxB: bool; where it is false, the state is unchanged. None: true everywhere.
    """
    if mask_TxB is not None:
        a_TxBxR = jnp.where(mask_TxB[:, :, None], a_TxBxR, 1.0)
        b_TxBxR = jnp.where(mask_TxB[:, :, None], b_TxBxR, 0.0)
    return _scan(way, False, a_TxBxR, b_TxBxR, h_BxR)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(way: Way, reverse: bool, a_TxBxR: Array, b_TxBxR: Array, h_BxR: Array) -> Array:
    """With `reverse`, h_t = a_t h_{t+1} + b_t from the last step to the first."""
    if way == "auto":
        way = "sequential" if target().platform == "cpu" else "blocked"
    return _WAYS[way](reverse, a_TxBxR, b_TxBxR, h_BxR)


def _forward(way: Way, reverse: bool, a_TxBxR: Array, b_TxBxR: Array, h_BxR: Array) -> tuple[Array, tuple[Array, ...]]:
    h_TxBxR = _scan(way, reverse, a_TxBxR, b_TxBxR, h_BxR)
    return h_TxBxR, (a_TxBxR, h_TxBxR, h_BxR)


def _backward(way: Way, reverse: bool, residuals: tuple[Array, ...], g_TxBxR: Array) -> tuple[Array, Array, Array]:
    a_TxBxR, h_TxBxR, h_BxR = residuals
    zero = jnp.zeros_like(h_BxR)
    d_TxBxR = _scan(way, not reverse, _moved(a_TxBxR, zero, not reverse), g_TxBxR, zero)
    first = -1 if reverse else 0
    return d_TxBxR * _moved(h_TxBxR, h_BxR, reverse), d_TxBxR, a_TxBxR[first] * d_TxBxR[first]


_scan.defvjp(_forward, _backward)


def _moved(y_TxBxR: Array, edge_BxR: Array, back: bool) -> Array:
    """y_{t-1} at every t, with the edge at the first; `back`: y_{t+1}, with the edge at the last."""
    edge = edge_BxR[None]
    return jnp.concatenate([y_TxBxR[1:], edge] if back else [edge, y_TxBxR[:-1]])


def _sequential(reverse: bool, a_TxBxR: Array, b_TxBxR: Array, h_BxR: Array) -> Array:
    """Not unrolled: on a CPU an unrolled loop is several times slower."""

    def step(h_BxR: Array, ab: tuple[Array, Array]) -> tuple[Array, Array]:
        h_BxR = ab[0] * h_BxR + ab[1]
        return h_BxR, h_BxR

    return lax.scan(step, h_BxR, (a_TxBxR, b_TxBxR), reverse=reverse)[1]


def _associative(reverse: bool, a_TxBxR: Array, b_TxBxR: Array, h_BxR: Array) -> Array:
    def combine(early: tuple[Array, Array], late: tuple[Array, Array]) -> tuple[Array, Array]:
        return early[0] * late[0], late[0] * early[1] + late[1]

    total_TxBxR, h_TxBxR = lax.associative_scan(combine, (a_TxBxR, b_TxBxR), reverse=reverse)
    return h_TxBxR + total_TxBxR * h_BxR[None]


def _blocked(reverse: bool, a_TxBxR: Array, b_TxBxR: Array, h_BxR: Array) -> Array:
    """C steps in each of n blocks: C + n steps one after the other instead of C n."""
    if reverse:
        return _blocked(False, a_TxBxR[::-1], b_TxBxR[::-1], h_BxR)[::-1]
    n_times, *others = a_TxBxR.shape
    length = math.isqrt(n_times - 1) + 1
    n_blocks = -(-n_times // length)
    missing = [(0, n_blocks * length - n_times)] + [(0, 0)] * len(others)

    def cut(y_TxBxR: Array) -> Array:
        return jnp.pad(y_TxBxR, missing).reshape(n_blocks, length, *others).swapaxes(0, 1)

    def step(state: tuple[Array, Array], ab: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        state = ab[0] * state[0], ab[0] * state[1] + ab[1]
        return state, state

    zeros_nxBxR = jnp.zeros((n_blocks, *others), a_TxBxR.dtype)
    ends, (total_CxnxBxR, own_CxnxBxR) = lax.scan(step, (zeros_nxBxR + 1, zeros_nxBxR), (cut(a_TxBxR), cut(b_TxBxR)))
    starts_nxBxR = lax.scan(lambda h, end: (end[0] * h + end[1], h), h_BxR, ends)[1]
    h_CxnxBxR = own_CxnxBxR + total_CxnxBxR * starts_nxBxR[None]
    return h_CxnxBxR.swapaxes(0, 1).reshape(n_blocks * length, *others)[:n_times]


_WAYS = {"sequential": _sequential, "associative": _associative, "blocked": _blocked}
