"""Families whose state is a vector; each entry has a factor and a term of its own, from the inputs alone.

    a_t, b_t = factors(W_g x_t + b_g for each gate g)
    h_t      = a_t * h_{t-1} + b_t
    y_t      = W_o h_t                                  only if the state's width R differs from D

All steps are projected at once; `seqjax.through_time.linear` computes the recurrence. With `conv`, x_t stands for the
inputs after a causal convolution. A family with another mixer than these lines defines `init_mixer` and `mix` too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from pydantic import NonNegativeInt, PositiveInt

from seqjax.families.family import Impossible, Watch
from seqjax.families.stacked import Stacked, State
from seqjax.layers.convolution import convolve, init_convolution
from seqjax.layers.dense import Params, draw_normal
from seqjax.layers.precision import contract
from seqjax.through_time.linear import linear_scan


@dataclass(frozen=True)
class Diagonal(Stacked):
    """The base of families with a diagonal linear recurrence. A family defines `gates` and `factors`.

    Parameters of a mixer: W_gates DxGxR, b_gates GxR with `bias`, W_o RxD if R differs from D; with `conv` "conv", its
    kernel over the inputs. State: "h" BxR; with `conv` "past", the last inputs.
    """

    d_hidden: PositiveInt | None = None
    """R, width of the state; null: equal to d_model."""
    conv: NonNegativeInt = 0
    """Taps of a causal convolution before the recurrence; 0: none."""
    recurrence: Literal["auto", "sequential", "associative", "blocked"] = "auto"
    """How the recurrence is computed: sequential on a CPU and blocked elsewhere (auto), or one way everywhere."""

    through_time: ClassVar[str] = "diagonal"
    gates: ClassVar[tuple[str, ...]] = ()
    """Names of the gates, in the order of G."""

    def factors(self, *gates_TxBxR: Array) -> tuple[Array, Array, dict[str, Array]]:
        """a_TxBxR and b_TxBxR from W x_t + b of each gate, and activations by name for `seqjax inspect`."""
        raise NotImplementedError

    @property
    def state_width(self) -> int:
        """R."""
        return self.d_hidden or self.d_model

    @property
    def taps(self) -> int:
        """Taps of the convolution that the model has."""
        return self.conv

    @property
    def conv_width(self) -> int:
        """Channels of the convolution."""
        return self.d_model

    def widened(self, d_model: int) -> Self:
        """The model at another D. R and F, if given, stay in proportion."""
        hidden = None if self.d_hidden is None else self.proportional(self.d_hidden, d_model)
        return dataclasses.replace(super().widened(d_model), d_hidden=hidden)

    def check(self) -> None:
        """Raise `Impossible` for a convolution of one tap, and as `Stacked.check`."""
        super().check()
        if self.conv == 1:
            raise Impossible("model.conv", "one tap sees no other step; allowed: 0, or 2 and more")

    def init_mixer(self, key: Array) -> Params:
        """Normal, standard deviation 1 / sqrt(inputs), W_o as `write_std`; biases zero."""
        d_model, width = self.d_model, self.state_width
        arrays = {"W_gates": (d_model**-0.5, (d_model, len(self.gates), width))}
        if width != d_model:
            arrays["W_o"] = (self.write_std(width), (width, d_model))
        params = draw_normal(key, **arrays)
        if self.has_bias:
            params["b_gates"] = jnp.zeros((len(self.gates), width))
        if self.taps:
            key = jax.random.fold_in(key, 1)
            params["conv"] = init_convolution(key, self.taps, d_model, self.taps**-0.5, self.has_bias)
        return params

    def mixer_state(self, batch: int) -> State:
        """See `Stacked.mixer_state`."""
        past = {"past": jnp.zeros((batch, self.taps - 1, self.conv_width))} if self.taps else {}
        return {"h": jnp.zeros((batch, self.state_width))} | past

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """See `Stacked.mix`."""
        x_BxTxD, past = self.convolved(params, x_BxTxD, state, mask_BxT)
        gates_GxTxBxR = contract("BTD,DGR->GTBR", x_BxTxD, params["W_gates"], dtype)
        if "b_gates" in params:
            gates_GxTxBxR = gates_GxTxBxR + params["b_gates"][:, None, None, :]
        a_TxBxR, b_TxBxR, shown = self.factors(*gates_GxTxBxR)
        h_TxBxR = self.recur(a_TxBxR, b_TxBxR, state, mask_BxT, watched)
        if "W_o" in params:
            y_BxTxD = contract("TBR,RD->BTD", h_TxBxR, params["W_o"], dtype)
        else:
            y_BxTxD = h_TxBxR.swapaxes(0, 1)
        return y_BxTxD, {"h": h_TxBxR[-1], **past}, {} if watched is None else {"h": h_TxBxR, **shown}

    def convolved(
        self, params: Params, x_BxTxE: Array, state: State, mask_BxT: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        """x after the convolution, if there is one, and "past" of the state after."""
        if not self.taps:
            return x_BxTxE, {}
        y_BxTxE, past = convolve(params["conv"], x_BxTxE, state["past"], mask_BxT)
        return y_BxTxE, {"past": past}

    def recur(
        self, a_TxBxR: Array, b_TxBxR: Array, state: State, mask_BxT: Array | None, watched: Watch | None
    ) -> Array:
        """h_TxBxR, with the nudges of `watched`."""
        if watched is not None and watched.nudges is not None:
            b_TxBxR = b_TxBxR + watched.nudges[0]
        mask_TxB = None if mask_BxT is None else mask_BxT.T
        return linear_scan(a_TxBxR, b_TxBxR, state["h"], self.recurrence, mask_TxB)
