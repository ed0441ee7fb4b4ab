"""sLSTM of Beck et al. (2024), arXiv 2405.04517, section 2.2: an LSTM with exponential gates and a normaliser.

    c_t        = silu(conv(x_t))                                        causal, depthwise, 4 taps
    i, f, z, o = W_i c_t, W_f c_t, W_z x_t, W_o x_t, each + R h_{t-1} + b    W and R block-diagonal, one block a head
    log f_t    = log sigmoid(f)
    m_t = max(log f_t + m_{t-1}, i)                                     at the first step m_t = i
    f'  = exp(log f_t + m_{t-1} - m_t),    i' = exp(i - m_t)
    C_t = f' C_{t-1} + i' tanh(z)
    n_t = f' n_{t-1} + i'
    h_t = sigmoid(o) C_t / n_t
    y_t = norm(h_t)                                                     LayerNorm of each head

h does not depend on m, which keeps exp from overflowing; so m has no gradient. The published block has a gated GELU MLP
of width 4 D / 3.

Parameters of a mixer: W_blocks 4xNxKxK (i, f, z, o; K = D / N), W_h NxKx4K, b 4D, gain D, and the convolution "conv",
which always has a bias. State: h, c (C above), n, m, each BxD; the last inputs of the convolution, "past". Vectors are
rows here, so the code has x W where the equations have W x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from pydantic import PositiveInt

from seqjax.families.family import Impossible, Watch
from seqjax.families.stacked import PublishedMLP, Stacked, State
from seqjax.layers.convolution import convolve, init_convolution
from seqjax.layers.dense import Params, draw_normal
from seqjax.layers.norms import normalize
from seqjax.layers.precision import contract
from seqjax.through_time.nonlinear import unroll, watch

TAPS = 4
Cell = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class SLSTM(Stacked):
    """sLSTM: embedding, residual blocks with exponential gates, readout."""

    family: Literal["slstm"] = "slstm"
    """LSTM with exponential gates (xLSTM)."""
    n_heads: PositiveInt = 4
    """N, heads; only units of the same head see each other's last output. Also heads of attention blocks."""

    label: ClassVar[str] = "sLSTM"
    colour: ClassVar[str] = "#882255"
    through_time: ClassVar[str] = "nonlinear"
    states: ClassVar = ("h", "c", "n")
    titles: ClassVar = {
        "n": "normalizer n", "z": "candidate z", "log i": "logarithm of the input gate",
        "log f": "logarithm of the forget gate",
    }  # fmt: skip
    published_mlp: ClassVar = PublishedMLP("geglu", 4 / 3)
    backprop: ClassVar = None

    @property
    def grain(self) -> int:
        """N, and as `Stacked.grain`."""
        return math.lcm(self.n_heads, super().grain)

    def check(self) -> None:
        """Raise `Impossible` when the heads do not divide D, for muP, and as `Stacked.check`."""
        super().check()
        if self.base_width is not None:
            raise Impossible("model.base_width", f"muP is not checked for the family {self.family}; allowed: null")
        if self.d_model % self.n_heads:
            raise Impossible("model.n_heads", f"{self.n_heads} does not divide d_model {self.d_model}")

    def init_mixer(self, key: Array) -> Params:
        """As the authors' code: W_blocks sqrt(2 / (5 D)), W_h zeros, the convolution 1 / sqrt(12), gain ones.

        Biases of forget gates fall from 5 to -7 along a head's units, 5 - 12 u^p with u from 0 to 1; others are zero.
        The code's p grows from 0.3 in the first block to 1.6 in the last. Here it is their mean in all.
        """
        d_model, heads = self.d_model, self.n_heads
        width = d_model // heads
        key_blocks, key_conv = jax.random.split(key)
        params = draw_normal(key_blocks, W_blocks=((2 / (5 * d_model)) ** 0.5, (4, heads, width, width)))
        b_f_K = 5.0 - 12.0 * jnp.linspace(0.0, 1.0, width) ** 0.95
        return params | {
            "W_h": jnp.zeros((heads, width, 4 * width)),
            "b": jnp.zeros((4, heads, width)).at[1].set(b_f_K[None, :]).reshape(-1),
            "conv": init_convolution(key_conv, TAPS, d_model, (3 * TAPS) ** -0.5, bias=True),
            "gain": jnp.ones(d_model),
        }

    def mixer_state(self, batch: int) -> State:
        """See `Stacked.mixer_state`."""
        zeros = {name: jnp.zeros((batch, self.d_model)) for name in "hcnm"}
        return zeros | {"past": jnp.zeros((batch, TAPS - 1, self.d_model))}

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """See `Stacked.mix`."""
        c_BxTxD, past = convolve(params["conv"], x_BxTxD, state["past"], mask_BxT)
        c_BxTxD = jax.nn.silu(c_BxTxD)
        gates_x_TxBxG = self._gates_x(params, c_BxTxD.swapaxes(0, 1), x_BxTxD.swapaxes(0, 1), dtype)
        cell = tuple(state[name] for name in "hcnm")
        mask_TxB, seen = (None if mask_BxT is None else mask_BxT.T), {}
        if watched is None:
            h_TxBxD, last = unroll(self, params, gates_x_TxBxG, cell, dtype, mask_TxB=mask_TxB)
        else:
            nudges = watched.nudges and (*watched.nudges, jnp.zeros_like(watched.nudges[0]))
            h_TxBxD, last, states, gates = watch(self, params, gates_x_TxBxG, cell, dtype, mask_TxB, nudges)
            seen = dict(zip(self.states, states, strict=False)) | gates
        h_BxTxNxK = h_TxBxD.swapaxes(0, 1).reshape(*x_BxTxD.shape[:2], self.n_heads, -1)
        y_BxTxNxK = normalize("layernorm", {"gain": jnp.ones(h_BxTxNxK.shape[-1])}, h_BxTxNxK)
        y_BxTxD = params["gain"][None, None] * y_BxTxNxK.reshape(x_BxTxD.shape)
        return y_BxTxD, dict(zip("hcnm", last, strict=True)) | {"past": past}, seen

    def _gates_x(self, params: Params, c_TxBxD: Array, x_TxBxD: Array, dtype: DTypeLike) -> Array:
        """W c_t + b of i, f and W x_t + b of z, o: TxBxG, G = 4 D with the gates side by side."""
        sources_4xTxBxNxK = jnp.stack([c_TxBxD, c_TxBxD, x_TxBxD, x_TxBxD]).reshape(
            4, *x_TxBxD.shape[:2], self.n_heads, -1
        )
        of_head = jax.vmap(lambda x, W: contract("TBi,ij->TBj", x, W, dtype), in_axes=(2, 0), out_axes=2)
        gates_4xTxBxNxK = jax.vmap(of_head)(sources_4xTxBxNxK, params["W_blocks"])
        gates_x_TxBxG = jnp.moveaxis(gates_4xTxBxNxK, 0, 2).reshape(*x_TxBxD.shape[:2], -1)
        return gates_x_TxBxG + params["b"][None, None]

    def project(self, params: Params, gates_x_TxBxG: Array, dtype: DTypeLike) -> Array:
        """See `seqjax.through_time.cell.Cell`: the inputs are projected already."""
        return gates_x_TxBxG

    def gates(self, params: Params, state: Cell, gates_x_BxG: Array, dtype: DTypeLike) -> dict[str, Array]:
        """log i_t, f_t, z_t and o_t, each BxD."""
        h_BxNxK = state[0].reshape(len(state[0]), self.n_heads, -1)
        of_head = jax.vmap(lambda h, W: contract("Bi,ij->Bj", h, W, dtype), in_axes=(1, 0), out_axes=1)
        from_h_BxNx4xK = of_head(h_BxNxK, params["W_h"]).reshape(*h_BxNxK.shape[:2], 4, -1)
        log_i, f, z, o = jnp.split(gates_x_BxG + from_h_BxNx4xK.swapaxes(1, 2).reshape(gates_x_BxG.shape), 4, axis=-1)
        return {"log i": log_i, "log f": jax.nn.log_sigmoid(f), "z": jnp.tanh(z), "o": jax.nn.sigmoid(o)}

    def step(self, params: Params, state: Cell, gates_x_BxG: Array, dtype: DTypeLike) -> Cell:
        """(h, c, n, m) after a step. At the first step n = c = 0, and f' does not matter: it is 1."""
        _, c_BxD, n_BxD, m_BxD = state
        log_i, log_f, z, o = self.gates(params, state, gates_x_BxG, dtype).values()
        log_f, is_first = log_f + m_BxD, n_BxD == 0
        m_BxD = lax.stop_gradient(jnp.where(is_first, log_i, jnp.maximum(log_f, log_i)))
        f, i = jnp.exp(jnp.where(is_first, 0.0, log_f - m_BxD)), jnp.exp(log_i - m_BxD)
        c_BxD, n_BxD = f * c_BxD + i * z, f * n_BxD + i
        return o * c_BxD / n_BxD, c_BxD, n_BxD, m_BxD
