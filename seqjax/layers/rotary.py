"""Rotary position embedding of Su et al. (2021), arXiv 2104.09864, section 3.2.2.

Coordinates j and j + K/2 of a query or key form a plane, which is rotated by the angle position * base^(-2j/K). The
base is 10000 in the paper:

    x'_j       = x_j cos(a) - x_{j+K/2} sin(a)
    x'_{j+K/2} = x_j sin(a) + x_{j+K/2} cos(a)

So the product of a query and a key depends only on their distance. (The paper pairs neighbours 2j and 2j + 1. Halves
are the same up to a fixed permutation of the coordinates, and cheaper.)
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

ROTARY_BASE = 10000.0


def rotary_angles(positions_T: Array, d_head: int, base: float = ROTARY_BASE) -> Array:
    """Angles in radians of the K/2 planes at each position, float32 Tx(K/2); K must be even."""
    frequencies_K = base ** (-jnp.arange(0, d_head, 2, dtype=jnp.float32) / d_head)
    return positions_T.astype(jnp.float32)[:, None] * frequencies_K[None, :]


def rotate(x_BxNxTxK: Array, angles_TxK: Array) -> Array:
    """Rotate every plane (j, j + K/2) of x by its angle at each position."""
    cos, sin = jnp.cos(angles_TxK)[None, None], jnp.sin(angles_TxK)[None, None]
    x1, x2 = jnp.split(x_BxNxTxK, 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], axis=-1)
