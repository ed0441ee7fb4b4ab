"""A recurrence over all time steps in one kernel (Pallas) on an NVIDIA GPU: the state and the recurrent weights stay on
the chip.

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

ROWS = 16
"""Rows of the batch in one program: the least that a product on tensor cores takes."""
ON_CHIP = 128 * 1024
"""Bytes of recurrent weights that fit: an H100 has 227 KB of shared memory and 256 KB of registers for a program."""

Steps = tuple[Array, ...]
Cut = tuple[Any, int | None]  # an array or its shape, and the axis of the batch


def fits(kernel: Kernel, d_hidden: int, dtype: DTypeLike, target: Target) -> bool:
    """Whether the kernel runs on the target, and the weights stay on its chip: H <= 128 in bfloat16, 64 in float32."""
    width = jnp.dtype(dtype).itemsize
    can = target.platform == "cuda" and target.capability >= (8, 0) and width <= 4
    return can and kernel.n_gates * padded_width(d_hidden) ** 2 * width <= ON_CHIP


def padded_width(d_hidden: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (d_hidden - 1).bit_length())


def warps(width: int) -> int:
    """Warps of a program: each has at least 8 columns of a product, the least of the instruction."""
    return min(8, width // 8)


def padded(
    run: Callable[..., tuple[Array, State]], params: Params, x_TxBxD: Array, state: State, mask_TxB: Array | None
) -> tuple[Array, State]:  # fmt: skip
    """h_TxBxH and the last state of `run(params, x_TxBxD, state, mask_TxB)` at a padded H and B.

    Gates of padded units are 0 before activation, so their states stay 0, and no other unit reads them.
    """
    batch, d_hidden = jax.tree.leaves(state)[0].shape
    more_B, more_H = -batch % ROWS, padded_width(d_hidden) - d_hidden

    def widened(leaf: Array) -> Array:
        """H of every gate in the last axis."""
        of_gate = leaf.reshape(*leaf.shape[:-1], -1, d_hidden)
        return _pad(of_gate, -1, more_H).reshape(*leaf.shape[:-1], -1)

    params = {name: widened(leaf) for name, leaf in params.items()}
    params["W_h"] = _pad(params["W_h"], 0, more_H)
    state = jax.tree.map(lambda leaf: _pad(widened(leaf), 0, more_B), state)
    mask_TxB = None if mask_TxB is None else _pad(mask_TxB, 1, more_B)
    h_TxBxH, last = run(params, _pad(x_TxBxD, 1, more_B), state, mask_TxB)
    return h_TxBxH[:, :batch, :d_hidden], jax.tree.map(lambda leaf: leaf[:batch, :d_hidden], last)


def forward(
    kernel: Kernel, dtype: DTypeLike, params: Params, gates_x_TxBxG: Array, state: State, mask_TxB: Array | None
) -> tuple[State, State, Any]:
    """The last state, float32; the states after every step, h in `dtype`; what the backward pass needs, in `dtype`."""
    state = jax.tree.leaves(state)
    times, batch, _ = gates_x_TxBxG.shape
    width = state[0].shape[-1]
    bias_1xG = kernel.bias(params)
    inputs = [(gates_x_TxBxG, 1), (params["W_h"].astype(dtype), None), *[(leaf, 0) for leaf in state]]
    inputs += [one for one in ((bias_1xG, None), (mask_TxB, 1)) if one[0] is not None]

    def body(*refs: Any) -> None:
        x_ref, W_ref, *refs = refs
        first_refs, refs = refs[: len(state)], refs[len(state) :]
        bias_ref = refs.pop(0) if bias_1xG is not None else None
        mask_ref = refs.pop(0) if mask_TxB is not None else None
        state_refs, refs = refs[: len(state)], refs[len(state) :]
        kept_refs, last_refs = refs[: len(kernel.kept)], refs[len(kernel.kept) :]
        weights = [W_ref[:, gate] for gate in _parts(kernel.n_gates, width)]
        bias = [0.0 if bias_ref is None else bias_ref[:, gate] for gate in _parts(kernel.n_gates, width)]

        def read(t: Array) -> list[Array]:
            return [x_ref[t, :, gate] for gate in _parts(kernel.n_gates, width)]

        def step(t: Array, carried: tuple[Steps, list[Array]]) -> tuple[Steps, list[Array]]:
            state, x = carried
            ahead = read(jnp.minimum(t + 1, times - 1))  # read one step ahead: memory is slower than a step
            h = state[0].astype(dtype)
            products = [_dot(h, W) + b for W, b in zip(weights, bias, strict=True)]
            new, kept = kernel.advance(x, products, state, _tanh(dtype))
            if mask_ref is not None:
                seen = mask_ref[t, :][:, None]
                new = tuple(jnp.where(seen, a, b) for a, b in zip(new, state, strict=True))
            _write(state_refs, t, new, [1] * len(new), width)
            _write(kept_refs, t, kept, kernel.kept, width)
            return new, ahead

        last, _ = lax.fori_loop(0, times, step, (tuple(ref[...] for ref in first_refs), read(0)))
        for ref, leaf in zip(last_refs, last, strict=True):
            ref[...] = leaf

    steps = [(width, dtype), *[(width, jnp.float32)] * (len(state) - 1), *[(n * width, dtype) for n in kernel.kept]]
    results = [(jax.ShapeDtypeStruct((times, batch, wide), kind), 1) for wide, kind in steps]
    results += [(jax.ShapeDtypeStruct(leaf.shape, jnp.float32), 0) for leaf in state]
    outputs = _over_rows(body, inputs, results, batch, warps(width), f"{kernel.name}_forward")
    n_states, n_kept = len(state), len(kernel.kept)
    return _tree(outputs[n_states + n_kept :]), _tree(outputs[:n_states]), _tree(outputs[n_states:][:n_kept])


def backward(
    kernel: Kernel, dtype: DTypeLike, params: Params, first: State, states: State, kept: Any, mask_TxB: Array | None,
    d_h_TxBxH: Array, d_last: State,
) -> tuple[State, Any]:  # fmt: skip
    """The gradient of the first state, float32, and the deltas of every step, in `dtype`."""
    first, states, kept, d_last = map(jax.tree.leaves, (first, states, kept, d_last))
    times, batch, width = d_h_TxBxH.shape
    transposed = params["W_h"].astype(dtype).T
    read = kernel.reads
    inputs = [(transposed, None), (d_h_TxBxH, 1), (states[read], 1), (first[read], 0), *[(one, 1) for one in kept]]
    inputs += [*[(leaf, 0) for leaf in d_last], *([] if mask_TxB is None else [(mask_TxB, 1)])]

    def body(*refs: Any) -> None:
        W_ref, d_h_ref, after_ref, first_ref, *refs = refs
        kept_refs, refs = refs[: len(kept)], refs[len(kept) :]
        d_last_refs, refs = refs[: len(d_last)], refs[len(d_last) :]
        mask_ref = refs.pop(0) if mask_TxB is not None else None
        delta_refs, d_first_refs = refs[: len(kernel.deltas)], refs[len(kernel.deltas) :]
        weights = [W_ref[gate, :] for gate in _parts(kernel.n_gates, width)]
        first_BxH = first_ref[...].astype(jnp.float32)

        def load(t: Array) -> tuple[list[Array], Array, Array]:
            """Activations of step t, the state before it, and the gradient of its output."""
            found = [
                ref[t, :, part] for ref, n in zip(kept_refs, kernel.kept, strict=True) for part in _parts(n, width)
            ]
            before = after_ref[jnp.maximum(t - 1, 0), :, :]
            return found, before, d_h_ref[t, :, :]

        def step(turn: Array, carried: Any) -> Any:
            d_state, after, (found, before, d_h) = carried
            t = times - 1 - turn
            ahead = load(jnp.maximum(t - 1, 0))
            found = [one.astype(jnp.float32) for one in found]
            before = jnp.where(t == 0, first_BxH, before.astype(jnp.float32))
            d_state = (d_state[0] + d_h.astype(jnp.float32), *d_state[1:])
            deltas, d_before = kernel.retreat(d_state, found, before, after, _tanh(dtype))
            through = [_dot(delta.astype(dtype), W) for delta, W in zip(deltas, weights, strict=False)]
            d_before = (d_before[0] + sum(through[1:], through[0]), *d_before[1:])
            if mask_ref is not None:
                seen = mask_ref[t, :][:, None]
                d_before = tuple(jnp.where(seen, a, b) for a, b in zip(d_before, d_state, strict=True))
                deltas = [jnp.where(seen, delta, 0.0) for delta in deltas]
            _write(delta_refs, t, deltas, kernel.deltas, width)
            return d_before, before, ahead

        after = after_ref[times - 1, :, :].astype(jnp.float32)
        start = (tuple(ref[...] for ref in d_last_refs), after, load(times - 1))
        d_first, *_ = lax.fori_loop(0, times, step, start)
        for ref, leaf in zip(d_first_refs, d_first, strict=True):
            ref[...] = leaf

    results = [(jax.ShapeDtypeStruct((times, batch, n * width), dtype), 1) for n in kernel.deltas]
    results += [(jax.ShapeDtypeStruct(leaf.shape, jnp.float32), 0) for leaf in d_last]
    outputs = _over_rows(body, inputs, results, batch, warps(width), f"{kernel.name}_backward")
    return _tree(outputs[len(kernel.deltas) :]), _tree(outputs[: len(kernel.deltas)])


def _over_rows(
    body: Callable[..., None], inputs: Sequence[Cut], results: Sequence[Cut], batch: int, warps: int, name: str
) -> list[Array]:  # fmt: skip
    """`body` in one program for every `ROWS` rows of the batch."""
    interpret = _interpreted()
    return pl.pallas_call(
        body,
        out_shape=[result for result, _ in results],
        grid=(batch // ROWS,),
        in_specs=[_block(*one) for one in inputs],
        out_specs=[_block(*one) for one in results],
        compiler_params=None if interpret else triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name=name,
    )(*[array for array, _ in inputs])


def _block(array: Array | jax.ShapeDtypeStruct, axis: int | None) -> pl.BlockSpec:
    """What one program sees of an array: `ROWS` rows of the axis of the batch, or with None all of it."""
    shape = tuple(ROWS if i == axis else size for i, size in enumerate(array.shape))
    return pl.BlockSpec(shape, lambda row: tuple(row if i == axis else 0 for i in range(len(shape))))


def _tree(arrays: Sequence[Array]) -> Any:
    """One array, or a tuple of several: the form of a cell's state."""
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def _pad(array: Array, axis: int, more: int) -> Array:
    """`more` zeros at the end of an axis."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, more)
    return jnp.pad(array, widths) if more else array


def _parts(n: int, width: int) -> list[slice]:
    """The columns of each of n arrays of `width` that stand side by side."""
    return [slice(i * width, (i + 1) * width) for i in range(n)]


def _write(refs: Sequence[Any], t: Array, arrays: Sequence[Array], widths: Sequence[int], width: int) -> None:
    """The arrays of step t, several side by side in each of `refs`."""
    arrays = list(arrays)
    for ref, n in zip(refs, widths, strict=True):
        for part in _parts(n, width):
            ref[t, :, part] = arrays.pop(0).astype(ref.dtype)


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _interpreted() -> bool:
    """Whether the kernel is run as operations on arrays: for targets other than NVIDIA GPUs, in tests."""
    return target().platform != "cuda"


def _tanh(dtype: DTypeLike) -> Callable[[Array], Array]:
    """The GPU's instruction below float32, else by exp: its absolute error is 1e-7."""
    if jnp.dtype(dtype).itemsize < 4 and not _interpreted():
        return triton.approx_tanh
    return lambda x: 2 / (1 + jnp.exp(-2 * x)) - 1
