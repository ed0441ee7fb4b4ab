"""Small layers shared by the models: pure functions of parameters and arrays, and their initial values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.cells.precision import carry_dtype, contract

Params = dict[str, Array]
Readout = Callable[[Array, Params, DTypeLike], Any]
"""(x_BxTxD, parameters of the model, compute dtype) -> what the model is asked for: logits, or a loss."""
NORM_EPSILON = 1e-5


def normal_init(std: float, *shape: int) -> Callable[[Array], Array]:
    """A function of the key that draws float32 values of mean 0 and standard deviation `std`."""
    return lambda key: std * jax.random.normal(key, shape)


def stack_init(init: Callable[[Array], Params], n_layers: int) -> Callable[[Array], Params]:
    """A function of the key that draws `n_layers` equal layers, every leaf with a leading axis L."""
    return lambda key: jax.vmap(init)(jax.random.split(key, n_layers))


def scan_layers(run_layer: Callable[[Array, Any], tuple[Array, Any]], x: Array, layers: Any) -> tuple[Array, Any]:
    """Run equal layers one after the other: `lax.scan` over their stacked parameters, four to a turn of the loop.

    The program, and with it compile time, does not grow with depth beyond the first few layers. Four to a turn spare
    shallow models the copies that a loop makes of what the backward pass needs (measured on CPU: 1.15 times faster).
    """
    return lax.scan(run_layer, x, layers, unroll=4)


def linear(x_BxTxD: Array, W_DxF: Array, b_F: Array | None, dtype: DTypeLike) -> Array:
    """x W + b, float32; the product with operands in `dtype`."""
    y_BxTxF = contract("BTD,DF->BTF", x_BxTxD, W_DxF, dtype)
    return y_BxTxF if b_F is None else y_BxTxF + b_F[None, None, :]


def readout_weights(params: Params) -> tuple[str, Array, Array | None]:
    """The readout as (letters of its matrix, DV or VD; the matrix; its bias if any).

    `params` holds either "readout" (DxV) or, tied, only "embedding" (VxD), which is then the readout too
    (Press & Wolf 2017, arXiv 1608.05859); and "readout_bias" V if any.
    """
    letters, name = ("DV", "readout") if "readout" in params else ("VD", "embedding")
    return letters, params[name], params.get("readout_bias")


def unembed(x_BxTxD: Array, params: Params, dtype: DTypeLike) -> Array:
    """Readout: logits_BxTxV, float32; `params` as for `readout_weights`."""
    letters, W, b_V = readout_weights(params)
    logits_BxTxV = contract(f"BTD,{letters}->BTV", x_BxTxD, W, dtype)
    return logits_BxTxV if b_V is None else logits_BxTxV + b_V[None, None, :]


def init_norm(kind: str, d_model: int, bias: bool) -> Params:
    """{"gain": D ones} and, for a layernorm with `bias`, {"bias": D zeros}; kind is "layernorm" or "rmsnorm"."""
    params = {"gain": jnp.ones(d_model)}
    if bias and kind == "layernorm":
        params["bias"] = jnp.zeros(d_model)
    return params


def normalize(kind: str, params: Params, x_BxTxD: Array) -> Array:
    """Normalization over the last axis in float32 (or wider): gain * (x - mean) / sqrt(variance + 1e-5) + bias.

    "layernorm" is Ba et al. (2016), arXiv 1607.06450, equation 4; "rmsnorm" is Zhang & Sennrich (2019),
    arXiv 1910.07467, equation 4: the mean is not subtracted and there is no bias; "none" returns x.
    """
    if kind == "none":
        return x_BxTxD
    x_BxTxD = x_BxTxD.astype(carry_dtype(x_BxTxD.dtype))
    if kind == "layernorm":
        x_BxTxD = x_BxTxD - jnp.mean(x_BxTxD, axis=-1, keepdims=True)
    mean_square_BxTx1 = jnp.mean(x_BxTxD * x_BxTxD, axis=-1, keepdims=True)
    y_BxTxD = x_BxTxD * lax.rsqrt(mean_square_BxTx1 + NORM_EPSILON) * params["gain"][None, None, :]
    return y_BxTxD + params["bias"][None, None, :] if "bias" in params else y_BxTxD


def dropout(x: Array, key: Array | None, layer: int | Array, rate: float) -> Array:
    """Zero each element with probability `rate` and scale the others by 1 / (1 - rate) (Srivastava et al. 2014).

    The mask is a pure function of (`key`, `layer`), so that a scan over layers draws another mask in each.
    No key means no dropout.
    """
    if key is None:
        return x
    keep = jax.random.bernoulli(jax.random.fold_in(key, layer), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)
