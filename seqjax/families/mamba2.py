"""Mamba-2 of Dao & Gu (2024), arXiv 2405.21060, section 7: a state space model with one gate a head.

    [z, x, B, C, d] = W_in u_t                       widths E, E, K, K, N
    x, B, C  = silu(conv([x, B, C]))                 causal, depthwise, 4 taps
    D_t      = softplus(d + dt_bias)                 step size, one a head
    S_t      = exp(-exp(A_log) D_t) S_{t-1} + D_t B^T x          K x P for each head
    y_t      = C S_t + skip x
    out_t    = W_out norm(y_t * silu(z))             RMSNorm over E

All heads share the key B and the query C. E = 2 D is the inner width, P = E / N a head's width, K = `d_state`. The
paper has P = 64, so N = D / 32; here N stays as D changes. The published block has no MLP.

Parameters of a mixer: W_in Dx(2E + 2K + N); "conv" over E + 2K channels, its bias with `bias`; A_log, dt_bias, skip N;
gain E; W_out ExD. State: S BxNxKxP; the last inputs of the convolution, "past". Vectors are rows here, so the code has
u W where the equations have W u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from pydantic import PositiveInt

from seqjax.families.family import Impossible, Watch
from seqjax.families.matrix_state import MatrixState
from seqjax.families.stacked import PublishedMLP, State
from seqjax.layers.convolution import convolve, init_convolution
from seqjax.layers.dense import Params, draw_normal, linear
from seqjax.layers.norms import normalize
from seqjax.through_time.matrix import GATED, zero_matrix

TAPS = 4


@dataclass(frozen=True)
class Mamba2(MatrixState):
    """Mamba-2: embedding, residual blocks with a state space model, readout."""

    family: Literal["mamba2"] = "mamba2"
    """State space model with scalar gates."""
    d_state: PositiveInt = 64
    """K, rows of a head's state."""

    label: ClassVar[str] = "Mamba-2"
    colour: ClassVar[str] = "#0000CC"
    rule: ClassVar = GATED
    titles: ClassVar = {"g": "decay g", "D": "step size"}
    published_mlp: ClassVar = PublishedMLP("none", bias=True)  # of the convolution

    @property
    def inner(self) -> int:
        """E."""
        return 2 * self.d_model

    @property
    def key_width(self) -> int:
        """K."""
        return self.d_state

    @property
    def value_width(self) -> int:
        """P."""
        return self.inner // self.n_heads

    @property
    def grain(self) -> int:
        """E is a multiple of N; and as `Stacked.grain`."""
        return math.lcm(self.n_heads // math.gcd(self.n_heads, 2), super().grain)

    def check(self) -> None:
        """Raise `Impossible` when the heads do not divide E, and as `Stacked.check`."""
        super().check()
        if self.inner % self.n_heads:
            raise Impossible("model.n_heads", f"{self.n_heads} does not divide 2 d_model, {self.inner}")

    def init_mixer(self, key: Array) -> Params:
        """As the authors' code; all matrices normal, with the standard deviations of its uniform distributions.

        exp(A_log) uniform in [1, 16]; softplus(dt_bias) log-uniform in [1e-3, 1e-1]; skip and gain ones. W_in
        1 / sqrt(3 D); W_out `write_std` / sqrt(3); the convolution 1 / sqrt(12).
        """
        d_model, inner, heads = self.d_model, self.inner, self.n_heads
        channels = inner + 2 * self.d_state
        keys = jax.random.split(key, 4)
        weights = draw_normal(
            keys[0],
            W_in=((3 * d_model) ** -0.5, (d_model, inner + channels + heads)),
            W_out=(3**-0.5 * self.write_std(inner), (inner, d_model)),
        )
        step_size_N = jnp.exp(jax.random.uniform(keys[1], heads, minval=math.log(1e-3), maxval=math.log(1e-1)))
        vectors = {
            "A_log": jnp.log(jax.random.uniform(keys[2], heads, minval=1.0, maxval=16.0)),
            "dt_bias": jnp.log(jnp.expm1(step_size_N)),
            "skip": jnp.ones(heads),
            "gain": jnp.ones(inner),
        }
        return (
            weights | vectors | {"conv": init_convolution(keys[3], TAPS, channels, (3 * TAPS) ** -0.5, self.has_bias)}
        )

    def mixer_state(self, batch: int) -> State:
        """See `Stacked.mixer_state`."""
        past_BxPxE = jnp.zeros((batch, TAPS - 1, self.inner + 2 * self.d_state))
        return {"S": zero_matrix(batch, self.n_heads, self.key_width, self.value_width), "past": past_BxPxE}

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """See `Stacked.mix`."""
        inner, rows, heads = self.inner, self.d_state, self.n_heads
        u_BxTxG = linear(x_BxTxD, params["W_in"], None, dtype)
        z_BxTxE, u_BxTxC, d_BxTxN = jnp.split(u_BxTxG, [inner, 2 * inner + 2 * rows], axis=-1)
        u_BxTxC, past = convolve(params["conv"], u_BxTxC, state["past"], mask_BxT)
        x_BxTxE, B_BxTxK, C_BxTxK = jnp.split(jax.nn.silu(u_BxTxC), [inner, inner + rows], axis=-1)
        x_BxTxNxP = x_BxTxE.reshape(*x_BxTxE.shape[:2], heads, -1)
        size_BxTxN = jax.nn.softplus(d_BxTxN + params["dt_bias"][None, None])
        log_g_BxTxN = -jnp.exp(params["A_log"])[None, None] * size_BxTxN
        inputs = (C_BxTxK, B_BxTxK, size_BxTxN[..., None] * x_BxTxNxP, log_g_BxTxN)
        y_BxTxNxP, S, seen = self.remember(inputs, state["S"], mask_BxT, dtype, watched)
        y_BxTxNxP = y_BxTxNxP + params["skip"][None, None, :, None] * x_BxTxNxP
        y_BxTxE = normalize("rmsnorm", params, y_BxTxNxP.reshape(z_BxTxE.shape) * jax.nn.silu(z_BxTxE))
        if watched is not None:
            seen = seen | {"g": jnp.exp(log_g_BxTxN).swapaxes(0, 1), "D": size_BxTxN.swapaxes(0, 1)}
        return linear(y_BxTxE, params["W_out"], None, dtype), {"S": S, "past": past}, seen
