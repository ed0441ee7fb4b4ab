"""Cross-entropy from the last hidden states, without logits of all tokens at once.

The gradient of a weighted sum of losses with respect to the logits is w_n (softmax(logits_n) - onehot(y_n)). So tokens
are taken in chunks, and the forward pass computes each chunk's gradients from its logits. Nothing is computed twice.
No array of tokens x vocabulary outlives a chunk (as in Liger, Hsu et al. 2024, arXiv 2410.10989, section 3.2).
Devices that share the batch cut their own tokens into chunks, and add up their gradients of the readout once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers.dense import Params
from seqjax.layers.precision import carry_dtype, contract
from seqjax.layers.readout import readout_weights
from seqjax.layers.sharing import on_own_rows
from seqjax.layers.target import target

CPU_LOGITS, LOGITS = 2**20, 2**26  # logits of a chunk; on a CPU they should fit into the cache


def mean_cross_entropy(x_BxTxD: Array, params: Params, dtype: DTypeLike, targets_BxT: Array) -> Array:
    """Mean over all tokens of - log softmax(x W + b)[target], nats, float32 scalar (a `readout` of a model).

    Args:
      params: as for `seqjax.layers.readout.unembed`.
    """
    weights_BxT = jnp.full(targets_BxT.shape, 1.0 / targets_BxT.size, carry_dtype(dtype))
    return weighted_cross_entropy(x_BxTxD, params, dtype, targets_BxT, weights_BxT)


def weighted_cross_entropy(
    x_BxTxD: Array, params: Params, dtype: DTypeLike, targets_BxT: Array, weights_BxT: Array, smoothing: float = 0.0
) -> Array:
    """- sum_n w_n sum_v q_v log softmax(x_n W + b)[v], nats, float32 scalar.

    Args:
      weights_BxT: w, constants; zero for padding.
      smoothing: epsilon of q_v = (1 - epsilon) [v = target] + epsilon / V (Szegedy et al. 2016, arXiv 1512.00567,
        section 7).
    """
    letters, W, b = readout_weights(params)
    rows = (_rows(x_BxTxD), W, b, targets_BxT.reshape(-1), weights_BxT.reshape(-1))
    return _weighted(letters, jnp.dtype(dtype), smoothing, *rows)


def token_cross_entropy(x_BxTxD: Array, params: Params, dtype: DTypeLike, targets_BxT: Array) -> Array:
    """- log softmax(x W + b)[target] of every token, nats, float32 BxT (a `readout` of a model)."""
    letters, *weights = readout_weights(params)

    def of_rows(rows: tuple[Array, Array], weights: list[Array | None]) -> tuple[tuple[()], Array]:
        cut, join = _chunks(len(rows[0]), weights[0].shape[letters.index("V")])

        def of_chunk(chunk: tuple[Array, Array]) -> Array:
            x_NxD, targets_N = chunk
            logits_NxV = _logits(letters, dtype, x_NxD, *weights)
            return jax.nn.logsumexp(logits_NxV, axis=-1) - _at(logits_NxV, targets_N)

        return (), join(lax.map(of_chunk, jax.tree.map(cut, rows)))

    _, losses = on_own_rows(of_rows, (_rows(x_BxTxD), targets_BxT.reshape(-1)), weights)
    return losses.reshape(targets_BxT.shape)


def _rows(x_BxTxD: Array) -> Array:
    return x_BxTxD.reshape(-1, x_BxTxD.shape[-1])


def _logits(letters: str, dtype: DTypeLike, x_NxD: Array, W: Array, b: Array | None) -> Array:
    logits_NxV = contract(f"ND,{letters}->NV", x_NxD, W, dtype)
    return logits_NxV if b is None else logits_NxV + b[None]


def _at(logits_NxV: Array, targets_N: Array) -> Array:
    return jnp.take_along_axis(logits_NxV, targets_N[:, None], axis=1)[:, 0]


def _chunks(n_tokens: int, vocab_size: int) -> tuple[Any, Any]:
    """Functions that cut an array N... into equal chunks cxn..., padded with zeros, and join them again."""
    most = CPU_LOGITS if target().platform == "cpu" else LOGITS
    count = -(-n_tokens * vocab_size // most)
    length = -(-n_tokens // count)

    def cut(x_Nx: Array) -> Array:
        padded = jnp.pad(x_Nx, [(0, count * length - n_tokens)] + [(0, 0)] * (x_Nx.ndim - 1))
        return padded.reshape(count, length, *x_Nx.shape[1:])

    return cut, lambda x: x.reshape(-1, *x.shape[2:])[:n_tokens]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _weighted(
    letters: str,
    dtype: DTypeLike,
    smoothing: float,
    x_NxD: Array,
    W: Array,
    b: Array | None,
    targets_N: Array,
    weights_N: Array,
) -> Array:
    """sum_n w_n (log sum exp(logits_n) - (1 - epsilon) logits_n[y_n] - epsilon mean(logits_n))."""
    return _weighted_forward(letters, dtype, smoothing, x_NxD, W, b, targets_N, weights_N)[0]


def _weighted_forward(
    letters: str,
    dtype: DTypeLike,
    smoothing: float,
    x_NxD: Array,
    W: Array,
    b: Array | None,
    targets_N: Array,
    weights_N: Array,
) -> tuple[Array, tuple[Array, ...]]:
    """The loss, and its gradients as residuals of the backward pass."""
    of_rows = partial(_sums_of_rows, letters, dtype, smoothing)
    (loss, d_W, d_b), d_x = on_own_rows(of_rows, (x_NxD, targets_N, weights_N), (W, b))
    return loss, (d_x, d_W, d_b)


def _sums_of_rows(
    letters: str, dtype: DTypeLike, smoothing: float, rows: tuple[Array, ...], readout: tuple[Array, Array | None]
) -> tuple[tuple[Array, ...], Array]:
    """The loss of these rows, its gradients with respect to the readout, and with respect to the rows."""
    W, b = readout
    cut, join = _chunks(len(rows[0]), W.shape[letters.index("V")])

    def add(totals: tuple[Array, ...], chunk: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        x, targets, weights = chunk
        logits = _logits(letters, dtype, x, W, b)
        exponentials = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        sums = exponentials.sum(axis=-1)
        losses = jnp.log(sums) + logits.max(axis=-1) - (1 - smoothing) * _at(logits, targets)
        if smoothing:
            losses = losses - smoothing * logits.mean(axis=-1)
        chosen = targets[:, None] == lax.broadcasted_iota(targets.dtype, logits.shape, 1)
        wanted = (1 - smoothing) * chosen.astype(logits.dtype) + smoothing / logits.shape[1]
        d_logits = exponentials * (weights / sums)[:, None] - weights[:, None] * wanted
        d_W = contract("ND,NV->DV", x, d_logits, dtype)
        d_b = None if b is None else d_logits.sum(axis=0)
        parts = ((weights * losses).sum(), d_W if letters == "DV" else d_W.T, d_b)
        return jax.tree.map(jnp.add, totals, parts), contract(f"NV,{letters}->ND", d_logits, W, dtype).astype(x.dtype)

    wide = carry_dtype(dtype)
    zero = (jnp.zeros((), wide), jnp.zeros(W.shape, wide), None if b is None else jnp.zeros(b.shape, wide))
    sums, d_x = lax.scan(add, zero, jax.tree.map(cut, rows))
    return sums, join(d_x)


def _weighted_backward(
    letters: str, dtype: DTypeLike, smoothing: float, grads: tuple[Array, ...], d_loss: Array
) -> tuple[Any, ...]:
    return *jax.tree.map(lambda grad: (d_loss * grad).astype(grad.dtype), grads), None, None


_weighted.defvjp(_weighted_forward, _weighted_backward)
