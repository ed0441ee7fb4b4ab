"""Sequences from their last element to their first, for bidirectional models."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array


def turned(mask_BxT: Array | None) -> Callable[[Array], Array]:
    """A function that reverses arrays BxT... in time, and is its own inverse.

    Padding after the last element stays where it is, so that a layer reads the elements first in both directions, and
    a sequence gives the same beside a longer one as alone.

    Args:
      mask_BxT: true for elements, false for padding; None: no padding.
    """
    if mask_BxT is None:
        return lambda x_BxT: x_BxT[:, ::-1]
    times_1xT = jnp.arange(mask_BxT.shape[1])[None]
    length_Bx1 = jnp.where(mask_BxT, times_1xT + 1, 0).max(axis=1, keepdims=True)
    source_BxT = jnp.where(times_1xT < length_Bx1, length_Bx1 - 1 - times_1xT, times_1xT)

    def turn(x_BxT: Array) -> Array:
        return jnp.take_along_axis(x_BxT, source_BxT.reshape(*source_BxT.shape, *(1,) * (x_BxT.ndim - 2)), axis=1)

    return turn
