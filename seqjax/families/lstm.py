"""Long short-term memory of Hochreiter & Schmidhuber (1997), Neural Computation 9(8), with the forget gate of Gers,
Schmidhuber & Cummins (2000), Neural Computation 12(10).

    i_t = sigmoid(W_i [h_{t-1}, x_t] + b_i)        input gate
    f_t = sigmoid(W_f [h_{t-1}, x_t] + b_f)        forget gate
    g_t = tanh   (W_g [h_{t-1}, x_t] + b_g)        candidate
    o_t = sigmoid(W_o [h_{t-1}, x_t] + b_o)        output gate
    c_t = f_t * c_{t-1} + i_t * g_t
    h_t = o_t * tanh(c_t)

The product with the concatenation [h, x] is split into W_h h + W_x x, with the four gates side by side in the order
i, f, g, o (torch's). Parameters: W_x DxG, W_h HxG, b G with G = 4H. State: (h, c), both BxH. Vectors are rows here, so
the code has x W where the equations have W x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.families.family import Impossible
from seqjax.families.recurrent import Recurrent
from seqjax.layers.dense import Params
from seqjax.layers.precision import contract
from seqjax.through_time.by_hand import lstm as by_hand
from seqjax.through_time.gates import init_gates

State = tuple[Array, Array]


@dataclass(frozen=True)
class LSTM(Recurrent):
    """LSTM: embedding, stacked recurrent layers, readout."""

    family: Literal["lstm"] = "lstm"
    """Long short-term memory."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate."""

    label: ClassVar[str] = "LSTM"
    colour: ClassVar[str] = "#D55E00"
    states: ClassVar = ("h", "c")
    backprop: ClassVar = by_hand.BACKPROP
    retired: ClassVar = {"reset": "after"}

    def check(self) -> None:
        """Raise `Impossible` also for a `forget_bias` without biases."""
        super().check()
        if not self.bias and self.forget_bias != 1.0:
            raise Impossible("model.forget_bias", "needs model.bias true")

    def init_cell(self, key: Array, d_in: int) -> Params:
        """Initial parameters, float32; `b` only with `bias`.

        The forget gate's bias starts at `forget_bias`: 1 keeps the cell's memory open at the start
        (Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures").
        """
        params = init_gates(key, d_in, self.hidden, n_gates=4, bias=self.bias)
        if self.bias:
            params["b"] = params["b"].at[self.hidden : 2 * self.hidden].set(self.forget_bias)
        return params

    def gates(self, params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> dict[str, Array]:
        """i_t, f_t, g_t, o_t from h_{t-1} and gates_x = W_x x_t + b."""
        h_BxH, _ = state
        gates_BxG = gates_x_BxG + contract("BH,HG->BG", h_BxH, params["W_h"], dtype)
        i, f, g, o = jnp.split(gates_BxG, 4, axis=-1)
        return {"i": jax.nn.sigmoid(i), "f": jax.nn.sigmoid(f), "g": jnp.tanh(g), "o": jax.nn.sigmoid(o)}

    def step(self, params: Params, state: State, gates_x_BxG: Array, dtype: DTypeLike) -> State:
        """(h_t, c_t) from (h_{t-1}, c_{t-1})."""
        _, c_BxH = state
        i, f, g, o = self.gates(params, state, gates_x_BxG, dtype).values()
        c_BxH = f * c_BxH + i * g
        return o * jnp.tanh(c_BxH), c_BxH
