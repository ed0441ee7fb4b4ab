"""The gated delta rule: a write replaces what the state holds under its key (Yang et al. 2024, arXiv 2412.06464).

    S'  = g_t S_{t-1}
    S_t = S' + b_t k_t^T (v_t - k_t S')         y_t = q_t S_t

The gate g_t in (0, 1] and the strength b_t of a write are numbers, one a head. Keys of length 1 and b_t in [0, 2] keep
the eigenvalues of I - b_t k_t^T k_t within [-1, 1]. "steps" is the equation. "chunks" is section 3.3 of the paper, in
the notation of `seqjax.through_time.matrix`:

    A_ij   = b_i exp(L_i - L_j) (k_i . k_j)  for j < i, else 0
    U      = (I + A)^-1 (b * V)                 W = (I + A)^-1 (b * exp(L) * K)
    V'     = U - W S                            the values that are in fact added
    y_i    = exp(L_i) q_i S + sum_{j <= i} exp(L_i - L_j) (q_i . k_j) v'_j
    S_next = exp(L_C) S + sum_j exp(L_C - L_j) k_j^T v'_j

The inverse and its products are in float32 (or wider) at the highest precision, whatever `dtype` is.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers.precision import contract
from seqjax.through_time.matrix import GATED, Rule, columns, decays, outer, rounded


def _move(S_KxP: Array, k_K: Array, v_P: Array, log_g: Array, b: Array) -> Array:
    S_KxP = jnp.exp(log_g) * S_KxP
    return S_KxP + outer(b * k_K, v_P - k_K @ S_KxP)


def _chunks(inputs: tuple[Array, ...], S_KxP: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """See `Rule.chunks`."""
    q_cxCxK, k_cxCxK, v_cxCxP, log_g_cxC, b_cxC = inputs
    L_cxC = jnp.cumsum(log_g_cxC, axis=1)
    decays_cxCxC = jax.vmap(decays)(L_cxC)
    U_cxCxP, W_cxCxK = jax.vmap(partial(_solve, dtype=dtype))(k_cxCxK, v_cxCxP, L_cxC, decays_cxCxC, b_cxC)

    def next_piece(S_KxP: Array, inputs: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        k_JxK, U_JxP, W_JxK, L_J = inputs
        added_JxP = U_JxP - contract("JK,KP->JP", W_JxK, S_KxP, dtype)
        write_KxP = contract("JK,JP->KP", jnp.exp(columns(L_J[-1] - L_J)) * k_JxK, added_JxP, dtype)
        return jnp.exp(L_J[-1]) * S_KxP + write_KxP, (S_KxP, added_JxP)

    last_KxP, (S_cxKxP, added_cxCxP) = lax.scan(next_piece, S_KxP, (k_cxCxK, U_cxCxP, W_cxCxK, L_cxC))
    read = jax.vmap(partial(_read, dtype=dtype))
    return read(q_cxCxK, k_cxCxK, L_cxC, decays_cxCxC, S_cxKxP, added_cxCxP), last_KxP


def _read(
    q_IxK: Array, k_JxK: Array, L_J: Array, decays_IxJ: Array, S_KxP: Array, added_JxP: Array, dtype: DTypeLike
) -> Array:
    """y_IxP from the state before the piece and the values added in it."""
    weights_IxJ = contract("IK,JK->IJ", q_IxK, k_JxK, dtype) * decays_IxJ
    carried_IxP = contract("IK,KP->IP", jnp.exp(columns(L_J)) * q_IxK, S_KxP, dtype)
    return carried_IxP + contract("IJ,JP->IP", weights_IxJ, added_JxP, dtype)


def _solve(
    k_JxK: Array, v_JxP: Array, L_J: Array, decays_IxJ: Array, b_J: Array, dtype: DTypeLike
) -> tuple[Array, Array]:
    """U_JxP and W_JxK."""
    k_JxK, v_JxP = rounded(dtype, k_JxK, v_JxP)
    A_IxJ = columns(b_J) * jnp.tril(decays_IxJ, -1) * _exact(k_JxK, k_JxK.T)
    right = columns(b_J) * jnp.concatenate([v_JxP, jnp.exp(columns(L_J)) * k_JxK], axis=1)
    solved = _exact(inverse(A_IxJ), right)
    return solved[:, : v_JxP.shape[1]], solved[:, v_JxP.shape[1] :]


@jax.custom_vjp
def inverse(A_CxC: Array) -> Array:
    """(I + A)^-1 of a strictly lower triangular A, by halves:

        [[X, 0], [A_21, Y]]^-1 = [[X^-1, 0], [-Y^-1 A_21 X^-1, Y^-1]]

    Every entry of the inverse is at most 2 for unit keys and b_t in [0, 2], so the products lose no digits. The series
    I - A + A^2 - .. would: equal keys make binomial coefficients of it.
    """
    size = len(A_CxC)
    if size == 1:
        return jnp.ones_like(A_CxC)
    if size % 2:
        return inverse(jnp.pad(A_CxC, (0, 1)))[:-1, :-1]
    half = size // 2
    X, Y = jax.vmap(inverse)(jnp.stack([A_CxC[:half, :half], A_CxC[half:, half:]]))
    corner = -_exact(Y, _exact(A_CxC[half:, :half], X))
    return jnp.block([[X, jnp.zeros_like(X)], [corner, Y]])


def _inverse_forward(A_CxC: Array) -> tuple[Array, Array]:
    found_CxC = inverse(A_CxC)
    return found_CxC, found_CxC


def _inverse_backward(found_CxC: Array, d_found_CxC: Array) -> tuple[Array]:
    """d A = -(I + A)^-T d_found (I + A)^-T; only the part below the diagonal is free."""
    return (jnp.tril(-_exact(found_CxC.T, _exact(d_found_CxC, found_CxC.T)), -1),)


inverse.defvjp(_inverse_forward, _inverse_backward)


def _exact(a: Array, b: Array) -> Array:
    """a b with all digits of the operands, also where float32 products are rounded by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


DELTA = Rule(_move, GATED.read, _chunks, (None, None, None, 0.0, 0.0))
"""Gates: log g, finite and at most 0, and the strength b."""
