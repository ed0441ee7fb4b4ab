"""A recurrence over all time steps in one kernel (Pallas, Triton) on an NVIDIA GPU: the state and the recurrent weights
stay on the chip.

A scan is a loop of kernels. Every time step reads W_h and the state from memory and costs the start of its kernels.
Here one program walks through all T steps of `ROWS` rows of the batch. It loads W_h once, before the first step. The
inputs' part of the gates, W_x x_t + b, is still one product outside, and so are the gradients of the weights.
`jax.vmap` over runs adds an axis to the grid of programs.

The step of a cell is written on arrays of one gate each, `seqjax.through_time.backprop.Kernel`. H is padded to a power
of two with zeros, B to a multiple of `ROWS`.

Rounding: as the scan, products in `dtype` with float32 sums, and a float32 state. In bfloat16 the activations and
deltas are stored in bfloat16, and tanh is the GPU's approximation (relative error 2^-11).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.typing import DTypeLike

from seqjax.layers.dense import Params
from seqjax.layers.target import Target, target
from seqjax.through_time.backprop import Kernel, State
from seqjax.through_time.thread_order import ROWS, Order

ON_CHIP = 128 * 1024
"""Bytes of recurrent weights that fit: an H100 has 227 KB of shared memory and 256 KB of registers for a program."""


def fits(kernel: Kernel, d_hidden: int, dtype: DTypeLike, target: Target) -> bool:
    """Whether the kernel runs on the target, and the weights stay on its chip: H <= 128 in bfloat16, 64 in float32."""
    width = jnp.dtype(dtype).itemsize
    can = target.platform == "cuda" and target.capability >= (8, 0) and width <= 4
    return can and kernel.n_gates * padded_width(d_hidden) ** 2 * width <= ON_CHIP


def padded_batch(kernel: Kernel, batch: int, width: int, dtype: DTypeLike) -> int:
    """The next multiple of `ROWS`."""
    return batch + -batch % ROWS


def padded_width(d_hidden: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (d_hidden - 1).bit_length())


def warps(width: int) -> int:
    """Warps of a program, the fastest on an H100 of those tried (experiments/results/kernel/H100.md).

    Each has at least 8 columns of a product, the least of the instruction.
    """
    return min(8, max(2, width // 16))


def order(width: int) -> Order:
    """The order of threads of a program for H = `width`."""
    return Order(warps(width), width // (8 * warps(width)))


def arranged(gates: Array, width: int) -> Array:
    """The last axis, gates of `width` side by side, in the order of threads."""
    return order(width).permute(gates)


def forward(
    kernel: Kernel, dtype: DTypeLike, params: Params, gates_x_TxBxG: Array, state: State, mask_TxB: Array | None
) -> tuple[State, Array, tuple[Array, Array]]:
    """The last state, float32; h_TxBxH in `dtype`; and for the backward pass, in the order of threads, the activations
    in `dtype` and the array `kernel.reads` of the states in float32."""
    structure = jax.tree.structure(state)
    state = tuple(jax.tree.leaves(state))
    times, batch, _ = gates_x_TxBxG.shape
    width = state[0].shape[-1]
    own = order(width)
    gates, tanh = parts(kernel.n_gates, width), _tanh(dtype)

    def body(x: Any, W: Any, bias: Any, mask: Any, first: Any, h: Any, kept: Any, read: Any, last: Any) -> None:
        weights = [W[:, gate] for gate in gates]
        biases = [bias[0][:, gate] for gate in gates] if bias else [0.0] * len(gates)

        def load(t: Array) -> list[Array]:
            return [own.read(x, t, i) for i in range(kernel.n_gates)]

        def step(t: Array, carried: Any) -> Any:
            state, gates_x = carried
            ahead = load(jnp.minimum(t + 1, times - 1))  # one step ahead: memory is slower than a step
            rounded = state[0].astype(dtype)
            products = [dot(rounded, one) + b for one, b in zip(weights, biases, strict=True)]
            gates_x = [own.by_rows(one) for one in gates_x]
            new, activations = kernel.advance(gates_x, products, state, tanh)
            new = seen(_shown(mask, t), new, state)
            h[t, :, :] = new[0].astype(dtype)
            read[t, 0, 0] = own.store(new[kernel.reads], jnp.float32)
            for i, one in enumerate(activations):
                kept[t, 0, i] = own.store(one, dtype)
            return new, ahead

        final, _ = lax.fori_loop(0, times, step, (tuple(one[...] for one in first), load(0)))
        for one, leaf in zip(last, final, strict=True):
            one[...] = leaf

    bias_1xG = kernel.bias(params)
    inputs = (
        Cut(gates_x_TxBxG, 1),
        Cut(own.restore(params["W_h"].astype(dtype))),
        () if bias_1xG is None else (Cut(own.restore(bias_1xG)),),
        () if mask_TxB is None else (Cut(mask_TxB, 1),),
        tuple(Cut(leaf, 0) for leaf in state),
    )
    results = (
        Cut(jax.ShapeDtypeStruct((times, batch, width), dtype), 1),
        Cut(own.shape(times, batch, kernel.n_kept, dtype), 1),
        Cut(own.shape(times, batch, 1, jnp.float32), 1),
        tuple(Cut(jax.ShapeDtypeStruct(leaf.shape, jnp.float32), 0) for leaf in state),
    )
    h_TxBxH, kept, read, last = _over_rows(body, inputs, results, batch, warps(width), f"{kernel.name}_forward")
    return jax.tree.unflatten(structure, last), h_TxBxH, (kept, read)


def backward(
    kernel: Kernel, dtype: DTypeLike, params: Params, first: State, kept: tuple[Array, Array], mask_TxB: Array | None,
    d_h_TxBxH: Array, d_last: State,
) -> tuple[State, Array]:  # fmt: skip
    """The gradient of the first state, float32, and the deltas of every step side by side, TxBx..., in `dtype`."""
    structure = jax.tree.structure(d_last)
    d_last = tuple(jax.tree.leaves(d_last))
    times, batch, width = d_h_TxBxH.shape
    own = order(width)
    tanh = _tanh(dtype)

    def body(
        W: Any, d_h: Any, mask: Any, first: Any, kept: Any, read: Any, d_last: Any, out: Any, d_first: Any
    ) -> None:
        weights = [W[gate, :] for gate in parts(kernel.n_gates, width)]
        first_16xH = first[...]

        def load(t: Array) -> Any:
            """Activations of step t, the state before it, and the gradient of its output."""
            return [kept[t, 0, i] for i in range(kernel.n_kept)], read[jnp.maximum(t - 1, 0), 0, 0], d_h[t, :, :]

        def step(turn: Array, carried: Any) -> Any:
            d_state, after, (activations, before, d_output) = carried
            t = times - 1 - turn
            ahead = load(jnp.maximum(t - 1, 0))
            activations = [own.load(one) for one in activations]
            before = jnp.where(t == 0, first_16xH, own.load(before))
            d_state = (d_state[0] + d_output.astype(jnp.float32), *d_state[1:])
            deltas, (d_before, *others) = kernel.retreat(d_state, activations, before, after, tanh)
            for delta, one in zip(deltas, weights, strict=False):
                d_before = d_before + dot(delta.astype(dtype), one)
            d_before = seen(_shown(mask, t), (d_before, *others), d_state)
            deltas = seen(_shown(mask, t), deltas, [jnp.zeros_like(delta) for delta in deltas])
            for i, delta in enumerate(deltas):
                own.write(out, t, i, delta)
            return d_before, before, ahead

        start = (tuple(one[...] for one in d_last), own.load(read[times - 1, 0, 0]), load(times - 1))
        final, *_ = lax.fori_loop(0, times, step, start)
        for one, leaf in zip(d_first, final, strict=True):
            one[...] = leaf

    inputs = (
        Cut(own.restore(params["W_h"].astype(dtype)).T),
        Cut(d_h_TxBxH, 1),
        () if mask_TxB is None else (Cut(mask_TxB, 1),),
        Cut(jax.tree.leaves(first)[kernel.reads], 0),
        *(Cut(one, 1) for one in kept),
        tuple(Cut(leaf, 0) for leaf in d_last),
    )
    results = (
        Cut(jax.ShapeDtypeStruct((times, batch, kernel.n_deltas * width), dtype), 1),
        tuple(Cut(jax.ShapeDtypeStruct(leaf.shape, jnp.float32), 0) for leaf in d_last),
    )
    deltas, d_first = _over_rows(body, inputs, results, batch, warps(width), f"{kernel.name}_backward")
    return jax.tree.unflatten(structure, d_first), deltas


@dataclass(frozen=True)
class Cut:
    """An array, or its shape, and the axis of it that the programs share; None: each sees all of it."""

    array: Any
    axis: int | None = None

    def block(self, programs: int) -> pl.BlockSpec:
        """What one program sees."""
        axis, shape = self.axis, self.array.shape
        shape = tuple(size // programs if i == axis else size for i, size in enumerate(shape))
        return pl.BlockSpec(shape, lambda row: tuple(row if i == axis else 0 for i in range(len(shape))))


def _over_rows(body: Callable[..., None], inputs: Any, results: Any, batch: int, n_warps: int, name: str) -> Any:
    """`body` in one program for every `ROWS` rows of the batch. Inputs and results are trees of `Cut`."""
    programs = batch // ROWS
    return pl.pallas_call(
        body,
        out_shape=jax.tree.map(lambda cut: cut.array, results),
        grid=(programs,),
        in_specs=jax.tree.map(lambda cut: cut.block(programs), inputs),
        out_specs=jax.tree.map(lambda cut: cut.block(programs), results),
        compiler_params=None if _interpreted() else triton.CompilerParams(num_warps=n_warps, num_stages=1),
        interpret=_interpreted(),
        name=name,
    )(*jax.tree.map(lambda cut: cut.array, inputs))


def seen(shown: Array | None, there: Sequence[Array], elsewhere: Sequence[Array]) -> tuple[Array, ...]:
    """`there` in rows that are shown, rows x 1, else `elsewhere`; None: all are."""
    if shown is None:
        return tuple(there)
    return tuple(jnp.where(shown, a, b) for a, b in zip(there, elsewhere, strict=True))


def _shown(mask: Any, t: Array) -> Array | None:
    """Rows that the mask of step t shows."""
    return mask[0][t, :][:, None] if mask else None


def parts(n: int, width: int) -> list[slice]:
    """The columns of each of n arrays of `width` that stand side by side."""
    return [slice(i * width, (i + 1) * width) for i in range(n)]


def dot(a: Array, b: Array) -> Array:
    """A product with float32 sums."""
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _interpreted() -> bool:
    """Whether the kernel is run as operations on arrays: for targets other than NVIDIA GPUs, in tests."""
    return target().platform != "cuda"


def _tanh(dtype: DTypeLike) -> Callable[[Array], Array]:
    """The GPU's instruction below float32, else by exp: its absolute error is 1e-7."""
    if jnp.dtype(dtype).itemsize < 4 and not _interpreted():
        return triton.approx_tanh
    return lambda x: 2 / (1 + jnp.exp(-2 * x)) - 1
