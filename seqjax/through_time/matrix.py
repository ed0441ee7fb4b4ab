"""A state that is a matrix, S_t of K x P, written by keys and values, read by queries, and forgotten by a gate.

    S_t = g_t S_{t-1} + k_t^T v_t          y_t = q_t S_t

The gate g_t in (0, 1] is one number a head (`gated`: Mamba-2, Dao & Gu 2024, arXiv 2405.21060; retention), or one for
each of the K rows of S (`gated_rows`: GLA, Yang et al. 2023, arXiv 2312.06635; HGRN2). It is given as log g_t.
`seqjax.through_time.delta` adds the delta rule, `seqjax.through_time.exponential` the gates of the mLSTM.

Two ways compute the same. "steps" is the equation, a scan over T steps, and the reference. "chunks" cuts time into
pieces of C steps (GLA, section 4). With L_i = log g_1 + .. + log g_i inside a piece, and S the state before it:

    y_i    = exp(L_i) q_i S + sum_{j <= i} exp(L_i - L_j) (q_i . k_j) v_j
    S_next = exp(L_C) S + sum_j exp(L_C - L_j) k_j^T v_j

These are products of C rows; only S_next waits for the piece before. All exponents are differences of sums of
logarithms and at most 0, so nothing overflows. A ratio of two products of gates would become 0 / 0.
Pairs with j > i are set to exp(-inf) = 0: a mask after exp would give the gradient inf * 0.

Axes: `N` heads, `K` width of a key and a query, `P` width of a value, `C` steps of a piece, `c` pieces, `I` and `J`
steps within a piece. The functions below the public ones are for one head of one sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers.precision import carry_dtype, contract

CHUNK = 64  # steps of a piece
CHUNK_ROWS = 16  # with a gate for each row: the factors of all pairs are C x C x K
Way = Literal["chunks", "steps"]
Tree = Any


def gated(
    q: Array, k: Array, v_BxTxNxP: Array, log_g_BxTxN: Array, S_BxNxKxP: Array, dtype: DTypeLike,
    mask_BxT: Array | None = None, way: Way = "chunks", chunk: int = CHUNK,
) -> tuple[Array, Array]:  # fmt: skip
    """S_t = g_t S_{t-1} + k_t^T v_t and y_t = q_t S_t with one gate a head.

    Args:
      q, k: BxTxNxK, or BxTxK for one query and one key that all heads share.
      log_g_BxTxN: finite, at most 0.
      S_BxNxKxP: the state before the first step.
      dtype: of the operands of matrix products; gates, sums and the state are float32 (or wider, as `dtype`).
      mask_BxT: bool; where it is false the state is unchanged, and y has no meaning.
      way, chunk: see above. Values do not depend on them.

    Returns:
      y_BxTxNxP and the state after the last step.
    """
    log_g_BxTxN, k = where_true(mask_BxT, log_g_BxTxN), where_true(mask_BxT, k)
    run = partial(_in_chunks, chunk=chunk) if way == "chunks" else _in_steps
    return for_every_head(partial(run, dtype=dtype), (q, k, v_BxTxNxP, log_g_BxTxN), S_BxNxKxP, dtype)


def gated_rows(
    q_BxTxNxK: Array, k_BxTxNxK: Array, v_BxTxNxP: Array, log_g_BxTxNxK: Array, S_BxNxKxP: Array, dtype: DTypeLike,
    mask_BxT: Array | None = None, way: Way = "chunks", chunk: int = CHUNK_ROWS,
) -> tuple[Array, Array]:  # fmt: skip
    """S_t = diag(g_t) S_{t-1} + k_t^T v_t and y_t = q_t S_t with a gate for each row of S. See `gated`."""
    log_g_BxTxNxK, k_BxTxNxK = where_true(mask_BxT, log_g_BxTxNxK), where_true(mask_BxT, k_BxTxNxK)
    run = partial(_in_chunks, chunk=chunk) if way == "chunks" else _in_steps
    return for_every_head(partial(run, dtype=dtype), (q_BxTxNxK, k_BxTxNxK, v_BxTxNxP, log_g_BxTxNxK), S_BxNxKxP, dtype)


def _in_steps(
    q_TxK: Array, k_TxK: Array, v_TxP: Array, log_g_T: Array, S_KxP: Array, dtype: DTypeLike
) -> tuple[Array, Array]:
    """The equation. log_g is T, or TxK for a gate for each row."""

    def step(S_KxP: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        q_K, k_K, v_P, log_g = inputs
        S_KxP = jnp.exp(log_g).reshape(-1, 1) * S_KxP + k_K[:, None] * v_P[None, :]
        return S_KxP, q_K @ S_KxP

    last_KxP, y_TxP = lax.scan(step, S_KxP, (*rounded(dtype, q_TxK, k_TxK, v_TxP), log_g_T))
    return y_TxP, last_KxP


def _in_chunks(
    q_TxK: Array, k_TxK: Array, v_TxP: Array, log_g_T: Array, S_KxP: Array, dtype: DTypeLike, chunk: int
) -> tuple[Array, Array]:
    """As `_in_steps`, in pieces."""
    q, k, v, log_g = (cut(array, chunk) for array in (q_TxK, k_TxK, v_TxP, log_g_T))
    L_cxC = jnp.cumsum(log_g, axis=1)  # with a gate for each row cxCxK, as all that follows from it
    y_cxCxP, write_cxKxP = jax.vmap(partial(_within, dtype=dtype))(q, k, v, L_cxC)

    def next_chunk(S_KxP: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, write_KxP = inputs
        return keep.reshape(-1, 1) * S_KxP + write_KxP, S_KxP

    last_KxP, S_cxKxP = lax.scan(next_chunk, S_KxP, (jnp.exp(L_cxC[:, -1]), write_cxKxP))
    y_cxCxP = y_cxCxP + jax.vmap(partial(_read, dtype=dtype))(q, L_cxC, S_cxKxP)
    return joined(y_cxCxP, len(v_TxP)), last_KxP


def _read(q_IxK: Array, L_I: Array, S_KxP: Array, dtype: DTypeLike) -> Array:
    """exp(L_i) q_i S, IxP."""
    return contract("IK,KP->IP", jnp.exp(columns(L_I)) * q_IxK, S_KxP, dtype)


def _within(q_IxK: Array, k_JxK: Array, v_JxP: Array, L_J: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """What a piece reads of itself, IxP, and what it writes, KxP.

    With a gate for each row, exp(L_i - L_j) is inside the sum over K. exp(L_i) exp(-L_j) would make a matrix product of
    it, but exp(-L_j) overflows where gates are near 0.
    """
    if L_J.ndim == 1:
        weights_IxJ = contract("IK,JK->IJ", q_IxK, k_JxK, dtype) * decays(L_J)
    else:
        weights_IxJ = (q_IxK[:, None] * k_JxK[None] * decays(L_J)).sum(-1)
    write_KxP = contract("JK,JP->KP", jnp.exp(columns(L_J[-1:] - L_J)) * k_JxK, v_JxP, dtype)
    return contract("IJ,JP->IP", weights_IxJ, v_JxP, dtype), write_KxP


def columns(a_T: Array) -> Array:
    """Tx1 from T; TxK stays."""
    return a_T.reshape(len(a_T), -1)


def decays(L_J: Array) -> Array:
    """exp(L_i - L_j) for j <= i, else 0: CxC, or CxCxK from CxK."""
    differences = L_J[:, None] - L_J[None, :]
    earlier_IxJ = jnp.tril(jnp.ones((len(L_J), len(L_J)), bool))
    return jnp.exp(jnp.where(earlier_IxJ.reshape(earlier_IxJ.shape + (1,) * (L_J.ndim - 1)), differences, -jnp.inf))


def for_every_head(
    run: Callable[..., tuple[Array, Tree]], arrays: tuple[Array, ...], state: Tree, dtype: DTypeLike
) -> tuple[Array, Tree]:
    """`run` (arrays Tx..., state ...) -> (y_TxP, state) for every sequence and head.

    Args:
      arrays: BxTxNx...; the first two, queries and keys, may be BxTxK.
      state: a pytree of arrays BxNx....
    """
    axes = [1] * len(arrays)
    axes[:2] = [1 if array.ndim == 4 else None for array in arrays[:2]]
    state = jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), state)
    return jax.vmap(jax.vmap(run, in_axes=(*axes, 0), out_axes=(1, 0)))(*arrays, state)


def where_true(mask_BxT: Array | None, x_BxTx: Array, otherwise: float = 0.0) -> Array:
    """x where the mask is true or there is none, else `otherwise`."""
    if mask_BxT is None:
        return x_BxTx
    return jnp.where(mask_BxT.reshape(mask_BxT.shape + (1,) * (x_BxTx.ndim - 2)), x_BxTx, otherwise)


def cut(x_Tx: Array, chunk: int, padding: float = 0.0) -> Array:
    """Equal pieces of at most `chunk` steps, cxCx.... `padding` fills the end: zero log gates and keys do nothing."""
    pieces = -(-len(x_Tx) // chunk)
    missing = -len(x_Tx) % pieces
    padded = jnp.pad(x_Tx, [(0, missing)] + [(0, 0)] * (x_Tx.ndim - 1), constant_values=padding)
    return padded.reshape(pieces, -1, *x_Tx.shape[1:])


def joined(y_cxCx: Array, times: int) -> Array:
    """The first `times` steps of the pieces."""
    return y_cxCx.reshape(-1, *y_cxCx.shape[2:])[:times]


def rounded(dtype: DTypeLike, *arrays: Array) -> list[Array]:
    """The arrays as operands of products in `dtype`, in float32 or wider."""
    return [array.astype(dtype).astype(carry_dtype(dtype)) for array in arrays]
