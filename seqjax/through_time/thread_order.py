"""The order of arrays in memory in which each thread of a kernel finds its own elements side by side.

The result of a product on tensor cores is spread over the threads of a program in a pattern of its own. An array that
is read or written by rows has to change hands for that, through shared memory and barriers, in every time step. So
arrays that only our kernels read are stored in the pattern (`store`, `load`), and the columns of the gates are permuted
such that a thread's columns of a row are neighbours (`permute`, `read`, `write`). Results do not depend on the order,
only speed does.

The pattern of 16 rows x H columns, of instructions with 16 x 8 results (PTX ISA, mma.m16n8k16): warp w has the columns
8 w .. 8 w + 7 of every 8 W columns, with W warps. Lane 4 r + c has rows r and r + 8, columns 2 c and 2 c + 1 of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

ROWS = 16
"""Rows of the batch in one program: the least that a product on tensor cores takes."""
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

    def permute(self, gates: Array) -> Array:
        """Columns of the last axis, gates of H side by side: within a gate, the columns of a thread are neighbours."""
        parts = gates.reshape(*gates.shape[:-1], -1, self.repeats, self.warps, 4, 2)
        return jnp.moveaxis(parts, -4, -2).reshape(gates.shape)

    def restore(self, gates: Array) -> Array:
        """The inverse of `permute`."""
        parts = gates.reshape(*gates.shape[:-1], -1, self.warps, 4, self.repeats, 2)
        return jnp.moveaxis(parts, -2, -4).reshape(gates.shape)

    def _places(self, gate: int) -> tuple[Array, Array]:
        """Rows and columns of a gate in an array with permuted columns, in the order of threads."""
        each = 2 * self.repeats  # neighbours of a thread
        number = lax.broadcasted_iota(jnp.int32, (2 * self.warps * 32, 1), 0)
        half, thread = number // (self.warps * 32), number % (self.warps * 32)
        row, column = half * 8 + thread % 32 // 4, (thread // 32 * 4 + thread % 4) * each
        width = 8 * self.warps * self.repeats
        return row, column + (lax.broadcasted_iota(jnp.int32, (1, each), 1) + gate * width)

    def read(self, ref: Any, t: Array, gate: int) -> Array:
        """Step t of a gate from an array TxROWSxG with permuted columns, in the order of threads: see `by_rows`."""
        return ref[(t, *self._places(gate))]

    def by_rows(self, read: Array) -> Array:
        """16xH of what was read."""
        return self._swapped(read, (2, self.warps, 8, 4, self.repeats, 2), (0, 2, 4, 1, 3, 5)).reshape(ROWS, -1)

    def write(self, ref: Any, t: Array, gate: int, array_16xH: Array) -> None:
        """Step t of a gate, to an array TxROWSxG with permuted columns."""
        each = self._swapped(array_16xH, (2, 8, self.repeats, self.warps, 4, 2), (0, 3, 1, 4, 2, 5))
        ref[(t, *self._places(gate))] = each.reshape(2 * self.warps * 32, 2 * self.repeats).astype(ref.dtype)

    @staticmethod
    def _swapped(array: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        return array.reshape(shape).transpose(axes)
