"""Gradients of the loss at step t with respect to the state at step k: the subject of back-propagation through time.

A nudge n_k, zero, is added to the state of step k, and loss_t is differentiated with respect to it, for every t and k:

    recurrent     s_k = step(s_{k-1}, x_k) + n_k      the state of every layer after step k
    Transformer   x_k = E[token_k] + P[k] + n_k       the residual stream of position k before the first block

For an Elman network of one layer d loss_t / d h_k is a product of Jacobians (Pascanu, Mikolov & Bengio 2013, ICML,
equation 5; vectors are rows here, so that h_j = tanh(h_{j-1} W_h + ...)):

    d loss_t / d h_k = d loss_t / d h_t  .  D_t W_h^T  .  D_{t-1} W_h^T  ...  D_{k+1} W_h^T,     D_j = diag(1 - h_j^2)

An LSTM's state is (h, c), and its gradient has a part for each: the gradient by c_k with h_k fixed, and by h_k with c_k
fixed. A Transformer has no such state. Its x_k reaches loss_t through attention in every block, by paths whose number
of factors does not grow with t - k. At k = t the residual stream is one more path.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.families.family import Family
from seqjax.models.language_model import watched

Tree = Any


def nudged_losses(family: Family, params: Tree, batch_BxT1: jax.Array, nudges: Tree) -> jax.Array:
    """loss_TxB: the cross-entropy of every next token in nats, with the nudges added; without dropout.

    With zero nudges they are the losses of the language model of `family`, in the dtype of the parameters.
    """
    logits_BxTxV, _ = watched(family, params, batch_BxT1[:, :-1], params["embedding"].dtype, nudges)
    targets_BxT = batch_BxT1[:, 1:]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_BxTxV), targets_BxT[:, :, None], axis=2)[:, :, 0].T


def state_gradients(family: Family, params: Tree, batch_BxT1: jax.Array) -> Tree:
    """d loss_t / d n_k for every t and k, in one program: a tree like the nudges, with a leading axis T of t.

    The rows of a batch are independent, so one backward pass from sum_b loss_{t,b} gives the gradients of all rows. The
    passes for all t are batched by `jax.vmap`.
    """
    batch, times = batch_BxT1.shape[0], batch_BxT1.shape[1] - 1
    nudges = jax.tree.map(lambda n: n.astype(params["embedding"].dtype), family.no_nudges(batch, times))
    loss_TxB, pull = jax.vjp(lambda n: nudged_losses(family, params, batch_BxT1, n), nudges)

    def of_time(one_hot_T: jax.Array) -> Tree:
        return pull(jnp.broadcast_to(one_hot_T[:, None], loss_TxB.shape))[0]

    return jax.vmap(of_time)(jnp.eye(times, dtype=loss_TxB.dtype))


def gradient_norms(family: Family, params: Tree, batch_BxT1: jax.Array) -> dict[str, jax.Array]:
    """norms_TxTxB by the names of `Family.states`: |d loss_t / d n_k|, t first, over all layers."""

    def norm(g: jax.Array) -> jax.Array:
        axes = (2, *range(4, g.ndim)) if family.recurrent else (-1,)  # TxTxLxBx..., or TxTxBxD
        largest = jnp.maximum(jnp.abs(g).max(axis=axes, keepdims=True), jnp.finfo(g.dtype).tiny)
        return largest.squeeze(axes) * jnp.sqrt(jnp.square(g / largest).sum(axis=axes))  # squares would underflow

    leaves = jax.tree.leaves(state_gradients(family, params, batch_BxT1))
    return dict(zip(family.states, map(norm, leaves), strict=True))


def by_distance(norms_TxTxB: np.ndarray) -> np.ndarray:
    """[T]: the mean of norms[t, k] over the rows and over all t, k with t - k = 0, 1, ..., T-1."""
    return np.array([np.diagonal(norms_TxTxB, -distance).mean() for distance in range(len(norms_TxTxB))])


def elman_bound(params: Tree) -> float:
    """The largest singular value of W_h: |d loss_t / d h_k| <= |d loss_t / d h_t| s^(t-k), for a network of one layer.

    The slopes 1 - h^2 are at most 1 (Pascanu, Mikolov & Bengio 2013, section 2.1).
    """
    (W_HxH,) = params["layers"]["W_h"] if "layers" in params else params["first"]["W_h"][None]
    return float(np.linalg.norm(np.asarray(W_HxH), 2))


def elman_mean_slope(h_TxBxH: np.ndarray) -> float:
    """sqrt of the mean of (1 - h^2)^2: the factor of one step back, for a random direction and an orthogonal W_h.

    It is the factor of a mean-field theory of random networks (Chen, Pennington & Schoenholz 2018, ICML, "Dynamical
    isometry and a mean field theory of RNNs").
    """
    return float(np.sqrt(np.mean((1 - np.square(np.asarray(h_TxBxH, np.float64))) ** 2)))
