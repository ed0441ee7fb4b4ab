"""Backward pass of the GRU, both variants; the equations are in `seqjax.families.gru`.

The activations are kept. The parameters tell the variant: only reset "before" has W_hn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers import native
from seqjax.layers.dense import Params
from seqjax.layers.precision import contract
from seqjax.through_time.backprop import Backprop, Compiled, Kernel
from seqjax.through_time.gates import activate


def advance(params: Params, h_BxH: Array, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[Array, tuple[Array, ...]]:
    """As `step`; keeps [r, z], n, and, with reset after, U_n h + b_hn."""
    d_hidden = h_BxH.shape[-1]
    gates_h_BxG = contract("BH,HG->BG", h_BxH, params["W_h"], dtype)
    rz_x, n_x = jnp.split(gates_x_BxG, [2 * d_hidden], axis=-1)
    rz = activate(rz_x + gates_h_BxG[:, : 2 * d_hidden], is_sigmoid=(True, True))
    r, z = jnp.split(rz, 2, axis=-1)
    if "W_hn" in params:
        n = jnp.tanh(n_x + contract("BH,HG->BG", r * h_BxH, params["W_hn"], dtype))
        kept = (rz, n)
    else:
        n_h = gates_h_BxG[:, 2 * d_hidden :]
        if "b_hn" in params:
            n_h = n_h + params["b_hn"][None, :]
        n = jnp.tanh(n_x + r * n_h)
        kept = (rz, n, n_h)
    return n + z * (h_BxH - n), kept


def slopes(params: Params, before_TxBxH: Array, after_TxBxH: Array, kept: tuple[Array, ...]) -> tuple[Array, ...]:
    """Local derivatives, with n' = (1 - z) (1 - n^2) and z' = (h_{t-1} - n) z (1 - z) of h_t by the gates of n and z.

    Reset after: of h_t by the products U h, (n_h r (1 - r) n', z', r n'), TxBxG; and z.
    Reset before: of r * h by the gate of r, h_{t-1} r (1 - r); z'; n'; r and z.
    """
    rz, n, *n_h = kept
    r, z = jnp.split(rz, 2, axis=-1)
    to_n = (1 - z) * (1 - n * n)
    to_z = (before_TxBxH - n) * z * (1 - z)
    if "W_hn" in params:
        return before_TxBxH * r * (1 - r), to_z, to_n, r, z
    return jnp.concatenate([n_h[0] * r * (1 - r) * to_n, to_z, r * to_n], axis=-1), z


def retreat(params: Params, d_h_BxH: Array, slopes: tuple[Array, ...], dtype: DTypeLike) -> tuple[Any, Array]:
    """The deltas and dL/dh_{t-1}. Deltas with reset after: dL/d(U h), BxG, and dL/dh_t; before: dL/dgates, BxG."""
    if "W_hn" not in params:
        slope_BxG, z = slopes
        d_gates_h_BxG = slope_BxG * jnp.tile(d_h_BxH, (1, 3))
        d_before_BxH = d_h_BxH * z + contract("BG,HG->BH", d_gates_h_BxG, params["W_h"], dtype)
        return (d_gates_h_BxG, d_h_BxH), d_before_BxH
    to_r, to_z, to_n, r, z = slopes
    d_n = d_h_BxH * to_n
    d_rh = contract("BG,HG->BH", d_n, params["W_hn"], dtype)
    d_rz = jnp.concatenate([d_rh * to_r, d_h_BxH * to_z], axis=-1)
    d_before_BxH = d_h_BxH * z + d_rh * r + contract("BG,HG->BH", d_rz, params["W_h"], dtype)
    return jnp.concatenate([d_rz, d_n], axis=-1), d_before_BxH


def gradients(
    params: Params, before_TxBxH: Array, kept: tuple[Array, ...], deltas: Any, dtype: DTypeLike
) -> tuple[Array, Params]:
    """d_gates_x_TxBxG, and the gradients of W_h and of W_hn or b_hn, each one product or sum over all steps."""
    rz, n, *_ = kept
    r, z = jnp.split(rz, 2, axis=-1)
    if "W_hn" in params:
        d_rz, d_n = jnp.split(deltas, [rz.shape[-1]], axis=-1)
        return deltas, {
            "W_h": contract("TBH,TBG->HG", before_TxBxH, d_rz, dtype),
            "W_hn": contract("TBH,TBG->HG", r * before_TxBxH, d_n, dtype),
        }
    d_gates_h_TxBxG, d_h_TxBxH = deltas
    d_rz, d_n_h = jnp.split(d_gates_h_TxBxG, [rz.shape[-1]], axis=-1)
    d_params = {"W_h": contract("TBH,TBG->HG", before_TxBxH, d_gates_h_TxBxG, dtype)}
    if "b_hn" in params:
        d_params["b_hn"] = d_n_h.sum((0, 1))
    d_n_x = d_h_TxBxH * (1 - z) * (1 - n * n)
    return jnp.concatenate([d_rz, d_n_x], axis=-1), d_params


def compiled_forward(params: Params, gates_x_TxBxG: Array, h_BxH: Array) -> tuple[Array, Array, tuple[Array, ...]]:
    """The last state, all states, and the residuals of `advance`."""
    weights, d_hidden = params["W_h"], h_BxH.shape[-1]
    bias = params.get("b_hn", jnp.zeros(d_hidden, jnp.float32))
    h_TxBxH = native.like(gates_x_TxBxG, d_hidden)
    results = (h_TxBxH, native.like(gates_x_TxBxG, 2 * d_hidden), h_TxBxH, h_TxBxH)
    states, *kept = native.call("gru_forward", results, gates_x_TxBxG, weights, bias, h_BxH)
    return states[-1], states, tuple(kept)


def compiled_backward(
    params: Params, first: Array, h_TxBxH: Array, kept: tuple[Array, ...], d_h_TxBxH: Array, d_last: Array
) -> tuple[Array, tuple[Array, ...]]:
    """The gradient of the first state, and the deltas."""
    weights = params["W_h"]
    results = (native.like(d_h_TxBxH, weights.shape[1]), d_h_TxBxH, d_last)
    *deltas, d_first = native.call("gru_backward", results, first, h_TxBxH, *kept, weights, d_h_TxBxH, d_last)
    return d_first, tuple(deltas)


def kernel_bias(params: Params) -> Array | None:
    """b_hn belongs to the product for n, the last gate."""
    return jnp.pad(params["b_hn"], (2 * len(params["b_hn"]), 0))[None, :] if "b_hn" in params else None


def kernel_advance(
    gates_x: Sequence[Array], products: Sequence[Array], state: tuple[Array], tanh: Callable[[Array], Array]
) -> tuple[tuple[Array], list[Array]]:
    """As `advance` with reset after, one array for each gate."""
    r, z = (0.5 * tanh(0.5 * (x + u)) + 0.5 for x, u in zip(gates_x[:2], products[:2], strict=True))
    n = tanh(gates_x[2] + r * products[2])
    return (n + z * (state[0] - n),), [r, z, n, products[2]]


def kernel_retreat(
    d_state: tuple[Array], kept: Sequence[Array], before: Array, after: Array, tanh: Callable[[Array], Array]
) -> tuple[list[Array], tuple[Array]]:
    """As `slopes` and `retreat` with reset after: dL/d(U h), then dL/dn before activation; from h before the step."""
    (d_h,), (r, z, n, n_h) = d_state, kept
    d_n = d_h * (1 - z) * (1 - n * n)
    return [d_n * n_h * r * (1 - r), d_h * (before - n) * z * (1 - z), d_n * r, d_n], (d_h * z,)


def kernel_gradients(
    params: Params, before_TxBxH: Array, deltas_TxBx4H: Array, dtype: DTypeLike
) -> tuple[Array, Params]:
    """As `gradients` with reset after."""
    d_hidden = before_TxBxH.shape[-1]
    d_gates_h_TxBxG, d_n_TxBxH = jnp.split(deltas_TxBx4H, [3 * d_hidden], axis=-1)
    d_rz, d_n_h = jnp.split(d_gates_h_TxBxG, [2 * d_hidden], axis=-1)
    d_params = {"W_h": contract("TBH,TBG->HG", before_TxBxH, d_gates_h_TxBxG, dtype)}
    if "b_hn" in params:
        d_params["b_hn"] = d_n_h.sum((0, 1))
    return jnp.concatenate([d_rz, d_n_TxBxH], axis=-1), d_params


COMPILED = Compiled(lambda params: "W_hn" not in params, compiled_forward, compiled_backward)
KERNEL = Kernel(
    name="gru",
    knows=lambda params: "W_hn" not in params,
    n_gates=3,
    n_kept=4,
    n_deltas=4,
    reads=0,
    bias=kernel_bias,
    advance=kernel_advance,
    retreat=kernel_retreat,
    gradients=kernel_gradients,
)
BACKPROP = Backprop(advance, slopes, retreat, gradients, COMPILED, KERNEL)
