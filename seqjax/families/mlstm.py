"""mLSTM of Beck et al. (2024), arXiv 2405.04517, sections 2.3 and 2.4: an LSTM with a matrix for a cell.

    [a, z]  = W_up x_t                               widths E, E
    c       = silu(conv(a))                          causal, depthwise, 4 taps
    q, k, v = W_q c, W_k c, W_v a                    block-diagonal, blocks of 4 x 4; k is divided by sqrt(K)
    i, f    = W_if [q, k, v] + b_if                  one of each a head; log i_t = i, log f_t = log sigmoid(f)
    S_t     = f_t S_{t-1} + i_t k^T v                K x K for each head
    n_t     = f_t n_{t-1} + i_t k
    h_t     = q S_t / max(|q . n_t|, 1)
    y_t     = W_down ((norm(h_t) + skip c) * silu(z))    LayerNorm of each head

E = 2 D is the inner width, K = E / N. S and n are kept with a scale, see `seqjax.through_time.exponential`. The
published block has no MLP.

Parameters of a mixer: W_up Dx2E; W_blocks 3x(E/4)x4x4, of q, k and v; W_if 3Ex2N; b_if 2N; "conv" over E channels, its
bias with `bias`; skip E; gain E; W_down ExD. State: S BxNxKxK, n BxNxK, m BxN; the last inputs of the convolution,
"past". Vectors are rows here, so the code has x W where the equations have W x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.families.family import Impossible, Watch
from seqjax.families.matrix_state import MatrixState
from seqjax.families.stacked import PublishedMLP, State
from seqjax.layers.convolution import convolve, init_convolution
from seqjax.layers.dense import Params, draw_normal, linear
from seqjax.layers.norms import normalize
from seqjax.layers.precision import contract
from seqjax.through_time.exponential import EXPONENTIAL, Memory, no_memory

TAPS = 4
BLOCK = 4


@dataclass(frozen=True)
class MLSTM(MatrixState):
    """mLSTM: embedding, residual blocks with matrix-valued cells, readout."""

    family: Literal["mlstm"] = "mlstm"
    """LSTM with a matrix-valued cell (xLSTM)."""

    label: ClassVar[str] = "mLSTM"
    colour: ClassVar[str] = "#661100"
    states: ClassVar = ("S", "n")
    rule: ClassVar = EXPONENTIAL
    titles: ClassVar = {"n": "normalizer n", "log i": "logarithm of the input gate"}
    published_mlp: ClassVar = PublishedMLP("none", bias=True)  # of the convolution

    @property
    def inner(self) -> int:
        """E."""
        return 2 * self.d_model

    @property
    def key_width(self) -> int:
        """K."""
        return self.inner // self.n_heads

    @property
    def value_width(self) -> int:
        """K."""
        return self.key_width

    @property
    def grain(self) -> int:
        """E is a multiple of N and of the blocks of W_q; and as `Stacked.grain`."""
        return math.lcm(math.lcm(self.n_heads, BLOCK) // 2, super().grain)

    def mixer_flops(self) -> float:
        """4 N K^2 as of other matrix states, and 2 N K for q . n."""
        return super().mixer_flops() + 2.0 * self.inner

    def check(self) -> None:
        """Raise `Impossible` when the heads or blocks do not divide E, for muP, and as `Stacked.check`."""
        super().check()
        if self.inner % self.n_heads:
            raise Impossible("model.n_heads", f"{self.n_heads} does not divide 2 d_model, {self.inner}")
        if self.base_width is not None:
            raise Impossible("model.base_width", "blocks of 4 x 4 do not grow with d_model; allowed: null")
        if self.inner % BLOCK:
            raise Impossible("model.d_model", f"{self.d_model}: 2 d_model has to be a multiple of {BLOCK}")

    def init_mixer(self, key: Array) -> Params:
        """As the authors' code: W_up and W_blocks sqrt(2 / (5 D)), W_down 2 / (L sqrt(D)), W_if zeros.

        Biases of forget gates from 3 to 6, of input gates normal with 0.1; skip and gain ones; the convolution
        1 / sqrt(12).
        """
        d_model, inner, heads = self.d_model, self.inner, self.n_heads
        keys = jax.random.split(key, 3)
        small = (2 / (5 * d_model)) ** 0.5
        weights = draw_normal(
            keys[0],
            W_up=(small, (d_model, 2 * inner)),
            W_blocks=(small, (3, inner // BLOCK, BLOCK, BLOCK)),
            W_down=(2 / (self.n_layers * d_model**0.5), (inner, d_model)),
        )
        b_i_N, b_f_N = 0.1 * jax.random.normal(keys[1], (heads,)), jnp.linspace(3.0, 6.0, heads)
        return weights | {
            "W_if": jnp.zeros((3 * inner, 2 * heads)),
            "b_if": jnp.concatenate([b_i_N, b_f_N]),
            "conv": init_convolution(keys[2], TAPS, inner, (3 * TAPS) ** -0.5, self.has_bias),
            "skip": jnp.ones(inner),
            "gain": jnp.ones(inner),
        }

    def mixer_state(self, batch: int) -> State:
        """See `Stacked.mixer_state`."""
        memory = no_memory(batch, self.n_heads, self.key_width, self.value_width)
        return memory._asdict() | {"past": jnp.zeros((batch, TAPS - 1, self.inner))}

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """See `Stacked.mix`."""
        a_BxTxE, z_BxTxE = jnp.split(linear(x_BxTxD, params["W_up"], None, dtype), 2, axis=-1)
        c_BxTxE, past = convolve(params["conv"], a_BxTxE, state["past"], mask_BxT)
        c_BxTxE = jax.nn.silu(c_BxTxE)
        sources = (c_BxTxE, c_BxTxE, a_BxTxE)
        qkv = [in_blocks(x, W, dtype) for x, W in zip(sources, params["W_blocks"], strict=True)]
        i_f_BxTx2N = linear(jnp.concatenate(qkv, axis=-1), params["W_if"], params["b_if"], dtype)
        log_i_BxTxN, f_BxTxN = jnp.split(i_f_BxTx2N, 2, axis=-1)
        q, k, v = (part.reshape(*part.shape[:2], self.n_heads, -1) for part in qkv)
        inputs = (q, self.key_width**-0.5 * k, v, jax.nn.log_sigmoid(f_BxTxN), log_i_BxTxN)
        memory = Memory(state["S"], state["n"], state["m"])
        h_BxTxNxP, memory, seen = self.remember(inputs, memory, mask_BxT, dtype, watched)
        h_BxTxNxP = normalize("layernorm", {"gain": jnp.ones(self.value_width)}, h_BxTxNxP)
        h_BxTxE = params["gain"][None, None] * h_BxTxNxP.reshape(c_BxTxE.shape)
        y_BxTxE = (h_BxTxE + params["skip"][None, None] * c_BxTxE) * jax.nn.silu(z_BxTxE)
        if watched is not None:
            seen = seen | {"f": jax.nn.sigmoid(f_BxTxN).swapaxes(0, 1), "log i": log_i_BxTxN.swapaxes(0, 1)}
        return linear(y_BxTxE, params["W_down"], None, dtype), memory._asdict() | {"past": past}, seen


def in_blocks(x_BxTxE: Array, W: Array, dtype: DTypeLike) -> Array:
    """x times the block-diagonal matrix with the blocks of W, (E/4)x4x4."""
    x_hBTi = jnp.moveaxis(x_BxTxE.reshape(*x_BxTxE.shape[:2], *W.shape[:2]), 2, 0)
    y_hBTj = jax.vmap(lambda x, W: contract("BTi,ij->BTj", x, W, dtype))(x_hBTi, W)
    return jnp.moveaxis(y_hBTj, 0, 2).reshape(x_BxTxE.shape)
