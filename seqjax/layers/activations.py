"""Activations of gates and candidates that JAX does not have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def positive(u: Array) -> Array:
    """u + 1/2 for u >= 0 and sigmoid(u) below: positive and continuous (Feng et al. 2024, appendix B)."""
    return jnp.where(u >= 0, u + 0.5, jax.nn.sigmoid(u))


MAX_SLOPE = 1000.0


@jax.custom_jvp
def bounded_sqrt(x: Array) -> Array:
    """sqrt(x) with a slope of at most 1000: at 0 its gradient is finite (De et al. 2024, appendix A and their code)."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (d_x,) = primals, tangents
    return jnp.sqrt(x), d_x * jax.lax.rsqrt(jnp.maximum(4 * x, MAX_SLOPE**-2))
