"""Beam search: likely sequences, found by keeping the K best prefixes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

Tree = Any
Step = Callable[[Tree, Array], tuple[Array, Tree]]
"""``(state, token_N) -> (logits_NxV, state)``; all leaves of the state have a leading axis N."""
NONE = -1e30  # log-probability of impossible sequences


class Found(NamedTuple):
    """The K best sequences of each row, best first.

    Attributes:
        tokens_BxKxT: without the begin mark, with the end mark, padded with end marks.
        log_p_BxK: sum of the log-probabilities, nats.
        score_BxK: log_p over the length penalty.
    """

    tokens_BxKxT: Array
    log_p_BxK: Array
    score_BxK: Array


def beam_search(step: Step, state: Tree, begin: int, end: int, beam: int, length: int, penalty: float = 0.6) -> Found:
    """Sequences y of high score = sum_t log p(y_t | y_<t) / ((5 + |y|) / 6)^penalty (Wu et al. 2016, equation 14).

    |y| counts the end mark. In each step a prefix ends if its end mark is among the K best continuations of all
    prefixes. The K best open and the K best ended sequences are kept. The search stops at `length` tokens, or when no
    open prefix can become better than the worst of the K ended sequences. Prefixes still open at `length` are used only
    if fewer than K have ended.

    Args:
        state: leading axis B, before the first token.
        beam: K; 1 with penalty 0 is greedy search.
        length: maximal number of tokens of a sequence, the end mark included.
        penalty: at least 0.
    """
    rows = jax.tree.leaves(state)[0].shape[0]
    state = jax.tree.map(lambda x: jnp.repeat(x, beam, axis=0), state)
    first = jnp.full((rows, beam), NONE).at[:, 0].set(0.0)
    blank = jnp.full((rows, beam, length), end, jnp.int32)
    open_ = (first, blank, jnp.full((rows, beam), begin, jnp.int32), state)
    ended = (jnp.full((rows, beam), NONE), jnp.full((rows, beam), NONE), blank)

    def weight(count: Array | int) -> Array:
        return ((5.0 + count) / 6.0) ** penalty

    def goes_on(carried: Tree) -> Array:
        t, (log_p_BxK, *_), (score_BxK, *_) = carried
        hope_B = log_p_BxK[:, 0] / weight(length)  # upper bound: log p only falls, and the weight grows with length
        return (t < length) & jnp.any(hope_B > score_BxK[:, -1])

    def grow(carried: Tree) -> Tree:
        t, (log_p_BxK, tokens, last_BxK, state), (score_BxK, ended_log_p, ended_tokens) = carried
        logits, state = step(state, last_BxK.reshape(-1))
        log_q = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1).reshape(rows, beam, -1)
        total = log_p_BxK[:, :, None] + log_q
        # sequences that end here; with K = 1 only if the end mark is the likeliest token
        least_Bx1 = lax.top_k(total.reshape(rows, -1), beam)[0][:, -1:]
        end_log_p = total[:, :, end]
        ends = (end_log_p >= least_Bx1) & (end_log_p > 0.01 * NONE)
        pool = (
            jnp.concatenate([score_BxK, jnp.where(ends, end_log_p / weight(t + 1), NONE)], axis=1),
            jnp.concatenate([ended_log_p, end_log_p], axis=1),
            jnp.concatenate([ended_tokens, tokens], axis=1),
        )
        ended = _best(pool, beam)
        # open prefixes
        vocabulary = total.shape[-1]
        log_p_BxK, place = lax.top_k(total.at[:, :, end].set(NONE).reshape(rows, -1), beam)
        parent, token_BxK = place // vocabulary, (place % vocabulary).astype(jnp.int32)
        tokens = jnp.take_along_axis(tokens, parent[:, :, None], axis=1).at[:, :, t].set(token_BxK)
        flat = (jnp.arange(rows)[:, None] * beam + parent).reshape(-1)
        return t + 1, (log_p_BxK, tokens, token_BxK, jax.tree.map(lambda x: x[flat], state)), ended

    _, (log_p_BxK, tokens, _, _), (score_BxK, ended_log_p, ended_tokens) = lax.while_loop(
        goes_on, grow, (jnp.int32(0), open_, ended)
    )
    after_all_ended = 0.1 * NONE * (1.0 + jnp.arange(beam) / beam)  # in their order, best first
    pool = (
        jnp.concatenate([score_BxK, jnp.broadcast_to(after_all_ended[None], score_BxK.shape)], axis=1),
        jnp.concatenate([ended_log_p, log_p_BxK], axis=1),
        jnp.concatenate([ended_tokens, tokens], axis=1),
    )
    score_BxK, log_p_BxK, tokens = _best(pool, beam)
    return Found(tokens, log_p_BxK, jnp.where(score_BxK < 0.01 * NONE, log_p_BxK / weight(length), score_BxK))


def _best(pool: tuple[Array, Array, Array], count: int) -> tuple[Array, Array, Array]:
    """The ``count`` of highest score (the first array), in all arrays of the pool."""
    score, index = lax.top_k(pool[0], count)
    others = [jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1) for x in pool[1:]]
    return score, *others


@partial(jax.jit, static_argnums=(0, 4, 5, 6, 7, 8))
def best_targets(
    model: nn.Module,
    params: Tree,
    source_BxS: jax.Array,
    mask_BxS: jax.Array,
    begin: int,
    end: int,
    beam: int,
    length: int,
    penalty: float,
) -> jax.Array:
    """The best target of each source by an encoder-decoder (`seqjax.models.seq2seq`), int32 [B, length]."""
    apply = partial(model.apply, {"params": params})

    def step(state: Tree, token_N: jax.Array) -> tuple[jax.Array, Tree]:
        arguments = (state["memory"], state["decoder"], token_N[:, None])
        logits_Nx1xV, decoder = apply(*arguments, keep_state=True, method="decode")
        return logits_Nx1xV[:, 0], {"memory": state["memory"], "decoder": decoder}

    memory = apply(source_BxS, mask_BxS, method="encode")
    state = {"memory": memory, "decoder": apply(memory, method="start")}
    return beam_search(step, state, begin, end, beam, length, penalty).tokens_BxKxT[:, 0]
