"""Simple recurrent network of Elman (1990), "Finding structure in time", Cognitive Science 14.

    h_t = tanh(W_h h_{t-1} + W_x x_t + b)

Parameters: W_x DxH, W_h HxH, b H. State: h BxH. Vectors are rows here, so the code has x W where the equation has W x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.families.recurrent import Recurrent
from seqjax.layers.dense import Params
from seqjax.layers.precision import contract
from seqjax.through_time.by_hand import elman as by_hand
from seqjax.through_time.gates import init_gates


@dataclass(frozen=True)
class Elman(Recurrent):
    """Elman network: embedding, stacked recurrent layers, readout."""

    family: Literal["elman"] = "elman"
    """Simple recurrent network."""

    label: ClassVar[str] = "Elman"
    colour: ClassVar[str] = "#CC79A7"
    backprop: ClassVar = by_hand.BACKPROP
    retired: ClassVar = {"forget_bias": 1.0, "reset": "after"}

    def init_cell(self, key: Array, d_in: int) -> Params:
        """Initial parameters, float32; `b` only with `bias`."""
        return init_gates(key, d_in, self.hidden, n_gates=1, bias=self.bias)

    def step(self, params: Params, h_BxH: Array, gates_x_BxH: Array, dtype: DTypeLike) -> Array:
        """h_t from h_{t-1} and gates_x = W_x x_t + b."""
        return jnp.tanh(gates_x_BxH + contract("BH,HG->BG", h_BxH, params["W_h"], dtype))
