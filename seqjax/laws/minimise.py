"""Minimise many copies of one robust sum of residuals at once: damped Newton with exact derivatives, in float64.

    F(theta) = sum_i w_i rho(r_i(theta)),    rho(r) = r^2 / 2 for |r| <= delta, delta (|r| - delta / 2) beyond

A fit of a law is not convex, and with a small delta the objective is almost not smooth. Many starts and slowly falling
deltas find the minimum reliably. So Newton's method runs for all starts, or all bootstrap refits, at once (`vmap`);
converged copies are removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.host.numerics import pinned

Residuals = Callable[[jax.Array, Any], jax.Array]
"""``residuals(theta_P, shared) -> r_n``, twice differentiable."""

ITERATIONS = 2000  # at most, per copy: the few that need more than 200 walk long valleys, and are the ends of intervals
ROUND = 8  # iterations between two checks for converged copies
CHUNK = 32  # copies computed at once: one compiled program, little waste where few copies are left
REST = 1e-13  # a copy has converged if the next step would lower its value by less than this share
STUCK = 1e14  # or if the damping exceeds this: no step lowers it
FIRST_DAMPING, EASED = 1e-2, 8.0  # at the start, and the divisor of an accepted step


@dataclass(frozen=True)
class Minima:
    """The end points of S copies.

    Attributes:
        theta_SxP: float64; value_S: F there; gradient_S: largest absolute entry of its gradient.
        hessian_SxPxP: of F.
        rests_S: whether the copy converged within the allowed iterations; it need not be a minimum.
    """

    theta_SxP: np.ndarray
    value_S: np.ndarray
    gradient_S: np.ndarray
    hessian_SxPxP: np.ndarray
    rests_S: np.ndarray


class _Copy(NamedTuple):
    """Where a copy is, and the step that it tries next. ``near``: the next step is the last."""

    theta: jax.Array
    value: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    bound: jax.Array
    damping: jax.Array
    move: jax.Array
    near: jax.Array
    rests: jax.Array


_Fitted = tuple[jax.Array, jax.Array]
"""Weights and noise of a copy, each [n]."""


def minimise(
    residuals: Residuals,
    theta_SxP: np.ndarray,
    weights_Sxn: np.ndarray,
    shared: Any,
    delta: float,
    free_SxP: np.ndarray | None = None,
    noise_Sxn: np.ndarray | None = None,
) -> Minima:
    """Minima of F from S starts, each with its own weights.

        theta <- theta - (H + mu diag(|H| + M))^-1 g,    M = J^T diag(w min(1, delta / |r|)) J

    with the exact Hessian H (Marquardt 1963 damps with its diagonal alone). M is the curvature of parabolas that touch
    rho from above. So a large mu always lowers F, even if few residuals are within delta and H has little curvature.
    A step that does not lower F is rejected and multiplies mu; an accepted step divides it.

    Args:
        residuals: the same function object for the same law, so that it compiles once.
        shared: a pytree of arrays for all copies.
        free_SxP: False for fixed entries of theta; None: all are free.
        noise_Sxn: taken from the residuals of each copy; None: nothing.
    """
    with pinned(), jax.enable_x64(True):
        theta_SxP = np.array(theta_SxP, np.float64, ndmin=2)
        free = np.ones(theta_SxP.shape, bool) if free_SxP is None else np.asarray(free_SxP, bool)
        common = jax.tree.map(lambda x: np.asarray(x, np.float64), (shared, delta))
        fitted = (np.asarray(weights_Sxn), np.zeros(np.shape(weights_Sxn)) if noise_Sxn is None else noise_Sxn)
        copies, advance = _fresh(theta_SxP), _compiled(residuals)
        moving = np.arange(len(theta_SxP))
        for _ in range(ITERATIONS // ROUND):
            chosen = jax.tree.map(lambda x: np.asarray(x)[moving], (copies, free, fitted))  # noqa: B023
            moved = _in_chunks(advance, chosen, common)
            for whole, part in zip(copies, moved, strict=True):
                whole[moving] = part
            moving = moving[~moved.rests]
            if not len(moving):
                break
    gradient = np.abs(copies.gradient).max(axis=1, initial=0.0, where=free)
    return Minima(copies.theta, copies.value, gradient, copies.hessian, copies.rests)


def _fresh(theta_SxP: np.ndarray) -> _Copy:
    """Copies that have not been looked at: their value is infinite, so that the first step, of length 0, is taken."""
    count, width = theta_SxP.shape
    zeros, no = np.zeros((count, width)), np.zeros(count, bool)
    infinite, hessian = np.full(count, np.inf), np.zeros((count, width, width))
    return _Copy(
        theta_SxP.copy(), infinite, zeros.copy(), hessian, zeros.copy(), np.full(count, FIRST_DAMPING * EASED),
        zeros.copy(), no.copy(), no.copy(),
    )  # fmt: skip


@cache
def _compiled(residuals: Residuals) -> Callable:
    """``advance(copies, common)`` for these residuals: `ROUND` steps of a chunk of copies, jitted.

    The program holds the derivatives of the residuals once: they take nearly all of the time to compile.
    """

    def look(theta: jax.Array, free: jax.Array, fitted: _Fitted, common: Any) -> tuple[jax.Array, ...]:
        """F, its gradient and H (fixed entries of theta removed), and the diagonal of M."""
        (shared, delta), (weights, noise) = common, fitted

        def pulled(theta: jax.Array) -> tuple[Any, Any]:
            """r, and J^T slope with the slope of here: their derivatives are J and what bends of H."""
            r, back = jax.vjp(lambda t: residuals(t, shared), theta)
            slope = jax.lax.stop_gradient(weights * jnp.clip(r - noise, -delta, delta))
            return (r, back(slope)[0]), (r - noise, slope)

        (jacobian, bends), (r, slope) = jax.jacfwd(pulled, has_aux=True)(theta)
        within = jnp.abs(r) <= delta
        value = jnp.sum(weights * jnp.where(within, r * r / 2, delta * (jnp.abs(r) - delta / 2)))
        hessian = _squared(jacobian, weights * within) + bends
        above = weights * jnp.minimum(1.0, delta / jnp.maximum(jnp.abs(r), 1e-300))
        bound = jnp.sum(above[:, None] * jacobian**2, axis=0)
        gradient = jnp.where(free, jnp.sum(slope[:, None] * jacobian, axis=0), 0.0)
        return value, gradient, jnp.where(free[:, None] & free, hessian, jnp.diag(~free).astype(r.dtype)), bound

    def step(copy: _Copy, free: jax.Array, fitted: _Fitted, common: Any) -> _Copy:
        value, *derivatives = look(copy.theta + copy.move, free, fitted, common)
        better = value < copy.value
        damping = jnp.where(better, jnp.maximum(copy.damping / EASED, 1e-14), copy.damping * 4)
        there = _Copy(copy.theta + copy.move, value, *derivatives, damping, copy.move, copy.near, copy.rests)
        moved = jax.tree.map(partial(jnp.where, better), there, copy)
        rests = copy.near | (damping > STUCK) | ~jnp.isfinite(moved.value)
        return _aimed(moved._replace(damping=damping, rests=rests))

    def unless_it_rests(copy: _Copy, free: jax.Array, fitted: _Fitted, common: Any) -> _Copy:
        return jax.tree.map(partial(jnp.where, copy.rests), copy, step(copy, free, fitted, common))

    steps = jax.vmap(unless_it_rests, in_axes=(0, 0, 0, None))

    def advance(own: tuple[_Copy, jax.Array, _Fitted], common: Any) -> _Copy:
        copies, free, fitted = own
        return jax.lax.while_loop(
            lambda state: (state[0] < ROUND) & ~state[1].rests.all(),
            lambda state: (state[0] + 1, steps(state[1], free, fitted, common)),
            (0, copies),
        )[1]

    return jax.jit(advance, compiler_options=quickly())


@cache
def quickly() -> dict[str, Any] | None:
    """Options that compile programs of laws in half of the time on a CPU, and leave them as fast; None: there are none.

    XLA refuses an option that it does not know, as a later version may.
    """
    if jax.devices()[0].platform != "cpu":
        return None
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def _aimed(copy: _Copy) -> _Copy:
    """The copy with its next step, and whether that is the last."""
    scale = jnp.abs(jnp.diag(copy.hessian)) + copy.bound
    floor = 1e-12 * scale.max() + 1e-300
    root = jnp.linalg.cholesky(copy.hessian + jnp.diag(copy.damping * (scale + floor)))  # NaN if not definite
    move = jnp.nan_to_num(-jax.scipy.linalg.cho_solve((root, True), copy.gradient), nan=0.0)
    promise = -jnp.vdot(copy.gradient, move)
    near = jnp.all(jnp.isfinite(root)) & (promise <= REST * jnp.abs(copy.value)) & (copy.damping <= 1.0)
    return copy._replace(move=move, near=near)


def _squared(jacobian: jax.Array, weights: jax.Array) -> jax.Array:
    """J^T diag(w) J as a sum of products, which XLA fuses; many tiny matrix products would be slower."""
    return jnp.sum(weights[:, None, None] * jacobian[:, :, None] * jacobian[:, None, :], axis=0)


def _in_chunks(f: Callable[[Any, Any], _Copy], own: Any, common: Any) -> _Copy:
    """``f`` of all copies, in chunks of `CHUNK`, the last one padded with copies of its last."""
    count = len(jax.tree.leaves(own)[0])
    parts = []
    for first in range(0, count, CHUNK):
        rows = np.minimum(first + np.arange(CHUNK), count - 1)
        found = f(jax.tree.map(lambda x: np.asarray(x)[rows], own), common)  # noqa: B023
        parts.append([np.array(x)[: count - first] for x in found])
    return _Copy(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
