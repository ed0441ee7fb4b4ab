"""The order of an array in memory in which each thread of a kernel finds its own elements side by side.

The result of a product on tensor cores is spread over the threads of a program in a pattern of its own. An array that
is stored by rows has to change hands for that, through shared memory and barriers, in every time step. Arrays that only
our kernels read are stored in the pattern instead. Results do not depend on the order, only speed does.

The pattern of 16 rows x H columns, of instructions with 16 x 8 results (PTX ISA, mma.m16n8k16): warp w has the columns
8 w .. 8 w + 7 of every 8 W columns, with W warps. Lane 4 r + c has rows r and r + 8, columns 2 c and 2 c + 1 of them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

ROWS = 16
BYTES = 16  # that a thread loads at once


class Order(NamedTuple):
    """16 rows of H = 8 columns x `warps` x `repeats`."""

    warps: int
    repeats: int

    def _cut(self, dtype: DTypeLike) -> tuple[int, int]:
        """`repeats` as (loads, repeats in a load); a repeat is 4 elements of a thread."""
        inner = max(1, min(self.repeats, BYTES // (4 * jnp.dtype(dtype).itemsize)))
        return self.repeats // inner, inner

    def shape(self, times: int, batch: int, n: int, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        """n arrays of every step and 16 rows."""
        loads, inner = self._cut(dtype)
        return jax.ShapeDtypeStruct((times, batch // ROWS, n, loads * self.warps * 32, 4 * inner), dtype)

    def store(self, array_16xH: Array, dtype: DTypeLike) -> Array:
        """In the order of threads."""
        loads, inner = self._cut(dtype)
        parts = array_16xH.astype(dtype).reshape(2, 8, loads, inner, self.warps, 4, 2)
        return parts.transpose(2, 4, 1, 5, 3, 0, 6).reshape(loads * self.warps * 32, 4 * inner)

    def load(self, stored: Array) -> Array:
        """By rows again, float32."""
        loads, inner = self._cut(stored.dtype)
        parts = stored.reshape(loads, self.warps, 8, 4, inner, 2, 2).transpose(5, 2, 0, 4, 1, 3, 6)
        return parts.reshape(ROWS, -1).astype(jnp.float32)


def of(width: int, warps: int) -> Order:
    """For H = `width` columns and the warps of the program."""
    return Order(warps, width // (8 * warps))
