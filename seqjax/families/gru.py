"""Gated recurrent unit of Cho et al. (2014), arXiv 1406.1078, and its variant with the reset gate after the product.

    r_t = sigmoid(W_r x_t + U_r h_{t-1} + b_r)                     reset gate
    z_t = sigmoid(W_z x_t + U_z h_{t-1} + b_z)                     update gate
    n_t = tanh(W_n x_t + U_n (r_t * h_{t-1}) + b_n)                reset "before": Cho et al., equation 8
    n_t = tanh(W_n x_t + r_t * (U_n h_{t-1} + b_hn) + b_n)         reset "after": cuDNN and torch
    h_t = z_t * h_{t-1} + (1 - z_t) * n_t

"after" lets all three gates share one product per step; "before" needs two in sequence. Parameters, with the gates side
by side in the order r, z, n: W_x Dx3H, b 3H; "after" has W_h Hx3H and b_hn H, "before" has W_h Hx2H (r, z) and
W_hn HxH. State: h BxH. Vectors are rows here, so the code has x W where the equations have W x and U h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.families.recurrent import Recurrent
from seqjax.layers.dense import Params
from seqjax.layers.precision import contract
from seqjax.through_time.by_hand import gru as by_hand
from seqjax.through_time.gates import init_gates


@dataclass(frozen=True)
class GRU(Recurrent):
    """GRU: embedding, stacked recurrent layers, readout."""

    family: Literal["gru"] = "gru"
    """Gated recurrent unit."""
    reset: Literal["before", "after"] = "after"
    """Reset gate applied before the recurrent product (Cho et al. 2014) or after it (cuDNN, torch)."""

    label: ClassVar[str] = "GRU"
    colour: ClassVar[str] = "#009E73"
    backprop: ClassVar = by_hand.BACKPROP
    retired: ClassVar = {"forget_bias": 1.0}

    def init_cell(self, key: Array, d_in: int) -> Params:
        """Initial parameters of the variant `reset`, float32; biases only with `bias`."""
        params = init_gates(key, d_in, self.hidden, n_gates=3, bias=self.bias)
        if self.reset == "before":
            params["W_h"], params["W_hn"] = jnp.split(params["W_h"], [2 * self.hidden], axis=1)
        elif self.bias:
            params["b_hn"] = jnp.zeros(self.hidden)
        return params

    def gates(self, params: Params, h_BxH: Array, gates_x_BxG: Array, dtype: DTypeLike) -> dict[str, Array]:
        """r_t, z_t, n_t from h_{t-1} and gates_x = W x_t + b, in the variant of the parameters."""
        r_x, z_x, n_x = jnp.split(gates_x_BxG, 3, axis=-1)
        r_h, z_h, *n_h = jnp.split(contract("BH,HG->BG", h_BxH, params["W_h"], dtype), self._products(params), axis=-1)
        r = jax.nn.sigmoid(r_x + r_h)
        z = jax.nn.sigmoid(z_x + z_h)
        if "W_hn" in params:
            n = jnp.tanh(n_x + contract("BH,HG->BG", r * h_BxH, params["W_hn"], dtype))
        else:
            b_hn = params["b_hn"][None, :] if "b_hn" in params else 0.0
            n = jnp.tanh(n_x + r * (n_h[0] + b_hn))
        return {"r": r, "z": z, "n": n}

    def step(self, params: Params, h_BxH: Array, gates_x_BxG: Array, dtype: DTypeLike) -> Array:
        """h_t from h_{t-1}."""
        _, z, n = self.gates(params, h_BxH, gates_x_BxG, dtype).values()
        return z * h_BxH + (1 - z) * n

    @staticmethod
    def _products(params: Params) -> int:
        """The number of gates in the product with h: r, z, and n if its reset comes after the product."""
        return 2 if "W_hn" in params else 3
