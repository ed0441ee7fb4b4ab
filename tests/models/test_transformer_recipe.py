"""QK norm, initial scales and sub-layers that start at zero."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.config import Config, run_id
from seqjax.families import Transformer
from seqjax.layers.attention import cross_attention, cross_keys, init_attention, self_attention
from seqjax.layers.norms import NORM_EPSILON
from seqjax.models import build_model
from seqjax.models.accounting import count_parameters

B, T, D, N, V = 2, 5, 12, 2, 11
K = D // N


def rms(x, gain):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + NORM_EPSILON) * gain


def softmax_values(q_TxK, k_SxK, v_SxK, causal):
    """Attention of one head in numpy."""
    scores = q_TxK @ k_SxK.T / np.sqrt(q_TxK.shape[1])
    scores = np.where(np.tril(np.ones_like(scores)) == 1, scores, -np.inf) if causal else scores
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ v_SxK


def random_like(params, dtype="float64"):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), dtype), params)


@pytest.mark.parametrize("kernel", ["whole", "blocks"])
def test_qk_norm_is_the_attention_of_normed_queries_and_keys(kernel):
    with jax.enable_x64(True):
        params = random_like(init_attention(jax.random.key(0), D, N, True, 1.0, 1.0, qk_norm=True))
        x = jnp.asarray(np.random.default_rng(1).standard_normal((B, T, D)))
        y, _, _ = self_attention(params, x, 0, None, None, "float64", kernel)
    p, x = jax.tree.map(np.asarray, (params, x))
    expected = np.zeros((B, T, D))
    for b in range(B):
        for n in range(N):
            q, k, v = (x[b] @ p["W_qkv"][:, c, n] + p["b_qkv"][c, n] for c in range(3))
            heads = softmax_values(rms(q, p["q_gain"]), rms(k, p["k_gain"]), v, causal=True)
            expected[b] += heads @ p["W_o"][n]
    np.testing.assert_allclose(y, expected + p["b_o"], atol=1e-11)


@pytest.mark.parametrize("kernel", ["whole", "blocks"])
def test_grouped_queries_are_the_attention_of_keys_that_are_repeated(kernel):
    with jax.enable_x64(True):
        params = random_like(init_attention(jax.random.key(0), D, 4, True, 1.0, 1.0, qk_norm=True, kv_heads=2))
        x = jnp.asarray(np.random.default_rng(1).standard_normal((B, T, D)))
        y, _, _ = self_attention(params, x, 0, None, None, "float64", kernel)
        parts = {name: params.pop(name) for name in ("W_q", "W_kv", "b_q", "b_kv")}
        for name in "Wb":
            q, kv = parts[f"{name}_q"], jnp.repeat(parts[f"{name}_kv"], 2, axis=-2)
            params[f"{name}_qkv"] = jnp.concatenate([jnp.expand_dims(q, -3), kv], axis=-3)
        want, _, _ = self_attention(params, x, 0, None, None, "float64", kernel)
    np.testing.assert_allclose(y, want, atol=1e-12)


def test_qk_norm_of_attention_to_a_memory():
    with jax.enable_x64(True):
        one = random_like(init_attention(jax.random.key(0), D, N, True, 1.0, 1.0, qk_norm=True, kv_heads=N))
        rng = np.random.default_rng(1)
        x, memory = (jnp.asarray(rng.standard_normal((B, length, D))) for length in (T, 3))
        k, v = cross_keys(jax.tree.map(lambda leaf: leaf[None], one), memory, "float64")
        y = cross_attention(one, x, k[0], v[0], jnp.ones((B, 3), bool), "float64")
    p, x, memory = jax.tree.map(np.asarray, (one, x, memory))
    expected = np.zeros((B, T, D))
    for b in range(B):
        for n in range(N):
            q = x[b] @ p["W_q"][:, n] + p["b_q"][n]
            k, v = (memory[b] @ p["W_kv"][:, c, n] + p["b_kv"][c, n] for c in range(2))
            heads = softmax_values(rms(q, p["q_gain"]), rms(k, p["k_gain"]), v, causal=False)
            expected[b] += heads @ p["W_o"][n]
    np.testing.assert_allclose(y, expected + p["b_o"], atol=1e-11)


def test_tokens_one_by_one_are_the_whole_text_with_every_part_of_the_recipe():
    config = Transformer(
        d_model=D, n_layers=2, n_heads=N, mlp="swiglu", norm="rmsnorm", positions="rotary", qk_norm=True,
        initial="fan_in", tied_embeddings=True, kv_heads=1, norm_epsilon=0.1, rotary_base=100.0,
    )  # fmt: skip
    model = build_model(config, V, T)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)))
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    step, state = jax.jit(model.apply), model.initial_state(B)
    whole, _ = step(params, tokens)
    for t in range(T):
        logits, state = step(params, tokens[:, t : t + 1], state)
        np.testing.assert_allclose(logits[:, 0], whole[:, t], atol=2e-5)


def test_with_zero_output_the_blocks_start_as_nothing():
    tokens = jnp.arange(T)[None]
    config = Transformer(d_model=D, n_layers=2, n_heads=N, positions="none", zero_output=True)
    model = build_model(config, V, T)
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    assert np.any(params["layers"]["mlp"]["W_in"]) and not np.any(params["layers"]["mlp"]["W_out"])
    bare = build_model(dataclasses.replace(config, n_layers=0), V, T)
    outer = {name: leaf for name, leaf in params.items() if name != "layers"}
    logits = [m.apply({"params": p}, tokens)[0] for m, p in ((model, params), (bare, outer))]
    np.testing.assert_array_equal(*logits)


def test_initial_scales_from_the_fan_in():
    """Inputs of the first block and logits are of unit variance at every width."""
    for d_model in (64, 256):
        config = Transformer(d_model=d_model, n_layers=2, d_ff=3 * d_model, initial="fan_in")
        params = jax.jit(build_model(config, 97, 64).init)(jax.random.key(0), jnp.zeros((1, 1), int))["params"]
        layers = params["layers"]
        expected = {
            "embedding": (params["embedding"] * config.embedding_scale, 1.0),
            "positions": (params["positions"], 0.5),
            "readout": (params["readout"], d_model**-0.5),
            "qkv": (layers["attention"]["W_qkv"], d_model**-0.5),
            "o": (layers["attention"]["W_o"], (4 * d_model) ** -0.5),
            "in": (layers["mlp"]["W_in"], d_model**-0.5),
            "out": (layers["mlp"]["W_out"], (4 * 3 * d_model) ** -0.5),
        }
        for name, (values, std) in expected.items():
            assert np.std(values) == pytest.approx(std, rel=0.05), name


def test_the_parts_count_and_name_themselves():
    forms = [Transformer(d_model=D, n_layers=3, n_heads=N, qk_norm=on) for on in (False, True)]
    plain, normed = (count_parameters(form, V, T) for form in forms)
    assert normed == plain | {"vectors": plain["vectors"] + 3 * 2 * K, "total": plain["total"] + 3 * 2 * K}
    forms = [Transformer(), Transformer(qk_norm=True), Transformer(initial="fan_in"), Transformer(zero_output=True)]
    assert len({run_id(Config(form)) for form in forms}) == 4
