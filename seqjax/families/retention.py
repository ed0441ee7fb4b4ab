"""Retentive network of Sun et al. (2023), arXiv 2307.08621: a matrix for a state, forgotten at a constant rate.

    [q, k, v, z] = W_in x_t                          widths D, D, 2 D, 2 D
    q, k         = rotated by the position of x_t;   k is divided by sqrt(K)
    S_t          = g S_{t-1} + k^T v                 K x P for each head; g = 1 - 2^(-5 - n) for head n = 0 .. N - 1
    y_t          = W_out (norm(q S_t) * silu(z))     RMSNorm of each head, without a gain

(equations 6 and 8). Head widths are K = D / N and P = 2 K. The rotation is `seqjax.layers.rotary`; xPos, which
the paper cites, also scales it. The published block has a GELU MLP of width 2 D.

Parameters of a mixer: W_in Dx6D; W_out 2DxD. State: S BxNxKxP; "position" B, the elements before. Vectors are rows
here, so the code has x W where the equations have W x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from seqjax.families.family import Impossible, Watch
from seqjax.families.matrix_state import MatrixState
from seqjax.families.stacked import PublishedMLP, State
from seqjax.layers.dense import Params, draw_normal, linear
from seqjax.layers.norms import normalize
from seqjax.layers.rotary import rotary_angles, rotate
from seqjax.layers.sharing import shared
from seqjax.through_time.matrix import GATED, zero_matrix


@dataclass(frozen=True)
class Retention(MatrixState):
    """Retentive network: embedding, residual blocks with retention, readout."""

    family: Literal["retention"] = "retention"
    """Matrix state with constant gates."""

    label: ClassVar[str] = "RetNet"
    colour: ClassVar[str] = "#AAAA55"
    rule: ClassVar = GATED
    published_mlp: ClassVar = PublishedMLP("gelu", 2)

    @property
    def key_width(self) -> int:
        """K."""
        return self.d_model // self.n_heads

    @property
    def value_width(self) -> int:
        """P."""
        return 2 * self.key_width

    @property
    def grain(self) -> int:
        """K is even; and as `Stacked.grain`."""
        return math.lcm(2 * self.n_heads, super().grain)

    def check(self) -> None:
        """Raise `Impossible` when the heads do not have an even width, for muP, and as `Stacked.check`."""
        super().check()
        if self.base_width is not None:
            raise Impossible("model.base_width", f"muP is not checked for the family {self.family}; allowed: null")
        if self.d_model % (2 * self.n_heads):
            message = f"{self.n_heads} heads of an even width do not fit d_model {self.d_model}"
            raise Impossible("model.n_heads", f"{message}; allowed: divisors of d_model / 2")

    def init_mixer(self, key: Array) -> Params:
        """W_in 1 / sqrt(D), W_out `write_std`."""
        d_model = self.d_model
        shapes = {"W_in": (d_model**-0.5, (d_model, 6 * d_model))}
        return draw_normal(key, **shapes, W_out=(self.write_std(2 * d_model), (2 * d_model, d_model)))

    def mixer_state(self, batch: int) -> State:
        """See `Stacked.mixer_state`."""
        return {
            "S": zero_matrix(batch, self.n_heads, self.key_width, self.value_width),
            "position": jnp.zeros(batch, jnp.int32),
        }

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """See `Stacked.mix`."""
        d_model, (batch, times) = self.d_model, x_BxTxD.shape[:2]
        u_BxTxG = linear(x_BxTxD, params["W_in"], None, dtype)
        parts = jnp.split(u_BxTxG, [d_model, 2 * d_model, 4 * d_model], axis=-1)
        q, k, v, z = (part.reshape(batch, times, self.n_heads, -1) for part in parts)
        positions_BxT = state["position"][:, None] + jnp.arange(times)[None]
        q, k = rotated(q, positions_BxT), self.key_width**-0.5 * rotated(k, positions_BxT)
        log_g_N = np.log1p(-(2.0 ** (-5 - np.arange(self.n_heads))))
        log_g_BxTxN = shared(jnp.broadcast_to(jnp.asarray(log_g_N, u_BxTxG.dtype), (batch, times, self.n_heads)))
        y_BxTxNxP, S, seen = self.remember((q, k, v, log_g_BxTxN), state["S"], mask_BxT, dtype, watched)
        y_BxTxNxP = normalize("rmsnorm", {"gain": jnp.ones(self.value_width)}, y_BxTxNxP) * jax.nn.silu(z)
        y_BxTxD = linear(y_BxTxNxP.reshape(batch, times, -1), params["W_out"], None, dtype)
        more = times if mask_BxT is None else mask_BxT.sum(axis=1).astype(state["position"].dtype)
        return y_BxTxD, {"S": S, "position": state["position"] + more}, seen


def rotated(x_BxTxNxK: Array, positions_BxT: Array) -> Array:
    """Every sequence has positions of its own."""
    angles = jax.vmap(partial(rotary_angles, d_head=x_BxTxNxK.shape[-1]))(positions_BxT)
    of_sequence = jax.vmap(lambda x_NxTxK, angles: rotate(x_NxTxK[None], angles)[0])
    return of_sequence(x_BxTxNxK.swapaxes(1, 2), angles).swapaxes(1, 2)
