"""The position-wise MLP of a Transformer block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers.dense import Params, draw_normal, linear
from seqjax.layers.native import rows
from seqjax.layers.precision import contract

GATED = {"swiglu": jax.nn.silu, "geglu": jax.nn.gelu}  # jax.nn.gelu is the tanh form


def init_feed_forward(key: Array, kind: str, d_model: int, d_ff: int, bias: bool, std: float, std_out: float) -> Params:
    """{"W_in": DxF, "W_out": FxD}, normal with `std` and `std_out`; zeros "b_in", "b_out"; swiglu, geglu: "W_gate"."""
    gate = {"W_gate": (std, (d_model, d_ff))} if kind in GATED else {}
    params = draw_normal(key, W_in=(std, (d_model, d_ff)), W_out=(std_out, (d_ff, d_model)), **gate)
    if bias:
        params |= {"b_in": jnp.zeros(d_ff), "b_out": jnp.zeros(d_model)}
        if kind in GATED:
            params["b_gate"] = jnp.zeros(d_ff)
    return params


def feed_forward(kind: str, params: Params, x_BxTxD: Array, dtype: DTypeLike) -> Array:
    """Position-wise MLP, float32 BxTxD.

    "gelu" and "relu": act(x W_in + b_in) W_out + b_out; GELU in the tanh form of Hendrycks & Gimpel (2016),
    arXiv 1606.08415, which GPT-2 uses. "swiglu": (silu(x W_gate + b_gate) * (x W_in + b_in)) W_out + b_out
    (Shazeer 2020, arXiv 2002.05202, equation 6); "geglu" has GELU for silu.
    """
    if kind in rows.ACTIVATIONS and rows.usable(x_BxTxD, dtype):
        return linear(_native(kind, params, x_BxTxD), params["W_out"], params.get("b_out"), dtype)
    a_BxTxF = linear(x_BxTxD, params["W_in"], params.get("b_in"), dtype)
    if kind in GATED:
        a_BxTxF = GATED[kind](linear(x_BxTxD, params["W_gate"], params.get("b_gate"), dtype)) * a_BxTxF
    else:
        a_BxTxF = jax.nn.gelu(a_BxTxF, approximate=True) if kind == "gelu" else jax.nn.relu(a_BxTxF)
    return linear(a_BxTxF, params["W_out"], params.get("b_out"), dtype)


def _native(kind: str, params: Params, x_BxTxD: Array) -> Array:
    """The MLP up to its activation BxTxF with the compiled function: gate and input are one product."""
    names = ("gate", "in") if kind in GATED else ("in",)
    W_DxG = jnp.concatenate([params[f"W_{name}"] for name in names], axis=1)
    bias_G = [params[f"b_{name}"] for name in names if f"b_{name}" in params]
    u_BxTxG = contract("BTD,DG->BTG", x_BxTxD, W_DxG, "float32")
    return rows.activate(kind, u_BxTxG, jnp.concatenate(bias_G) if bias_G else jnp.zeros(0, jnp.float32))
