"""Text from a trained model: greedy, temperature, top-k and top-p sampling under one jitted loop.

The loop is the same for all families. Its state is the recurrent state, the Transformer's key-value cache, or the last
tokens of the window model. A prompt is read in one call; each new token is one call on one token.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqjax.host.numerics import pinned

Tree = Any
COLDEST = 1e-20  # below this logits would overflow: take the likeliest token


def keep_top(logits_BxV: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Logits with all but the likeliest tokens at minus infinity.

    Args:
        logits_BxV: float32, already divided by the temperature.
        top_k: number of tokens to keep (Fan et al. 2018); 0: all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020, eq. 2);
            1: all. At least one token is kept. Ties at the edge are all kept.
    """
    sorted_BxV = jnp.flip(jnp.sort(logits_BxV, axis=-1), axis=-1)
    last_Bx1 = sorted_BxV[:, -1:]
    if top_k:
        last_Bx1 = jnp.maximum(last_Bx1, sorted_BxV[:, min(top_k, logits_BxV.shape[-1]) - 1][:, None])
        sorted_BxV = jnp.where(sorted_BxV >= last_Bx1, sorted_BxV, -jnp.inf)
    if top_p < 1.0:
        p_BxV = jax.nn.softmax(sorted_BxV, axis=-1)
        before_BxV = jnp.cumsum(p_BxV, axis=-1) - p_BxV  # total probability of the likelier tokens
        edge_BxV = jnp.where(before_BxV < top_p, sorted_BxV, jnp.inf)
        last_Bx1 = jnp.maximum(last_Bx1, edge_BxV.min(axis=-1, keepdims=True))
    return jnp.where(logits_BxV >= last_Bx1, logits_BxV, -jnp.inf)


def choose(key: jax.Array, logits_BxV: jax.Array, temperature: float, top_k: int, top_p: float) -> jax.Array:
    """The next token of each row, int32 [B]: the likeliest at temperature 0, else sampled."""
    if temperature < COLDEST:
        return logits_BxV.argmax(axis=-1).astype(jnp.int32)
    kept_BxV = keep_top(logits_BxV / temperature, top_k, top_p)
    return jax.random.categorical(key, kept_BxV, axis=-1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("model", "count", "temperature", "top_k", "top_p"))
def _extend(
    model: nn.Module,
    params: Tree,
    prompt_BxT: jax.Array,
    key: jax.Array,
    count: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> jax.Array:
    """``count`` new tokens after the prompt, int32 [B, count]."""

    def choose_last(key: jax.Array, logits_BxTxV: jax.Array) -> jax.Array:
        return choose(key, logits_BxTxV[:, -1], temperature, top_k, top_p)

    def next_token(carry: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
        token_B, state = carry
        logits_Bx1xV, state = model.apply({"params": params}, token_B[:, None], state)
        token_B = choose_last(key, logits_Bx1xV)
        return (token_B, state), token_B

    keys = jax.random.split(key, count)
    logits_BxTxV, state = model.apply({"params": params}, prompt_BxT, model.initial_state(prompt_BxT.shape[0]))
    first_B = choose_last(keys[0], logits_BxTxV)
    _, tokens_TxB = jax.lax.scan(next_token, (first_B, state), keys[1:])
    return jnp.concatenate([first_B[:, None], tokens_TxB.T], axis=1)


@pinned()
def generate(
    model: nn.Module,
    params: Tree,
    prompt_BxT: np.ndarray,
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_context: int | None = None,
) -> np.ndarray:
    """Continue each row of the prompt by ``count`` tokens.

    Args:
        prompt_BxT: int32, at least one token.
        temperature: 0 takes the likeliest token.
        max_context: T, the size of the Transformer's cache. When it is full, the last (T + 1) // 2 tokens become the
            new prompt. None: no limit.
    Returns:
        int32 [B, count], only the new tokens.
    """
    tokens = np.asarray(prompt_BxT, np.int32)
    start, key = tokens.shape[1], jax.random.key(seed)
    while (missing := count - (tokens.shape[1] - start)) > 0:
        full = max_context is not None and tokens.shape[1] >= max_context
        prompt = tokens[:, -((max_context + 1) // 2) :] if full else tokens
        room = missing if max_context is None else min(missing, max_context - prompt.shape[1] + 1)
        key, piece_key = jax.random.split(key)
        new = _extend(model, params, prompt, piece_key, room, temperature, top_k, top_p)
        tokens = np.concatenate([tokens, np.asarray(new)], axis=1)
    return tokens[:, start:]
