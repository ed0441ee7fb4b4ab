"""How the loss at step t depends on the state at step k: the gradients that back-propagation through time multiplies.

A nudge n_k, zero, is added to what step k hands on, and loss_t is differentiated with respect to it, for every t and k:

    recurrent     s_k = step(s_{k-1}, x_k) + n_k      the state of every layer after step k: all that later steps know
    Transformer   x_k = E[token_k] + P[k] + n_k       the residual stream of position k, as it enters the first block

For an Elman network of one layer d loss_t / d h_k is a product of Jacobians (Pascanu, Mikolov & Bengio 2013, ICML,
equation 5; vectors are rows here, so that h_j = tanh(h_{j-1} W_h + ...)):

    d loss_t / d h_k = d loss_t / d h_t  .  D_t W_h^T  .  D_{t-1} W_h^T  ...  D_{k+1} W_h^T,     D_j = diag(1 - h_j^2)

An LSTM's state is (h, c), and its gradient has a part for each: that for c_k holds h_k, and that for h_k holds c_k.
A Transformer has no state that parts past and future. Its x_k reaches loss_t through attention, in every block, by
paths whose number of factors does not grow with t - k; at k = t the residual stream itself is one more path.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import CELLS
from seqjax.config import RecurrentConfig, TransformerConfig
from seqjax.models.layers import normalize, unembed
from seqjax.models.recurrent import zero_state
from seqjax.models.transformer import norm_before, run_blocks

Tree = Any
STATES = {"elman": ("h",), "gru": ("h",), "lstm": ("h", "c"), "transformer": ("x",)}
"""What is nudged, in the order of the state's arrays."""


def no_nudges(config: RecurrentConfig | TransformerConfig, batch: int, times: int) -> Tree:
    """Zeros for `nudged_losses`: of every array of the recurrent state TxLxBxH, of a Transformer TxBxD."""
    if isinstance(config, TransformerConfig):
        return jnp.zeros((times, batch, config.d_model))
    return jax.tree.map(lambda leaf: jnp.zeros((times, *leaf.shape)), zero_state(config, batch))


def nudged_losses(
    config: RecurrentConfig | TransformerConfig, params: Tree, batch_BxT1: jax.Array, nudges: Tree
) -> jax.Array:
    """loss_TxB: the cross-entropy of every next token in nats, with the nudges in place; without dropout.

    The same losses as the model of `config` has, whose parameters these are, in the dtype of the parameters.
    """
    run = _transformer if isinstance(config, TransformerConfig) else _recurrent
    h_TxBxH = run(config, params, batch_BxT1[:, :-1].T, nudges)
    logits_TxBxV = unembed(h_TxBxH, params, params["embedding"].dtype)
    targets_TxB = batch_BxT1[:, 1:].T
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_TxBxV), targets_TxB[:, :, None], axis=2)[:, :, 0]


def _recurrent(config: RecurrentConfig, params: Tree, tokens_TxB: jax.Array, nudges: Tree) -> jax.Array:
    cell, dtype = CELLS[config.family], params["embedding"].dtype
    first = [params["first"]] if "first" in params else []
    others = [jax.tree.map(lambda p, i=i: p[i], params["layers"]) for i in range(config.n_layers - len(first))]
    y_TxBxD = math.sqrt(config.d_model) * params["embedding"][tokens_TxB]
    start = jax.tree.map(lambda leaf: leaf.astype(dtype), zero_state(config, tokens_TxB.shape[1]))
    for number, layer in enumerate(first + others):

        def step(state: Tree, inputs: tuple[jax.Array, Tree], layer: Tree = layer) -> tuple[Tree, jax.Array]:
            gates_BxG, nudge = inputs
            state = jax.tree.map(jnp.add, cell.step(layer, state, gates_BxG, dtype)[0], nudge)
            return state, jax.tree.leaves(state)[0]

        state, nudge = jax.tree.map(lambda h, i=number: h[i], start), jax.tree.map(lambda n, i=number: n[:, i], nudges)
        _, y_TxBxD = jax.lax.scan(step, state, (cell.project(layer, y_TxBxD, dtype), nudge))
    return y_TxBxD


def _transformer(config: TransformerConfig, params: Tree, tokens_TxB: jax.Array, nudges: jax.Array) -> jax.Array:
    config = dataclasses.replace(config, attention_kernel="whole")  # one that JAX differentiates
    x_BxTxD = params["embedding"][tokens_TxB.T] + nudges.swapaxes(0, 1)
    if config.positions == "learned":
        x_BxTxD = x_BxTxD + params["positions"][None, : x_BxTxD.shape[1]]
    if "layers" in params:
        x_BxTxD, _ = run_blocks(config, params["layers"], x_BxTxD, 0, None, None, x_BxTxD.dtype)
    return normalize(norm_before(config), params.get("final_norm"), x_BxTxD).swapaxes(0, 1)


def state_gradients(config: RecurrentConfig | TransformerConfig, params: Tree, batch_BxT1: jax.Array) -> Tree:
    """d loss_t / d n_k of every t and k, in one program: a tree like the nudges', with a leading axis T of t.

    The rows of a batch know nothing of one another, so that one backward pass from sum_b loss_{t,b} has the gradients
    of all rows; passes for all t are mapped over side by side (`jax.vmap`).
    """
    batch, times = batch_BxT1.shape[0], batch_BxT1.shape[1] - 1
    nudges = jax.tree.map(lambda n: n.astype(params["embedding"].dtype), no_nudges(config, batch, times))
    loss_TxB, pull = jax.vjp(lambda n: nudged_losses(config, params, batch_BxT1, n), nudges)

    def of_time(one_hot_T: jax.Array) -> Tree:
        return pull(jnp.broadcast_to(one_hot_T[:, None], loss_TxB.shape))[0]

    return jax.vmap(of_time)(jnp.eye(times, dtype=loss_TxB.dtype))


def gradient_norms(
    config: RecurrentConfig | TransformerConfig, params: Tree, batch_BxT1: jax.Array
) -> dict[str, jax.Array]:
    """norms_TxTxB by name of the state's array (`STATES`): |d loss_t / d n_k|, t first; over all layers together."""

    def norm(g: jax.Array) -> jax.Array:
        axes = (-1,) if isinstance(config, TransformerConfig) else (-3, -1)
        largest = jnp.maximum(jnp.abs(g).max(axis=axes, keepdims=True), jnp.finfo(g.dtype).tiny)
        return largest.squeeze(axes) * jnp.sqrt(jnp.square(g / largest).sum(axis=axes))  # squares would underflow

    leaves = jax.tree.leaves(state_gradients(config, params, batch_BxT1))
    return dict(zip(STATES[config.family], map(norm, leaves), strict=True))


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

    That is what a mean-field theory of random networks says of the mean square (Chen, Pennington & Schoenholz 2018,
    ICML, "Dynamical isometry and a mean field theory of RNNs").
    """
    return float(np.sqrt(np.mean((1 - np.square(np.asarray(h_TxBxH, np.float64))) ** 2)))
