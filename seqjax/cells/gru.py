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

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells.cell import Cell, Params, init_gates, project_gates
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


CELL = Cell(init, initial_state, project_gates, step)
