"""A recurrence over all time steps in one kernel (Pallas, Mosaic) on a TPU: the state and the recurrent weights stay in
its vector memory (VMEM).

As `seqjax.through_time.kernel` for NVIDIA GPUs: the same steps of the cells and the same products outside. One program
here walks through blocks of rows, and for each through blocks of time, one after the other. W_h is read once. The state
lies in the result "last state", which a TPU keeps in VMEM while its block is the same. The next block of time is read
while this one is computed. `jax.vmap` over runs adds an axis to the grid.

H is padded to a multiple of 128, the lanes of a register, and B to a multiple of the rows of a block. T needs no
padding: the last block of time has fewer steps.

Rounding: as the scan, products in `dtype` with float32 sums, and a float32 state. In bfloat16 the activations and
deltas are stored in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from seqjax.layers.dense import Params
from seqjax.layers.target import Target, target
from seqjax.through_time.backprop import Kernel, State
from seqjax.through_time.kernel import dot, parts, seen

VMEM = 56 * 2**20
"""Bytes of VMEM that a kernel may take. A core has 128 MiB on v5e and v6e, 64 on v5p and v7x, and 16 before them."""
GENERATION = (5, 0)
LANES, SUBLANES = 128, 16  # of a register; sublanes of bfloat16
MOST_ROWS = (256, 128, 64)  # of a block, the first that fits; with fewer the products would be slow
MOST_STEPS = 16


class Cut(NamedTuple):
    """The blocks of a kernel: how many rows of the batch, and time steps at most."""

    rows: int
    steps: int


def fits(kernel: Kernel, d_hidden: int, dtype: DTypeLike, target: Target) -> bool:
    """Whether the kernel runs on the target (v5 or later), and the weights stay in its VMEM, whatever B and T are.

    That is an LSTM up to H = 2048 in bfloat16 and 1536 in float32, and a GRU up to 2432 and 1792.
    """
    can = target.platform == "tpu" and (target.capability or GENERATION) >= GENERATION
    return can and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float32) and cut(kernel, d_hidden, 1, dtype) is not None


def cut(kernel: Kernel, d_hidden: int, batch: int, dtype: DTypeLike) -> Cut | None:
    """The blocks: the most rows that fit, shared evenly, then the most steps. None: not even 64 rows fit."""
    for most in MOST_ROWS:
        if bytes_needed(kernel, d_hidden, dtype, Cut(most, 1)) <= VMEM:
            rows = -(-batch // -(-batch // most))
            rows += -rows % SUBLANES
            least, two = (bytes_needed(kernel, d_hidden, dtype, Cut(rows, steps)) for steps in (1, 2))
            return Cut(rows, min(MOST_STEPS, 1 + (VMEM - least) // (two - least)))
    return None


def bytes_needed(kernel: Kernel, d_hidden: int, dtype: DTypeLike, cut: Cut) -> int:
    """VMEM of the larger pass: W_h once; two blocks of everything read and written, the current and the next one;
    and what a step computes, float32."""
    size, n_states, width = jnp.dtype(dtype).itemsize, 2, padded_width(d_hidden)
    gates = kernel.n_gates * width
    forward = 4 * gates + size * (1 + kernel.n_kept) * width + 4 * width
    backward = size * (1 + kernel.n_kept + kernel.n_deltas) * width + 4 * width
    of_step = max(forward, backward) + 4 * LANES  # and the mask
    of_row = 2 * (2 * n_states + 1) * 4 * width + 4 * (2 * gates + 6 * width)
    return size * width * gates + cut.rows * (2 * cut.steps * of_step + of_row)


def padded_width(d_hidden: int) -> int:
    """The next multiple of `LANES`."""
    return d_hidden + -d_hidden % LANES


def padded_batch(kernel: Kernel, batch: int, width: int, dtype: DTypeLike) -> int:
    """Whole blocks of rows."""
    rows = cut(kernel, width, batch, dtype).rows
    return rows * -(-batch // rows)


def arranged(gates: Array, width: int) -> Array:
    """The gates lie side by side."""
    return gates


def forward(
    kernel: Kernel, dtype: DTypeLike, params: Params, gates_x_TxBxG: Array, state: State, mask_TxB: Array | None
) -> tuple[State, Array, tuple[Array, Array]]:
    """As `seqjax.through_time.kernel.forward`; the arrays for the backward pass are TxBx...."""
    structure = jax.tree.structure(state)
    state = tuple(jax.tree.leaves(state))
    times, batch, _ = gates_x_TxBxG.shape
    width = state[0].shape[-1]
    gates = parts(kernel.n_gates, width)
    grid = Grid(kernel, dtype, times, batch, width, reverse=False)

    def body(x: Any, W: Any, bias: Any, mask: Any, first: Any, h: Any, kept: Any, read: Any, last: Any) -> None:
        _start(first, last)

        def step(i: Array, _: None) -> None:
            before = tuple(one[...] for one in last)
            products = dot(before[0].astype(dtype), W[...])
            products = products + bias[0][...] if bias else products
            new, activations = kernel.advance(
                [x[i, :, gate] for gate in gates], [products[:, gate] for gate in gates], before, jnp.tanh
            )
            new = seen(_shown(mask, i), new, before)
            h[i] = new[0].astype(dtype)
            read[i] = new[kernel.reads]
            for one, part in zip(activations, parts(kernel.n_kept, width), strict=True):
                kept[i, :, part] = one.astype(dtype)
            for one, leaf in zip(last, new, strict=True):
                one[...] = leaf

        lax.fori_loop(0, grid.steps(), step, None)

    bias_1xG = kernel.bias(params)
    inputs = (
        grid.in_time(gates_x_TxBxG),
        grid.whole(params["W_h"].astype(dtype)),
        () if bias_1xG is None else (grid.whole(bias_1xG),),
        grid.mask(mask_TxB),
        tuple(grid.of_rows(leaf) for leaf in state),
    )
    results = (
        grid.in_time(jax.ShapeDtypeStruct((times, batch, width), dtype)),
        grid.in_time(jax.ShapeDtypeStruct((times, batch, kernel.n_kept * width), dtype)),
        grid.in_time(jax.ShapeDtypeStruct((times, batch, width), jnp.float32)),
        tuple(grid.of_rows(jax.ShapeDtypeStruct(leaf.shape, jnp.float32)) for leaf in state),
    )
    h_TxBxH, kept, read, last = grid.run(body, inputs, results, f"{kernel.name}_forward")
    return jax.tree.unflatten(structure, last), h_TxBxH, (kept, read)


def backward(
    kernel: Kernel, dtype: DTypeLike, params: Params, first: State, kept: tuple[Array, Array], mask_TxB: Array | None,
    d_h_TxBxH: Array, d_last: State,
) -> tuple[State, Array]:  # fmt: skip
    """As `seqjax.through_time.kernel.backward`."""
    structure = jax.tree.structure(d_last)
    d_last = tuple(jax.tree.leaves(d_last))
    times, batch, width = d_h_TxBxH.shape
    grid = Grid(kernel, dtype, times, batch, width, reverse=True)
    gates = slice(0, kernel.n_gates * width)

    def body(
        W: Any,
        d_h: Any,
        mask: Any,
        first: Any,
        kept: Any,
        read: Any,
        previous: Any,
        d_last: Any,
        out: Any,
        d_first: Any,
    ) -> None:
        _start(d_last, d_first)
        began = grid.time_block() == 0  # the first block of time is the last one here
        steps = grid.steps()

        def step(turn: Array, _: None) -> None:
            i = steps - 1 - turn
            d_state = tuple(one[...] for one in d_first)
            d_state = (d_state[0] + d_h[i].astype(jnp.float32), *d_state[1:])
            activations = [kept[i, :, part].astype(jnp.float32) for part in parts(kernel.n_kept, width)]
            edge = jnp.where(began, first[...], previous[0])
            before = jnp.where(i == 0, edge, read[jnp.maximum(i - 1, 0)])
            deltas, others = kernel.retreat(d_state, activations, before, read[i], jnp.tanh)
            shown = _shown(mask, i)
            deltas = seen(shown, deltas, [jnp.zeros_like(delta) for delta in deltas])
            for delta, part in zip(deltas, parts(kernel.n_deltas, width), strict=True):
                out[i, :, part] = delta.astype(dtype)
            d_before = (others[0] + dot(out[i, :, gates], W[...]), *others[1:])
            for one, leaf in zip(d_first, seen(shown, d_before, d_state), strict=True):
                one[...] = leaf

        lax.fori_loop(0, steps, step, None)

    activations, read = kept
    inputs = (
        grid.whole(params["W_h"].astype(dtype).T),
        grid.in_time(d_h_TxBxH),
        grid.mask(mask_TxB),
        grid.of_rows(jax.tree.leaves(first)[kernel.reads]),
        grid.in_time(activations),
        grid.in_time(read),
        grid.step_before(read),
        tuple(grid.of_rows(leaf) for leaf in d_last),
    )
    results = (
        grid.in_time(jax.ShapeDtypeStruct((times, batch, kernel.n_deltas * width), dtype)),
        tuple(grid.of_rows(jax.ShapeDtypeStruct(leaf.shape, jnp.float32)) for leaf in d_last),
    )
    deltas, d_first = grid.run(body, inputs, results, f"{kernel.name}_backward")
    return jax.tree.unflatten(structure, d_first), deltas


class Placed(NamedTuple):
    """An array, or its shape, and the block of it that a turn of the grid sees."""

    array: Any
    block: pl.BlockSpec


class Grid:
    """Blocks of rows, and for each all blocks of time, in order or from the last to the first."""

    def __init__(self, kernel: Kernel, dtype: DTypeLike, times: int, batch: int, width: int, reverse: bool) -> None:
        self.rows, steps = cut(kernel, width, batch, dtype)
        self.times, self.most_steps, self.reverse = times, min(steps, times), reverse
        self.vmem = bytes_needed(kernel, width, dtype, Cut(self.rows, steps))
        self.shape = (batch // self.rows, math.ceil(times / self.most_steps))

    def _time(self, turn: Any) -> Any:
        return self.shape[1] - 1 - turn if self.reverse else turn

    def time_block(self) -> Array:
        """The number of this block of time."""
        return self._time(pl.program_id(1))

    def steps(self) -> Array:
        """Steps in this block of time: the last one may have fewer."""
        return jnp.minimum(self.most_steps, self.times - self.time_block() * self.most_steps)

    def in_time(self, array: Any) -> Placed:
        """TxBx...: the steps of a block and its rows."""
        shape = (self.most_steps, self.rows, array.shape[-1])
        return Placed(array, pl.BlockSpec(shape, lambda row, turn: (self._time(turn), row, 0)))

    def step_before(self, array: Any) -> Placed:
        """TxBx...: the one step before a block; before the first block, step 0."""
        shape = (1, self.rows, array.shape[-1])
        place = lambda row, turn: (jnp.maximum(self._time(turn) * self.most_steps - 1, 0), row, 0)  # noqa: E731
        return Placed(array, pl.BlockSpec(shape, place))

    def of_rows(self, array: Any) -> Placed:
        """BxH: the rows of a block."""
        return Placed(array, pl.BlockSpec((self.rows, array.shape[-1]), lambda row, turn: (row, 0)))

    def whole(self, array: Any) -> Placed:
        """All of it, once in VMEM."""
        return Placed(array, pl.BlockSpec(array.shape, lambda row, turn: (0, 0), pipeline_mode=pl.Buffered(1)))

    def mask(self, mask_TxB: Array | None) -> tuple[Placed, ...]:
        """Rows of the mask are rows of a register, like the state's."""
        return () if mask_TxB is None else (self.in_time(mask_TxB.astype(jnp.float32)[..., None]),)

    def run(self, body: Callable[..., None], inputs: Any, results: Any, name: str) -> Any:
        """`body` in every turn. Inputs and results are trees of `Placed`."""

        def each(field: str, tree: Any) -> Any:
            return jax.tree.map(lambda one: getattr(one, field), tree, is_leaf=lambda one: isinstance(one, Placed))

        interpreted = target().platform != "tpu"
        return pl.pallas_call(
            body,
            out_shape=each("array", results),
            grid=self.shape,
            in_specs=each("block", inputs),
            out_specs=each("block", results),
            compiler_params=None if interpreted else _compiler_params(self.vmem),
            interpret=interpreted,
            name=name,
        )(*each("array", inputs))


def _compiler_params(vmem: int) -> Any:
    """Rows in any order, time in order. Imported here: it takes a third of a second."""
    from jax.experimental.pallas import tpu

    return tpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem)


def _start(first: Any, carried: Any) -> None:
    """In the first turn of a block of rows, the state is the first one."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for one, leaf in zip(carried, first, strict=True):
            one[...] = leaf[...]


def _shown(mask: Any, i: Array) -> Array | None:
    """Rows that the mask of step i shows, rows x 1."""
    return mask[0][i] > 0 if mask else None
