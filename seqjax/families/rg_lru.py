"""RG-LRU and Hawk of De et al. (2024), arXiv 2402.19427: a linear recurrence with a gate on its memory.

    r_t = sigmoid(W_r u_t + b_r),    i_t = sigmoid(W_i u_t + b_i)            W_r, W_i block-diagonal
    log a_t = -8 r_t * softplus(Lambda)
    h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i_t * u_t)                      RG-LRU, equations 1 to 4
    h_1 = i_1 * u_1                                                          at the first step of a sequence

    u = conv(W_u x + b_u),    g = gelu(W_g x + b_g),    mixer(x) = W_o (h * g) + b_o      Hawk, figure 2

With `block` cell a mixer is the RG-LRU alone, and u = x. The published block is Hawk's: a gated GELU MLP of width 3 D,
and biases. Where paper and code of the authors differ, this is the code: the sign of Lambda, the first step, and a
gradient of the square root of at most 1000. Theirs also bounds the logits by 30 tanh(z / 30); this does not.

Parameters of a mixer: W_blocks 2xNxKxK (r, i; N blocks, K = R / N), b_blocks 2xR, Lambda R; around the RG-LRU W_in
Dx2xR (u, g), b_in 2xR, W_o RxD, b_o D, and the convolution "conv"; biases only with `bias`. exp(-softplus(Lambda)) is
initially in [0.9, 0.999], uniform in its square; a is its 8th power if r = 1. State: "h" BxR; "begun" B, 1 after the
first step; "past", the last inputs of the convolution. Vectors are rows here, so the code has x W where the equations
have W x.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from pydantic import NonNegativeInt, PositiveInt

from seqjax.families.diagonal import Diagonal
from seqjax.families.family import Impossible, Watch
from seqjax.families.stacked import PublishedMLP, State
from seqjax.layers.activations import bounded_sqrt
from seqjax.layers.convolution import init_convolution
from seqjax.layers.dense import Params, draw_normal
from seqjax.layers.precision import contract

SHARPNESS = 8.0
CONV_STD = 0.05


@dataclass(frozen=True)
class RGLRU(Diagonal):
    """Hawk: embedding, residual blocks with a real-gated linear recurrent unit, readout."""

    family: Literal["rg_lru"] = "rg_lru"
    """Real-gated linear recurrent unit."""
    conv: NonNegativeInt = 4
    """Taps of a causal convolution before the recurrence; 0: none. Block cell has none."""
    gate_blocks: PositiveInt = 4
    """N, blocks of the gates' block-diagonal matrices; divides the width of the state."""

    label: ClassVar[str] = "RG-LRU"
    colour: ClassVar[str] = "#6644CC"
    published_mlp: ClassVar = PublishedMLP("geglu", 3, bias=True)

    @property
    def taps(self) -> int:
        """Taps of the convolution; none in block cell."""
        return 0 if self.block == "cell" else self.conv

    @property
    def conv_width(self) -> int:
        """R."""
        return self.state_width

    @property
    def grain(self) -> int:
        """The number of blocks of the gates, and as `Stacked.grain`."""
        return math.lcm(self.gate_blocks, super().grain)

    def widened(self, d_model: int) -> Self:
        """The model at another D. R, if given, stays in proportion, as a multiple of `gate_blocks`."""
        wide = super().widened(d_model)
        if wide.d_hidden is None:
            return wide
        return dataclasses.replace(wide, d_hidden=self.gate_blocks * max(1, round(wide.d_hidden / self.gate_blocks)))

    def check(self) -> None:
        """Raise `Impossible` if the blocks do not fit the state, or the state of block cell is not as wide as D."""
        super().check()
        width = self.state_width
        if width % self.gate_blocks:
            allowed = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            message = f"{self.gate_blocks} blocks do not divide the state's width {width}; allowed: {allowed}"
            raise Impossible("model.gate_blocks", message)
        if self.block == "cell" and width != self.d_model:
            raise Impossible("model.d_hidden", f"{width}: block cell has a state as wide as d_model {self.d_model}")

    def write_std(self, inputs: int) -> float:
        """As `Stacked.write_std`; in the published block sqrt(2 / (L inputs)), as in the authors' code."""
        return (2 / (self.n_layers * inputs)) ** 0.5 if self.block == "published" else super().write_std(inputs)

    def init_mixer(self, key: Array) -> Params:
        """Normal, standard deviation 1 / sqrt(inputs), W_o as `write_std`, the convolution's 0.05; biases zero."""
        d_model, width, n_blocks = self.d_model, self.state_width, self.gate_blocks
        block = width // n_blocks
        key_normal, key_conv, key_ring = jax.random.split(key, 3)
        arrays = {"W_blocks": (block**-0.5, (2, n_blocks, block, block))}
        if self.block != "cell":
            arrays["W_in"] = (d_model**-0.5, (d_model, 2, width))
            arrays["W_o"] = (self.write_std(width), (width, d_model))
        params = draw_normal(key_normal, **arrays)
        square_R = jax.random.uniform(key_ring, (width,), minval=0.9**2, maxval=0.999**2)
        params["Lambda"] = jnp.log(jnp.expm1(-0.5 * jnp.log(square_R)))
        if self.taps:
            params["conv"] = init_convolution(key_conv, self.taps, width, CONV_STD, self.has_bias)
        if self.has_bias:
            params["b_blocks"] = jnp.zeros((2, width))
            if self.block != "cell":
                params |= {"b_in": jnp.zeros((2, width)), "b_o": jnp.zeros(d_model)}
        return params

    def mixer_state(self, batch: int) -> State:
        """See `Stacked.mixer_state`."""
        return super().mixer_state(batch) | {"begun": jnp.zeros(batch)}

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """See `Stacked.mix`."""
        if self.block == "cell":
            h_TxBxR, state, seen = self.recurrent_unit(params, x_BxTxD, state, mask_BxT, dtype, watched)
            return h_TxBxR.swapaxes(0, 1), state, seen
        u_BxTxR, g_BxTxR = contract("BTD,DcR->cBTR", x_BxTxD, params["W_in"], dtype)
        if "b_in" in params:
            u_BxTxR, g_BxTxR = (y + b[None, None, :] for y, b in zip((u_BxTxR, g_BxTxR), params["b_in"], strict=True))
        u_BxTxR, past = self.convolved(params, u_BxTxR, state, mask_BxT)
        h_TxBxR, state, seen = self.recurrent_unit(params, u_BxTxR, state, mask_BxT, dtype, watched)
        gated_BxTxR = h_TxBxR.swapaxes(0, 1) * jax.nn.gelu(g_BxTxR)
        y_BxTxD = contract("BTR,RD->BTD", gated_BxTxR, params["W_o"], dtype)
        return y_BxTxD + params["b_o"][None, None, :] if "b_o" in params else y_BxTxD, state | past, seen

    def recurrent_unit(
        self, params: Params, u_BxTxR: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """The RG-LRU: h_TxBxR, "h" and "begun" of the next state, and when watched h, a and i."""
        u_TxBxR = u_BxTxR.swapaxes(0, 1)
        mask_TxB = jnp.ones(u_TxBxR.shape[:2], bool) if mask_BxT is None else mask_BxT.T
        r_TxBxR, i_TxBxR = jax.nn.sigmoid(self.gates_of(params, u_TxBxR, dtype))
        log_a_TxBxR = -SHARPNESS * r_TxBxR * jax.nn.softplus(params["Lambda"])[None, None, :]
        a_TxBxR = jnp.exp(log_a_TxBxR)
        is_first_TxB = mask_TxB & (jnp.cumsum(mask_TxB, axis=0) == 1) & (state["begun"] == 0)[None, :]
        scale_TxBxR = jnp.where(is_first_TxB[:, :, None], 1.0, bounded_sqrt(-jnp.expm1(2 * log_a_TxBxR)))
        h_TxBxR = self.recur(a_TxBxR, scale_TxBxR * i_TxBxR * u_TxBxR, state, mask_BxT, watched)
        begun_B = jnp.maximum(state["begun"], mask_TxB.any(axis=0).astype(state["begun"].dtype))
        seen = {} if watched is None else {"h": h_TxBxR, "a": a_TxBxR, "i": i_TxBxR}
        return h_TxBxR, {"h": h_TxBxR[-1], "begun": begun_B}, seen

    def gates_of(self, params: Params, u_TxBxR: Array, dtype: DTypeLike) -> Array:
        """W u_t + b of r and i, 2xTxBxR: each block of u has matrices of its own."""
        u_TxBxNxK = u_TxBxR.reshape(*u_TxBxR.shape[:2], self.gate_blocks, -1)
        of_block = jax.vmap(lambda u, W: contract("TBK,cKJ->cTBJ", u, W, dtype), in_axes=(2, 1), out_axes=3)
        gates_2xTxBxR = of_block(u_TxBxNxK, params["W_blocks"]).reshape(2, *u_TxBxR.shape)
        b_blocks = params.get("b_blocks")
        return gates_2xTxBxR if b_blocks is None else gates_2xTxBxR + b_blocks[:, None, None, :]
