"""Gated DeltaNet of Yang, Kautz & Hatamizadeh (2024), arXiv 2412.06464: a write replaces what its key held.

    [q, k, v, z, b, a] = W_in x_t                    widths NK, NK, NP, NP, N, N
    q, k, v  = silu(conv([q, k, v]))                 causal, depthwise, 4 taps
    q, k     = q / |q| / sqrt(K),  k / |k|           each head's
    b_t      = sigmoid(b)                            strength of the write
    g_t      = exp(-exp(A_log) softplus(a + dt_bias))
    S'       = g_t S_{t-1}                           K x P for each head
    S_t      = S' + b_t k^T (v - k S')
    y_t      = W_out (norm(q S_t) * silu(z))         RMSNorm of each head, with one gain of P for all

N K is 3 D / 4 and P = 2 K, as published. With `negative_eigenvalues`, b_t = 2 sigmoid(b): the eigenvalues of a step are
in [-1, 1] instead of [0, 1] (Grazzi et al. 2024, arXiv 2411.12537). The published block has a SwiGLU MLP.

Parameters of a mixer: W_in Dx(2NK + 2NP + 2N); "conv" over 2NK + NP channels, its bias with `bias`; A_log, dt_bias N;
gain P; W_out NPxD. State: S BxNxKxP; the last inputs of the convolution, "past". Vectors are rows here, so the code has
x W where the equations have W x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.families.family import Watch
from seqjax.families.matrix_state import MatrixState
from seqjax.families.stacked import HYBRID, State
from seqjax.layers.convolution import convolve, init_convolution
from seqjax.layers.dense import Params, draw_normal, linear
from seqjax.layers.norms import normalize
from seqjax.through_time.delta import DELTA
from seqjax.through_time.matrix import zero_matrix

TAPS = 4
NEGATIVE = "[-1, 1]"


@dataclass(frozen=True)
class GatedDeltaNet(MatrixState):
    """Gated DeltaNet: embedding, residual blocks with the gated delta rule, readout."""

    family: Literal["gated_deltanet"] = "gated_deltanet"
    """Gated delta rule."""
    negative_eigenvalues: bool = False
    """Writes of strength up to 2: a step can reverse what it finds."""

    label: ClassVar[str] = "Gated DeltaNet"
    colour: ClassVar[str] = "#000000"
    rule: ClassVar = DELTA
    titles: ClassVar = {"g": "decay g", "b": "writing strength b"}
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {}, NEGATIVE: {}, HYBRID: {}, f"{NEGATIVE} {HYBRID}": {}
    }  # fmt: skip

    @classmethod
    def form_of(cls, values: Mapping[str, Any]) -> str:
        """As `Stacked.form_of`, and whether eigenvalues can be negative."""
        return f"{NEGATIVE if values.get('negative_eigenvalues') else ''} {super().form_of(values)}".strip()

    @property
    def key_width(self) -> int:
        """K."""
        return max(1, round(0.75 * self.d_model / self.n_heads))

    @property
    def value_width(self) -> int:
        """P."""
        return 2 * self.key_width

    def mixer_flops(self) -> float:
        """6 N K P: as of other matrix states, and the read k S'."""
        return 1.5 * super().mixer_flops()

    @property
    def _widths(self) -> tuple[int, int]:
        """N K and N P."""
        return self.n_heads * self.key_width, self.n_heads * self.value_width

    def init_mixer(self, key: Array) -> Params:
        """W_in 1 / sqrt(D), W_out `write_std`, the convolution 1 / 2.

        As the authors' code: exp(A_log) uniform up to 16, softplus(dt_bias) log-uniform in [1e-3, 1e-1].
        """
        d_model, heads, (keys_width, values_width) = self.d_model, self.n_heads, self._widths
        channels = 2 * keys_width + values_width
        keys = jax.random.split(key, 4)
        weights = draw_normal(
            keys[0],
            W_in=(d_model**-0.5, (d_model, channels + values_width + 2 * heads)),
            W_out=(self.write_std(values_width), (values_width, d_model)),
        )
        step_size_N = jnp.exp(jax.random.uniform(keys[1], heads, minval=math.log(1e-3), maxval=math.log(1e-1)))
        vectors = {
            "A_log": jnp.log(jax.random.uniform(keys[2], heads, minval=0.01, maxval=16.0)),
            "dt_bias": jnp.log(jnp.expm1(step_size_N)),
            "gain": jnp.ones(self.value_width),
        }
        return weights | vectors | {"conv": init_convolution(keys[3], TAPS, channels, TAPS**-0.5, self.has_bias)}

    def mixer_state(self, batch: int) -> State:
        """See `Stacked.mixer_state`."""
        past_BxPxE = jnp.zeros((batch, TAPS - 1, 2 * self._widths[0] + self._widths[1]))
        return {"S": zero_matrix(batch, self.n_heads, self.key_width, self.value_width), "past": past_BxPxE}

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """See `Stacked.mix`."""
        heads, (keys_width, values_width) = self.n_heads, self._widths
        channels = 2 * keys_width + values_width
        u_BxTxG = linear(x_BxTxD, params["W_in"], None, dtype)
        u_BxTxC, z, b_BxTxN, a_BxTxN = jnp.split(
            u_BxTxG, [channels, channels + values_width, channels + values_width + heads], axis=-1
        )
        u_BxTxC, past = convolve(params["conv"], u_BxTxC, state["past"], mask_BxT)
        qkv = jnp.split(jax.nn.silu(u_BxTxC), [keys_width, 2 * keys_width], axis=-1)
        q, k, v, z = (part.reshape(*part.shape[:2], heads, -1) for part in (*qkv, z))
        q_BxTxNxK, k_BxTxNxK = self.key_width**-0.5 * of_length_one(q), of_length_one(k)
        strength_BxTxN = (2.0 if self.negative_eigenvalues else 1.0) * jax.nn.sigmoid(b_BxTxN)
        step_size_BxTxN = jax.nn.softplus(a_BxTxN + params["dt_bias"][None, None])
        log_g_BxTxN = -jnp.exp(params["A_log"])[None, None] * step_size_BxTxN
        inputs = (q_BxTxNxK, k_BxTxNxK, v, log_g_BxTxN, strength_BxTxN)
        y_BxTxNxP, S, seen = self.remember(inputs, state["S"], mask_BxT, dtype, watched)
        y_BxTxNxP = normalize("rmsnorm", params, y_BxTxNxP) * jax.nn.silu(z)
        y_BxTxD = linear(y_BxTxNxP.reshape(*y_BxTxNxP.shape[:2], -1), params["W_out"], None, dtype)
        if watched is not None:
            seen = seen | {"g": jnp.exp(log_g_BxTxN).swapaxes(0, 1), "b": strength_BxTxN.swapaxes(0, 1)}
        return y_BxTxD, {"S": S, "past": past}, seen


def of_length_one(x: Array) -> Array:
    """x / |x| over the last axis; 1e-6 under the root, as the authors' code, keeps zeros at zero."""
    return x * lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)
