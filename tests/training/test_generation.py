"""Sampling against plain numpy, and cached generation against the full forward pass."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import slow

from seqjax.models.generation import choose, generate, keep_top
from seqjax.tasks.text import make_model

V = 30


def model_and_params(config: Any) -> tuple[Any, Any]:
    model = make_model(config, V)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return model, jax.tree.map(lambda p: 3 * p, params)  # larger weights: the greedy path is not a constant


@cache
def forward(model: Any) -> Any:
    return jax.jit(model.apply)


def likeliest(model: Any, params: Any, tokens: np.ndarray) -> np.ndarray:
    """The likeliest next token by the full forward pass, padded on the right (the models are causal) to one shape."""
    length = tokens.shape[1]
    padded = np.pad(tokens, ((0, 0), (0, (8 if length <= 8 else 16) - length)))
    logits, _ = forward(model)({"params": params}, padded)
    return np.asarray(logits[:, length - 1].argmax(-1), np.int32)[:, None]


def test_greedy_equals_the_full_forward_pass(make_config: Any, family: str) -> None:
    config = make_config(family)
    model, params = model_and_params(config)
    prompt = np.random.default_rng(0).integers(0, V, (3, 5), np.int32)
    found = generate(model, params, prompt, 9, temperature=0.0)
    tokens = prompt
    for _ in range(9):
        tokens = np.concatenate([tokens, likeliest(model, params, tokens)], axis=1)
    np.testing.assert_array_equal(found, tokens[:, 5:])
    assert len(np.unique(found)) > 2


def test_a_full_cache_starts_again_from_its_second_half(make_config: Any) -> None:
    model, params = model_and_params(make_config("transformer", **{"train.context_length": 8}))
    prompt = np.arange(6, dtype=np.int32)[None]
    found = generate(model, params, prompt, 20, temperature=0.0, max_context=8)
    assert found.shape == (1, 20)
    tokens = prompt
    context = tokens
    for _ in range(20):
        if context.shape[1] > 8:
            context = tokens[:, -4:]
        new = likeliest(model, params, context)
        tokens, context = np.concatenate([tokens, new], axis=1), np.concatenate([context, new], axis=1)
    np.testing.assert_array_equal(found, tokens[:, 6:])


@pytest.mark.parametrize("context", [1, slow(2)])
def test_the_smallest_contexts_come_to_an_end(make_config: Any, context: int) -> None:
    model, params = model_and_params(make_config("transformer", **{"train.context_length": context}))
    assert generate(model, params, np.zeros((1, 3), np.int32), 5, max_context=context).shape == (1, 5)


def nucleus(logits: np.ndarray, top_k: int, top_p: float) -> set[int]:
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    p = np.exp(logits[order] - logits.max())
    total = np.cumsum(p / p.sum())
    return set(order[: 1 + int(np.searchsorted(total, top_p))].tolist()) if top_p < 1 else set(order.tolist())


@pytest.mark.parametrize("top_k", [0, 1, 5, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-6])
def test_kept_tokens_equal_the_definition(top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(1).normal(size=(20, V)).astype(np.float32) * 2
    kept = np.asarray(keep_top(jnp.asarray(logits), top_k, top_p))
    for row, kept_row in zip(logits, kept, strict=True):
        finite = np.flatnonzero(np.isfinite(kept_row))
        assert set(finite.tolist()) == nucleus(row.astype(np.float64), top_k, top_p)
        np.testing.assert_array_equal(kept_row[finite], row[finite])


def test_samples_have_the_tempered_probabilities() -> None:
    logits = jnp.array([[2.0, 1.0, 0.0, -1.0]])
    keys = jax.random.split(jax.random.key(0), 20_000)
    tokens = jax.vmap(lambda key: choose(key, logits, 0.5, 3, 1.0)[0])(keys)
    expected = np.exp(np.array([4.0, 2.0, 0.0])) / np.exp(np.array([4.0, 2.0, 0.0])).sum()
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 20_000, [*expected, 0.0], atol=0.012)


def test_same_seed_same_text(make_config: Any) -> None:
    model, params = model_and_params(make_config("gru"))
    prompt = np.zeros((1, 1), np.int32)
    one, two, other = (generate(model, params, prompt, 20, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
