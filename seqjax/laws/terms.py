"""Terms of laws with their derivatives, written out: a program with second derivatives compiles faster with them.

They use the values at hand. What JAX derives from ``logsumexp`` and ``log1p`` is longer, with the same values.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp


@jax.custom_jvp
def sum_of(*terms: jax.Array) -> jax.Array:
    """log(exp a + exp b + ...), elementwise; the derivative by a is its share of the sum, exp(a - log sum)."""
    largest = reduce(jnp.maximum, terms)
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    return largest + jnp.log(sum(jnp.exp(term - largest) for term in terms))


@sum_of.defjvp
def _sum_of_jvp(terms: tuple[jax.Array, ...], moves: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    total = sum_of(*terms)
    return total, sum(jnp.exp(term - total) * move for term, move in zip(terms, moves, strict=True))


@jax.custom_jvp
def repeated(log_ratio: jax.Array, log_worth: jax.Array) -> jax.Array:
    """y = log(1 + R* (1 - exp(-q))), q = R / R*, where 1 + R is the ratio and R* the worth.

    dy / dlog(1 + R) = (1 + R) exp(-q - y),    dy / dlog R* = R* (1 - exp(-q) - q exp(-q)) exp(-y)
    """
    worth = jnp.exp(log_worth)
    return jnp.log1p(-worth * jnp.expm1(-jnp.expm1(log_ratio) / worth))


@repeated.defjvp
def _repeated_jvp(at: tuple[jax.Array, jax.Array], moves: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    (log_ratio, log_worth), (by_ratio, by_worth) = at, moves
    y, worth = repeated(log_ratio, log_worth), jnp.exp(log_worth)
    q = jnp.expm1(log_ratio) / worth
    left = jnp.exp(-q)
    slope_ratio = jnp.exp(log_ratio - y) * left
    slope_worth = worth * jnp.exp(-y) * (-jnp.expm1(-q) - q * left)
    return y, slope_ratio * by_ratio + slope_worth * by_worth
