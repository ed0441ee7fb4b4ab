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
from seqjax.through_time.matrix import Rule, outer, zero_matrix

NEVER = -1e30
"""log i of padding. Finite: in a piece that is all padding it is subtracted from itself."""


class Memory(NamedTuple):
    """The state: S_BxNxKxP, n_BxNxK and m_BxN; of one head without B and N."""

    S: Array
    n: Array
    m: Array


def no_memory(batch: int, heads: int, key_width: int, value_width: int) -> Memory:
    """The state before the first step, zeros, float32."""
    S_BxNxKxP = zero_matrix(batch, heads, key_width, value_width)
    return Memory(S_BxNxKxP, jnp.zeros((batch, heads, key_width)), jnp.zeros((batch, heads)))


def _move(state: Memory, k_K: Array, v_P: Array, log_f: Array, log_i: Array) -> Memory:
    m = _largest(log_f + state.m, log_i)
    f, i = jnp.exp(log_f + state.m - m), jnp.exp(log_i - m)
    return Memory(f * state.S + outer(i * k_K, v_P), f * state.n + i * k_K, m)


def _read(state: Memory, q_K: Array) -> Array:
    return q_K @ state.S / _normaliser(q_K @ state.n, state.m)


def _chunks(inputs: tuple[Array, ...], state: Memory, dtype: DTypeLike) -> tuple[Array, Memory]:
    """See `Rule.chunks`."""
    q_cxCxK, k_cxCxK, v_cxCxP, log_f_cxC, log_i_cxC = inputs
    b_cxC = jnp.cumsum(log_f_cxC, axis=1)
    writes = jax.vmap(partial(_write, dtype=dtype))(k_cxCxK, v_cxCxP, b_cxC, log_i_cxC)

    def next_piece(state: Memory, inputs: tuple[Array, Memory]) -> tuple[Memory, Memory]:
        log_keep, write = inputs
        m = _largest(log_keep + state.m, write.m)
        f, i = jnp.exp(log_keep + state.m - m), jnp.exp(write.m - m)
        return Memory(f * state.S + i * write.S, f * state.n + i * write.n, m), state

    last, states = lax.scan(next_piece, state, (b_cxC[:, -1], writes))
    return jax.vmap(partial(_piece, dtype=dtype))(q_cxCxK, k_cxCxK, v_cxCxP, b_cxC, log_i_cxC, states), last


def _write(k_JxK: Array, v_JxP: Array, b_J: Array, log_i_J: Array, dtype: DTypeLike) -> Memory:
    """What a piece alone leaves in an empty state."""
    log_J = b_J[-1] - b_J + log_i_J
    m = _largest(log_J.max())
    scaled_JxK = jnp.exp(log_J - m)[:, None] * k_JxK
    return Memory(contract("JK,JP->KP", scaled_JxK, v_JxP, dtype), scaled_JxK.sum(0), m)


def _piece(
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


EXPONENTIAL = Rule(_move, _read, _chunks, (None, None, None, 0.0, NEVER))
"""Gates: log f, at most 0, and log i. The state is a `Memory`."""
