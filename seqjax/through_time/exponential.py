"""The matrix state of the mLSTM: exponential gates, a normaliser n, a maximum m (Beck et al. 2024, arXiv 2405.04517).

    m_t = max(log f_t + m_{t-1}, log i_t)
    f'  = exp(log f_t + m_{t-1} - m_t)                 i' = exp(log i_t - m_t)
    S_t = f' S_{t-1} + i' k_t^T v_t                    n_t = f' n_{t-1} + i' k_t
    y_t = q_t S_t / max(|q_t . n_t|, exp(-m_t))

(section 2.3, with the stabiliser of section 2.2). S and n are scaled by exp(-m), and y does not depend on m: it only
keeps exp from overflowing. So m has no gradient here.

"steps" is the equation. "chunks" computes pieces of C steps at once. With b_i = log f_1 + .. + log f_i inside a piece,
and S, n, m the state before it:

    D_ij  = b_i - b_j + log i_j for j <= i            m_i = max(b_i + m, max_j D_ij)
    y_i   = sum_j exp(D_ij - m_i) (q_i . k_j) v_j + exp(b_i + m - m_i) q_i S,      divided by
            max(|sum_j exp(D_ij - m_i) (q_i . k_j) + exp(b_i + m - m_i) q_i . n|, exp(-m_i))

and the state after it follows from the last row of D: see `seqjax.through_time.matrix`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers.precision import contract
from seqjax.through_time.matrix import CHUNK, Way, cut, for_every_head, joined, rounded, where_true

NEVER = -1e30
"""log i of padding. Finite: in a piece that is all padding it is subtracted from itself."""


class Memory(NamedTuple):
    """The state: S_BxNxKxP, n_BxNxK and m_BxN; of one head without B and N."""

    S: Array
    n: Array
    m: Array


def no_memory(batch: int, heads: int, key_width: int, value_width: int) -> Memory:
    """The state before the first step, zeros, float32."""
    lead = (batch, heads)
    return Memory(jnp.zeros((*lead, key_width, value_width)), jnp.zeros((*lead, key_width)), jnp.zeros(lead))


def exponential(
    q: Array, k: Array, v_BxTxNxP: Array, log_f_BxTxN: Array, log_i_BxTxN: Array, state: Memory, dtype: DTypeLike,
    mask_BxT: Array | None = None, way: Way = "chunks", chunk: int = CHUNK,
) -> tuple[Array, Memory]:  # fmt: skip
    """y_BxTxNxP and the state after the last step. log f is at most 0; all else is as in `matrix.gated`."""
    log_f_BxTxN, log_i_BxTxN = where_true(mask_BxT, log_f_BxTxN), where_true(mask_BxT, log_i_BxTxN, NEVER)
    run = partial(_in_chunks, chunk=chunk) if way == "chunks" else _in_steps
    arrays = (q, k, v_BxTxNxP, log_f_BxTxN, log_i_BxTxN)
    return for_every_head(partial(run, dtype=dtype), arrays, state, dtype)


def _in_steps(
    q_TxK: Array, k_TxK: Array, v_TxP: Array, log_f_T: Array, log_i_T: Array, state: Memory, dtype: DTypeLike
) -> tuple[Array, Memory]:
    """The equation."""

    def step(state: Memory, inputs: tuple[Array, ...]) -> tuple[Memory, Array]:
        q_K, k_K, v_P, log_f, log_i = inputs
        m = _largest(log_f + state.m, log_i)
        f, i = jnp.exp(log_f + state.m - m), jnp.exp(log_i - m)
        S_KxP, n_K = f * state.S + i * k_K[:, None] * v_P[None, :], f * state.n + i * k_K
        return Memory(S_KxP, n_K, m), q_K @ S_KxP / _normaliser(q_K @ n_K, m)

    last, y_TxP = lax.scan(step, state, (*rounded(dtype, q_TxK, k_TxK, v_TxP), log_f_T, log_i_T))
    return y_TxP, last


def _in_chunks(
    q_TxK: Array, k_TxK: Array, v_TxP: Array, log_f_T: Array, log_i_T: Array, state: Memory, dtype: DTypeLike,
    chunk: int,
) -> tuple[Array, Memory]:  # fmt: skip
    """As `_in_steps`, in pieces."""
    q, k, v, log_f = (cut(array, chunk) for array in (q_TxK, k_TxK, v_TxP, log_f_T))
    b_cxC, log_i_cxC = jnp.cumsum(log_f, axis=1), cut(log_i_T, chunk, padding=NEVER)
    writes = jax.vmap(partial(_write, dtype=dtype))(k, v, b_cxC, log_i_cxC)

    def next_chunk(state: Memory, inputs: tuple[Array, Memory]) -> tuple[Memory, Memory]:
        log_keep, write = inputs
        m = _largest(log_keep + state.m, write.m)
        f, i = jnp.exp(log_keep + state.m - m), jnp.exp(write.m - m)
        return Memory(f * state.S + i * write.S, f * state.n + i * write.n, m), state

    last, states = lax.scan(next_chunk, state, (b_cxC[:, -1], writes))
    y_cxCxP = jax.vmap(partial(_read, dtype=dtype))(q, k, v, b_cxC, log_i_cxC, states)
    return joined(y_cxCxP, len(v_TxP)), last


def _write(k_JxK: Array, v_JxP: Array, b_J: Array, log_i_J: Array, dtype: DTypeLike) -> Memory:
    """What a piece alone leaves in an empty state."""
    log_J = b_J[-1] - b_J + log_i_J
    m = _largest(log_J.max())
    scaled_JxK = jnp.exp(log_J - m)[:, None] * k_JxK
    return Memory(contract("JK,JP->KP", scaled_JxK, v_JxP, dtype), scaled_JxK.sum(0), m)


def _read(
    q_IxK: Array, k_JxK: Array, v_JxP: Array, b_J: Array, log_i_J: Array, before: Memory, dtype: DTypeLike
) -> Array:
    """y_IxP of a piece."""
    earlier_IxJ = jnp.tril(jnp.ones((len(b_J), len(b_J)), bool))
    D_IxJ = jnp.where(earlier_IxJ, b_J[:, None] - b_J[None, :] + log_i_J[None, :], -jnp.inf)
    m_I = _largest(b_J + before.m, D_IxJ.max(axis=1))
    weights_IxJ = contract("IK,JK->IJ", q_IxK, k_JxK, dtype) * jnp.exp(D_IxJ - m_I[:, None])
    carried_I = jnp.exp(b_J + before.m - m_I)
    y_IxP = contract("IJ,JP->IP", weights_IxJ, v_JxP, dtype)
    scaled_IxK = carried_I[:, None] * q_IxK
    y_IxP = y_IxP + contract("IK,KP->IP", scaled_IxK, before.S, dtype)
    sum_I = weights_IxJ.sum(axis=1) + contract("IK,K->I", scaled_IxK, before.n, dtype)
    return y_IxP / _normaliser(sum_I, m_I)[:, None]


def _normaliser(q_n: Array, m: Array) -> Array:
    """max(|q . n|, exp(-m)). Beyond 80 the bound stays, so that it is neither 0 nor infinite in float32."""
    return jnp.maximum(jnp.abs(q_n), jnp.exp(-jnp.clip(m, -80.0, 80.0)))


def _largest(*of: Array) -> Array:
    """The elementwise maximum, as a constant."""
    return lax.stop_gradient(of[0] if len(of) == 1 else jnp.maximum(*of))
