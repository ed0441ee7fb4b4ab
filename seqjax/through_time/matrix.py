"""A state that is a matrix, S_t of K x P, written by keys and values, read by queries, and forgotten by a gate.

    S_t = g_t S_{t-1} + k_t^T v_t          y_t = q_t S_t

The gate g_t in (0, 1] is one number a head (`GATED`: Mamba-2, Dao & Gu 2024, arXiv 2405.21060; retention), or one for
each of the K rows of S (`GATED_ROWS`: GLA, Yang et al. 2023, arXiv 2312.06635; HGRN2). It is given as log g_t.
`seqjax.through_time.delta` has the delta rule, `seqjax.through_time.exponential` the gates of the mLSTM.

Two ways compute the same. "steps" is the equation, a scan over T steps, and the reference. "chunks" cuts time into
pieces of C steps (GLA, section 4). With L_i = log g_1 + .. + log g_i inside a piece, and S the state before it:

    y_i    = exp(L_i) q_i S + sum_{j <= i} exp(L_i - L_j) (q_i . k_j) v_j
    S_next = exp(L_C) S + sum_j exp(L_C - L_j) k_j^T v_j

These are products of C rows; only S_next waits for the piece before. All exponents are differences of sums of
logarithms and at most 0, so nothing overflows. A ratio of two products of gates would become 0 / 0.
Pairs with j > i are set to exp(-inf) = 0: a mask after exp would give the gradient inf * 0.

Axes: `N` heads, `K` width of a key and a query, `P` width of a value, `C` steps of a piece, `c` pieces, `I` and `J`
steps within a piece. A `Rule` is for one head of one sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers.precision import carry_dtype, contract
from seqjax.layers.target import target

CHUNK, CPU_CHUNK = 64, 32  # on a CPU the gated delta rule is 1.1 to 1.3 times as fast with 32, others as fast
Way = Literal["chunks", "steps"]
State = Any  # a pytree of arrays; of all heads BxNx..., of one head ...


class Rule(NamedTuple):
    """How one head changes its state. Its inputs are queries q_TxK, keys k_TxK, values v_TxP, and gates."""

    move: Callable[..., State]
    """(state, k_K, v_P, gates of the step ...) -> the state after the step."""
    read: Callable[[State, Array], Array]
    """(state after the step, q_K) -> y_P."""
    chunks: Callable[..., tuple[Array, State]]
    """(inputs cxCx.., state, dtype) -> (y_cxCxP, state after)."""
    neutral: tuple[float | None, ...]
    """For each input the value that changes no state. None: the other inputs suffice."""
    chunk: int = CHUNK
    """Most steps of a piece; on a CPU at most CPU_CHUNK."""


def run(
    rule: Rule, inputs: tuple[Array, ...], state: State, dtype: DTypeLike, mask_BxT: Array | None = None,
    way: Way = "chunks",
) -> tuple[Array, State]:  # fmt: skip
    """The rule for all heads and sequences.

    Args:
      inputs: q, k BxTxNxK, v BxTxNxP, and gates BxTxN (of `GATED_ROWS` BxTxNxK). q and k may be BxTxK, shared by all
        heads.
      state: before the first step, BxNxKxP.
      dtype: of the operands of matrix products; gates, sums and the state are float32 (or wider, as `dtype`).
      mask_BxT: bool; where it is false the state is unchanged, and y has no meaning.
      way: see above. Values do not depend on it.

    Returns:
      y_BxTxNxP and the state after the last step.
    """

    def of_head(state: State, *inputs: Array) -> tuple[Array, State]:
        if way == "steps":
            y_TxP, last, _ = _scan(rule, inputs, state, dtype)
            return y_TxP, last
        times = len(inputs[0])
        chunk = min(rule.chunk, CPU_CHUNK) if target().platform == "cpu" else rule.chunk
        pieces = (_cut(x_Tx, chunk, value or 0.0) for x_Tx, value in zip(inputs, rule.neutral, strict=True))
        y_cxCxP, last = rule.chunks(tuple(pieces), state, dtype)
        return y_cxCxP.reshape(-1, y_cxCxP.shape[-1])[:times], last

    over_heads = jax.vmap(of_head, in_axes=(0, *_head_axes(inputs)), out_axes=(1, 0))
    return jax.vmap(over_heads)(_wide(state, dtype), *_masked(rule, inputs, mask_BxT))


def watch(
    rule: Rule, inputs: tuple[Array, ...], state: State, dtype: DTypeLike, mask_BxT: Array | None = None,
    nudges: State = None,
) -> tuple[Array, State, State]:  # fmt: skip
    """As `run` with "steps"; also returns the states after every step, TxBxNx....

    Args:
      nudges: added to the state after each step, TxBxNx... like the state; None: nothing is added.
    """

    def of_head(state: State, nudges: State, *inputs: Array) -> tuple[Array, State, State]:
        return _scan(rule, inputs, state, dtype, nudges)

    over_heads = jax.vmap(of_head, in_axes=(0, 1, *_head_axes(inputs)), out_axes=(1, 0, 1))
    over_all = jax.vmap(over_heads, in_axes=(0, 1, *[0] * len(inputs)), out_axes=(0, 0, 1))
    return over_all(_wide(state, dtype), nudges, *_masked(rule, inputs, mask_BxT))


def _scan(
    rule: Rule, inputs: tuple[Array, ...], state: State, dtype: DTypeLike, nudges: State = None
) -> tuple[Array, State, State]:
    """y_TxP, the last state, and the states after every step, Tx...."""

    def step(state: State, inputs: tuple[State, Array, tuple[Array, ...]]) -> tuple[State, tuple[Array, State]]:
        nudge, q_K, others = inputs
        state = rule.move(state, *others)
        state = state if nudge is None else jax.tree.map(jnp.add, state, nudge)
        return state, (rule.read(state, q_K), state)

    q_TxK, k_TxK, v_TxP, *gates = inputs
    q_TxK, k_TxK, v_TxP = rounded(dtype, q_TxK, k_TxK, v_TxP)
    last, (y_TxP, states) = lax.scan(step, state, (nudges, q_TxK, (k_TxK, v_TxP, *gates)))
    return y_TxP, last, states


def _move(S_KxP: Array, k_K: Array, v_P: Array, log_g: Array) -> Array:
    """log_g is one number or K."""
    return jnp.exp(log_g).reshape(-1, 1) * S_KxP + outer(k_K, v_P)


def _chunks(inputs: tuple[Array, ...], S_KxP: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """See `Rule.chunks`. log_g is cxC, or cxCxK with a gate for each row."""
    q_cxCxK, k_cxCxK, v_cxCxP, log_g = inputs
    L_cxC = jnp.cumsum(log_g, axis=1)  # or cxCxK
    y_cxCxP, write_cxKxP = jax.vmap(partial(_within, dtype=dtype))(q_cxCxK, k_cxCxK, v_cxCxP, L_cxC)

    def next_piece(S_KxP: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, write_KxP = inputs
        return keep.reshape(-1, 1) * S_KxP + write_KxP, S_KxP

    last_KxP, S_cxKxP = lax.scan(next_piece, S_KxP, (jnp.exp(L_cxC[:, -1]), write_cxKxP))
    return y_cxCxP + jax.vmap(partial(_carried, dtype=dtype))(q_cxCxK, L_cxC, S_cxKxP), last_KxP


def _carried(q_IxK: Array, L_I: Array, S_KxP: Array, dtype: DTypeLike) -> Array:
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


GATED = Rule(_move, lambda S_KxP, q_K: q_K @ S_KxP, _chunks, (None, 0.0, None, 0.0))
"""S_t = g_t S_{t-1} + k_t^T v_t, y_t = q_t S_t. Gates: log g, finite and at most 0."""

GATED_ROWS = GATED._replace(chunk=16)
"""As `GATED`, with a gate for each row of S. Its pieces are short: the factors of all pairs are C x C x K."""


def zero_matrix(batch: int, heads: int, key_width: int, value_width: int) -> Array:
    """S before the first step, BxNxKxP, float32."""
    return jnp.zeros((batch, heads, key_width, value_width))


def outer(k_K: Array, v_P: Array) -> Array:
    """k^T v, KxP."""
    return jnp.einsum("K,P->KP", k_K, v_P)


def rounded(dtype: DTypeLike, *arrays: Array) -> list[Array]:
    """The arrays as operands of products in `dtype`, in float32 or wider."""
    return [array.astype(dtype).astype(carry_dtype(dtype)) for array in arrays]


def _wide(state: State, dtype: DTypeLike) -> State:
    return jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), state)


def _head_axes(inputs: tuple[Array, ...]) -> list[int | None]:
    """The axis of the heads in the inputs of one sequence. None: all heads share a query or a key."""
    return [None if number < 2 and x.ndim == 3 else 1 for number, x in enumerate(inputs)]


def _masked(rule: Rule, inputs: tuple[Array, ...], mask_BxT: Array | None) -> list[Array]:
    """The inputs, neutral where the mask is false."""

    def masked(x_BxTx: Array, neutral: float | None) -> Array:
        if mask_BxT is None or neutral is None:
            return x_BxTx
        return jnp.where(mask_BxT.reshape(mask_BxT.shape + (1,) * (x_BxTx.ndim - 2)), x_BxTx, neutral)

    return [masked(*pair) for pair in zip(inputs, rule.neutral, strict=True)]


def _cut(x_Tx: Array, chunk: int, padding: float) -> Array:
    """Equal pieces of at most `chunk` steps, cxCx..., with padding at the end."""
    pieces = -(-len(x_Tx) // chunk)
    missing = -len(x_Tx) % pieces
    padded = jnp.pad(x_Tx, [(0, missing)] + [(0, 0)] * (x_Tx.ndim - 1), constant_values=padding)
    return padded.reshape(pieces, -1, *x_Tx.shape[1:])
