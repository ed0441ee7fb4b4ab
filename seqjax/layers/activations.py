"""Activations of gates and candidates that JAX does not have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def positive(u: Array) -> Array:
    """u + 1/2 for u >= 0 and sigmoid(u) below: positive and continuous (Feng et al. 2024, appendix B)."""
    return jnp.where(u >= 0, u + 0.5, jax.nn.sigmoid(u))
