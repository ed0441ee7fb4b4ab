"""Rotary position embedding of Su et al. (2021), arXiv 2104.09864, section 3.2.2.

Coordinates j and j + K/2 of a query or key form a plane, which is rotated by the angle position * base^(-2j/K). The
base is 10000 in the paper:

    x'_j       = x_j cos(a) - x_{j+K/2} sin(a)
    x'_{j+K/2} = x_j sin(a) + x_{j+K/2} cos(a)

So the product of a query and a key depends only on their distance. (The paper pairs neighbours 2j and 2j + 1. Halves
are the same up to a fixed permutation of the coordinates, and cheaper.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ROTARY_BASE = 10000.0
BLOCK = 4096
"""Positions up to which an angle is one product in float32."""


def rotary_angles(positions_T: Array, d_head: int, base: float = ROTARY_BASE) -> Array:
    """Angles in radians of the K/2 planes at each position, float32 Tx(K/2), without whole turns of blocks.

    A float32 product would lose its place in the turn: at position 3,000,000 of a stream its error is 0.1 radians. So
    whole blocks of `BLOCK` positions are counted in 2^-32 turns, by integers whose overflow is a whole turn.

    Args:
        positions_T: integers from 0 on.
        d_head: K, even.
    """
    planes = np.arange(0, d_head, 2)
    frequencies_K = base ** (-jnp.asarray(planes, jnp.float32) / d_head)
    turns_K = np.round(BLOCK * base ** (-planes / d_head) / (2 * np.pi) % 1 * 2.0**32).astype(np.uint64)
    block_T, within_T = jnp.divmod(positions_T, BLOCK)
    wrapped_TxK = block_T.astype(jnp.uint32)[:, None] * jnp.asarray(turns_K.astype(np.uint32))[None, :]
    signed_TxK = jax.lax.bitcast_convert_type(wrapped_TxK, jnp.int32)  # half a turn to each side: float32 is finer
    of_blocks_TxK = signed_TxK.astype(jnp.float32) * np.float32(2 * np.pi / 2.0**32)
    return within_T.astype(jnp.float32)[:, None] * frequencies_K[None, :] + of_blocks_TxK


def rotate(x_BxNxTxK: Array, angles_TxK: Array) -> Array:
    """Rotate every plane (j, j + K/2) of x by its angle at each position."""
    cos, sin = jnp.cos(angles_TxK)[None, None], jnp.sin(angles_TxK)[None, None]
    x1, x2 = jnp.split(x_BxNxTxK, 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], axis=-1)
