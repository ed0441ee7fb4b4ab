"""Norms and activations of rows.cc: one pass forward, one backward."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers import native

ACTIVATIONS = ("swiglu", "gelu")


def usable(x: Array, dtype: DTypeLike) -> bool:
    """Whether `x` is a float32 array BxTxD, the compute dtype float32, and the compiled functions are available."""
    return x.ndim == 3 and x.dtype == jnp.float32 == jnp.dtype(dtype) and native.in_use()


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def activate(kind: str, u_BxTxG: Array, bias_G: Array) -> Array:
    """ "gelu": gelu(u + bias), G = F, in its tanh form; "swiglu": silu(g) a of [g, a] = u + bias, G = 2 F. BxTxF.

    Args:
      bias_G: no elements if there is none.
    """
    return _activate(kind, u_BxTxG, bias_G)[0]


def _activate(kind: str, u: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    width = u.shape[-1] // (2 if kind == "swiglu" else 1)
    (y,) = native.call(f"{kind}_forward", (native.like(u, width),), u, bias)
    return y, (u, bias)


def _activate_backward(kind: str, kept: tuple[Array, Array], d_y: Array) -> tuple[Array, ...]:
    return tuple(native.call(f"{kind}_backward", kept, *kept, d_y))


activate.defvjp(_activate, _activate_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def branch(kind: str, x_BxTxD: Array, gain_D: Array, bias_D: Array) -> tuple[Array, Array]:
    """x itself and its norm ("layernorm" or "rmsnorm"), so that the gradients of both are added in one pass.

    Args:
      bias_D: no elements if there is none.
    """
    return _branch(kind, x_BxTxD, gain_D, bias_D)[0]


def _branch(kind: str, x: Array, gain: Array, bias: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    (y,) = native.call("norm_forward", (x,), x, gain, bias, centred=np.float32(kind == "layernorm"))
    return (x, y), (x, gain, bias)


def _branch_backward(kind: str, kept: tuple[Array, ...], grads: tuple[Array, Array]) -> tuple[Array, ...]:
    x, gain, bias = kept
    results = x, native.like(gain, gain.shape[-1] + bias.shape[-1])
    d_x, d_parameters = native.call("norm_backward", results, *kept, *grads, centred=np.float32(kind == "layernorm"))
    return d_x, *jnp.split(d_parameters, [gain.shape[-1]])


branch.defvjp(_branch, _branch_backward)
