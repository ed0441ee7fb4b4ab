"""Gated recurrent unit of Cho et al. (2014), arXiv 1406.1078, and its variant with the reset gate after the matmul.

    r_t = sigmoid(W_r x_t + U_r h_{t-1} + b_r)                     reset gate
    z_t = sigmoid(W_z x_t + U_z h_{t-1} + b_z)                     update gate
    n_t = tanh(W_n x_t + U_n (r_t * h_{t-1}) + b_n)                reset "before": Cho et al., equation 8
    n_t = tanh(W_n x_t + r_t * (U_n h_{t-1} + b_hn) + b_n)         reset "after": cuDNN and torch
    h_t = z_t * h_{t-1} + (1 - z_t) * n_t

"after" lets all three gates share one matmul per step; "before" needs two in sequence. Parameters, with the gates side
by side in the order r, z, n: W_x Dx3H, b 3H; "after" has W_h Hx3H and b_hn H, "before" has W_h Hx2H (r, z) and
W_hn HxH. The names thus tell the variants apart, and `step` reads the variant from them. State: h BxH. Vectors are rows
here, so the code has x W where the equations have W x and U h.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells.cell import Backprop, Cell, Params, activate, init_gates, project_gates
from seqjax.cells.precision import contract
from seqjax.config import RecurrentConfig


def init(key: Array, d_in: int, d_hidden: int, config: RecurrentConfig) -> Params:
    """Fresh parameters of the variant `config.reset`, float32; biases only with `config.bias`."""
    params = init_gates(key, d_in, d_hidden, n_gates=3, bias=config.bias)
    if config.reset == "before":
        params["W_h"], params["W_hn"] = jnp.split(params["W_h"], [2 * d_hidden], axis=1)
    elif config.bias:
        params["b_hn"] = jnp.zeros(d_hidden)
    return params


def initial_state(batch: int, d_hidden: int) -> Array:
    """h_BxH of zeros, float32."""
    return jnp.zeros((batch, d_hidden), jnp.float32)


def step(params: Params, h_BxH: Array, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """h_t from h_{t-1} and gates_x = W x_t + b, in the variant that the parameters belong to."""
    step_variant = step_reset_before if "W_hn" in params else step_reset_after
    return step_variant(params, h_BxH, gates_x_BxG, dtype)


def step_reset_after(params: Params, h_BxH: Array, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """One step of the variant of cuDNN and torch."""
    r_x, z_x, n_x = jnp.split(gates_x_BxG, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(contract("BH,HG->BG", h_BxH, params["W_h"], dtype), 3, axis=-1)
    if "b_hn" in params:
        n_h = n_h + params["b_hn"][None, :]
    r = jax.nn.sigmoid(r_x + r_h)
    z = jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + r * n_h)
    h_BxH = z * h_BxH + (1 - z) * n
    return h_BxH, h_BxH


def step_reset_before(params: Params, h_BxH: Array, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """One step of the variant of Cho et al."""
    r_x, z_x, n_x = jnp.split(gates_x_BxG, 3, axis=-1)
    r_h, z_h = jnp.split(contract("BH,HG->BG", h_BxH, params["W_h"], dtype), 2, axis=-1)
    r = jax.nn.sigmoid(r_x + r_h)
    z = jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + contract("BH,HG->BG", r * h_BxH, params["W_hn"], dtype))
    h_BxH = z * h_BxH + (1 - z) * n
    return h_BxH, h_BxH


def advance(params: Params, h_BxH: Array, gates_x_BxG: Array, dtype: DTypeLike) -> tuple[Array, tuple[Array, ...]]:
    """As `step`; keeps r and z side by side, n, and, reset after, U_n h + b_hn."""
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
    """With n' = (1 - z) (1 - n^2), what the candidate's gate gives to h_t, and z' = (h_{t-1} - n) z (1 - z):

    reset after: of the products U h with respect to h_t, (n_h r (1 - r) n', z', r n'), TxBxG; and z = dh_t / dh_{t-1}.
    reset before: of r's gate with respect to (r * h), h_{t-1} r (1 - r); z'; n'; r and z.
    """
    rz, n, *n_h = kept
    r, z = jnp.split(rz, 2, axis=-1)
    to_n = (1 - z) * (1 - n * n)
    to_z = (before_TxBxH - n) * z * (1 - z)
    if "W_hn" in params:
        return before_TxBxH * r * (1 - r), to_z, to_n, r, z
    return jnp.concatenate([n_h[0] * r * (1 - r) * to_n, to_z, r * to_n], axis=-1), z


def retreat(params: Params, d_h_BxH: Array, slopes: tuple[Array, ...], dtype: DTypeLike) -> tuple[Any, Array]:
    """dL/dh_{t-1}, and the deltas. Reset after: of the products U h, BxG, and dL/dh_t; before: of the gates, BxG."""
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


CELL = Cell("gru", init, initial_state, project_gates, step, Backprop(advance, slopes, retreat, gradients))
