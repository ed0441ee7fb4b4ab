"""Functions that gated cells share. Gates are concatenated along their last axis, G.

`project_gates` multiplies the inputs of all time steps in one product, since they do not depend on the state. A cell's
`step` then needs one product over all gates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers.dense import Params, draw_normal
from seqjax.layers.precision import contract


def init_gates(key: Array, d_in: int, d_hidden: int, n_gates: int, bias: bool) -> Params:
    """Weights of `n_gates` gates: input weights LeCun normal, recurrent weights orthogonal, biases zero.

    LeCun normal: standard deviation D^-0.5. Orthogonal recurrent weights (Saxe et al. 2014, arXiv 1312.6120) keep the
    length of the state and of its gradient in the linear part of the recurrence. Each gate has its own random
    orthogonal HxH matrix.

    Returns:
      {"W_x": DxG, "W_h": HxG, "b": G} with G = n_gates H, float32; "b" only with `bias`.
    """
    shapes = {"W_x": (d_in**-0.5, (d_in, n_gates * d_hidden)), "W_h": (1.0, (n_gates, d_hidden, d_hidden))}
    params = draw_normal(key, **shapes)
    params["W_h"] = jnp.concatenate(list(jax.vmap(_orthogonal)(params["W_h"])), axis=1)
    if bias:
        params["b"] = jnp.zeros(n_gates * d_hidden)
    return params


@jax.custom_batching.sequential_vmap
def _orthogonal(normal_HxH: Array) -> Array:
    """A uniformly distributed orthogonal matrix from a matrix of normal numbers.

    Under vmap, matrices are factorized one at a time. On a CPU jaxlib 0.10 gives a batch of QR factorizations to its
    thread pool and waits on a thread of the same pool: a program with two such batches can deadlock.
    """
    q_HxH, r_HxH = jnp.linalg.qr(normal_HxH)
    return q_HxH * jnp.sign(jnp.diagonal(r_HxH))[None, :]


def project_gates(params: Params, x_TxBxD: Array, dtype: DTypeLike) -> Array:
    """gates_x_TxBxG = W_x x_t + b for all t in one product, float32."""
    gates_x_TxBxG = contract("TBD,DG->TBG", x_TxBxD, params["W_x"], dtype)
    return gates_x_TxBxG + params["b"][None, None, :] if "b" in params else gates_x_TxBxG


def activate(gates_BxG: Array, is_sigmoid: tuple[bool, ...]) -> Array:
    """Sigmoid or tanh of each gate with one tanh over all: sigmoid(x) = tanh(x / 2) / 2 + 1/2.

    On a CPU XLA does not vectorise several activations in one loop. One tanh is five times faster for an LSTM's four
    gates of 128 units.

    Args:
      is_sigmoid: for each gate, true for a sigmoid; the gates have equal width.
    """
    half_G = np.where(is_sigmoid, 0.5, 1.0).repeat(gates_BxG.shape[-1] // len(is_sigmoid)).astype(gates_BxG.dtype)
    return half_G[None] * jnp.tanh(half_G[None] * gates_BxG) + (1 - half_G)[None]
