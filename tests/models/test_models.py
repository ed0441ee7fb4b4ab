"""What every model promises, whatever its family: one signature, causality, cached generation, dtypes, vmap."""

from __future__ import annotations

import re
from dataclasses import replace

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick, slow

from seqjax.families import (
    FAMILIES,
    GRU,
    LSTM,
    RGLRU,
    Elman,
    GatedDeltaNet,
    Mamba2,
    MinGRU,
    MinLSTM,
    Transformer,
    Window,
)
from seqjax.models import build_model

B, T, D, V = 2, 9, 8, 13
CONFIGS = {
    "elman": Elman(D),
    "lstm": LSTM(D, n_layers=1),
    "lstm-wide": LSTM(D, d_hidden=10, n_layers=3, bias=False),
    "gru": GRU(D, tied_embeddings=True),
    "gru-before": GRU(D, d_hidden=6, n_layers=1, reset="before"),
    "learned": Transformer(d_model=D, n_layers=2, n_heads=2),
    "rotary": Transformer(
        d_model=D,
        n_layers=1,
        n_heads=2,
        positions="rotary",
        norm="rmsnorm",
        mlp="swiglu",
        bias=False,
        tied_embeddings=True,
    ),
    "no-positions": Transformer(d_model=D, n_layers=1, n_heads=1, positions="none"),
    "bare": Transformer(d_model=D, n_layers=2, n_heads=2, norm="none", mlp="none", residual=False),
    "window": Window(d_model=D, window=4, d_ff=7, n_layers=2),
    "mingru": MinGRU(d_model=D, n_layers=2, d_hidden=6, conv=3, block="published", recurrence="blocked"),
    "minlstm": MinLSTM(d_model=D, n_layers=1, block="cell", positive=False, recurrence="associative"),
    "rg_lru": RGLRU(d_model=D, n_layers=2, gate_blocks=2),
    "griffin": RGLRU(
        d_model=D, n_layers=3, gate_blocks=2, blocks=("recurrent", "attention"), n_heads=2, kv_heads=1, window=3
    ),
    "mamba2": Mamba2(d_model=D, n_layers=1, n_heads=2, d_state=3, block="published"),
    "gated_deltanet": GatedDeltaNet(d_model=D, n_layers=1, n_heads=2, negative_eigenvalues=True),
}
QUICK = [CONFIGS[name] for name in ("lstm", "gru-before", "rotary", "window", "griffin")]
each_config = pytest.mark.parametrize("config", quick(CONFIGS.values(), *QUICK), ids=CONFIGS)
with_attention = pytest.mark.parametrize(
    "config", [CONFIGS["learned"], slow(CONFIGS["griffin"])], ids=["learned", "griffin"]
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)


def make(config, compute_dtype="float32", vocab_size=V):
    """The model and parameters with random values everywhere, large enough that every part matters."""
    model = build_model(config, vocab_size, T, compute_dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS[:, :1])["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.standard_normal(leaf.shape), jnp.float32), shapes)


@each_config
def test_causality(config):
    """The logits at t move with the embeddings of the tokens up to t and not in the least with later ones.

    Every place has its own token here, so that the gradient of the table's rows tells the places apart.
    """
    model, params = make(replace(config, tied_embeddings=False), vocab_size=T)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((T, T)), jnp.float32)

    def logits_T(table):
        logits = model.apply({"params": params | {"embedding": table}}, jnp.arange(T)[None])[0][0]
        return jnp.sum(logits * weights, axis=-1)

    norms = np.linalg.norm(jax.jit(jax.jacrev(logits_T))(params["embedding"]), axis=-1)
    seen = np.tril(np.ones((T, T), bool))
    assert (norms[~seen] == 0).all()
    reach = config.window if isinstance(config, Window) else T
    near = seen & ~np.tril(seen, -reach)
    assert (norms[near] > 0).all() and (norms[seen & ~near] == 0).all()


@each_config
def test_cached_generation_is_the_full_forward_pass(config):
    model, params = make(config)
    apply = jax.jit(model.apply)
    want = apply({"params": params}, TOKENS)[0]
    state, got, start = model.initial_state(B), [], 0
    for n in (4, 1, 4):
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        logits, state = apply({"params": params}, TOKENS[:, start : start + n], state)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes
        got.append(logits)
        start += n
    np.testing.assert_allclose(jnp.concatenate(got, axis=1), want, rtol=1e-4, atol=1e-5)


def test_no_state_is_the_zero_state_of_recurrent_models():
    """And what is carried matters."""
    model, params = make(CONFIGS["lstm"])
    apply = jax.jit(model.apply)
    logits, state = apply({"params": params}, TOKENS)
    np.testing.assert_allclose(logits, apply({"params": params}, TOKENS, model.initial_state(B))[0], rtol=1e-6)
    assert np.abs(logits - apply({"params": params}, TOKENS, state)[0]).max() > 1e-3


@each_config
def test_bfloat16_compute(config):
    """Parameters, recurrent carries and logits stay float32; logits are near the float32 ones, and not the same."""
    model, params = make(config, "bfloat16")
    want = jax.jit(make(config)[0].apply)({"params": params}, TOKENS)[0]
    logits, state = jax.jit(model.apply)({"params": params}, TOKENS, model.initial_state(B))
    assert logits.dtype == jnp.float32
    error = np.abs(logits - want).max() / np.abs(want).max()
    assert 1e-5 < error < 0.05
    if config.recurrent:
        positions = {jnp.dtype("int32")}
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} - positions == {jnp.dtype("float32")}
    elif isinstance(config, Transformer):
        assert state["k"].dtype == state["v"].dtype == jnp.bfloat16
    init = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    grads = jax.eval_shape(jax.grad(lambda params: model.apply({"params": params}, TOKENS)[0].sum()), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((init, grads))} == {jnp.dtype("float32")}


@with_attention
def test_bfloat16_gradients_point_the_same_way(config):
    def grads(dtype):
        model, params = make(config, dtype)

        def loss(params):
            log_p = jax.nn.log_softmax(model.apply({"params": params}, TOKENS[:, :-1])[0])
            return -jnp.mean(jnp.take_along_axis(log_p, TOKENS[:, 1:, None], axis=-1))

        return jax.flatten_util.ravel_pytree(jax.jit(jax.grad(loss))(params))[0]

    narrow, wide = grads("bfloat16"), grads("float32")
    assert jnp.linalg.norm(narrow - wide) / jnp.linalg.norm(wide) < 0.03


@with_attention
def test_vmapped_runs_are_each_run_alone(config):
    """Initial values, logits and gradients of two runs in one program equal each run alone; others: test_bundle.py."""
    model = build_model(config, V, T)

    def run(key):
        params = model.init(key, TOKENS)["params"]

        def loss(params):
            logits, _ = model.apply({"params": params}, TOKENS)
            return jnp.mean(logits**2), logits

        return params, jax.grad(loss, has_aux=True)(params)

    keys = jax.random.split(jax.random.key(0), 2)
    together, run = jax.jit(jax.vmap(run))(keys), jax.jit(run)
    for i, key in enumerate(keys):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6), together, run(key))


@pytest.mark.parametrize("name", [slow("lstm"), "learned", slow("window"), slow("rg_lru")])
def test_program_does_not_grow_with_depth(name):
    """Neither the traced program from 2 to 8 layers nor the lowered one from 8 to 16; gradient included."""

    def program(n_layers):
        config = replace(CONFIGS[name], n_layers=n_layers)
        model = build_model(config, V, T)
        params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
        gradient = jax.jit(jax.grad(lambda params: model.apply({"params": params}, TOKENS)[0].sum()))
        traced = gradient.trace(params)
        return len(re.findall(" = ", str(traced.jaxpr))), len(traced.lower().as_text().splitlines())

    (jaxpr_2, _), (jaxpr_8, text_8), (_, text_16) = program(2), program(8), program(16)
    # The window's first hidden layer stands apart, so 2, 8 and 16 are 1, 7 and 15 in its loop.
    assert jaxpr_8 <= jaxpr_2 + 2
    assert text_16 <= text_8 * 1.01


@each_config
def test_dropout(config):
    rate = 0.25
    dropped = replace(config, dropout=rate)
    (plain, params), (model, _) = make(config), make(dropped)
    apply = jax.jit(model.apply, static_argnames="train")
    want = jax.jit(plain.apply)({"params": params}, TOKENS)[0]
    np.testing.assert_allclose(apply({"params": params}, TOKENS, train=False)[0], want, rtol=1e-5, atol=1e-6)

    def sample(seed):
        return apply({"params": params}, TOKENS, train=True, rngs={"dropout": jax.random.key(seed)})[0]

    np.testing.assert_array_equal(sample(0), sample(0))
    assert np.abs(sample(0) - sample(1)).max() > 1e-3
    assert np.abs(sample(0) - want).max() > 1e-3


def test_dropout_rate_and_masks():
    from seqjax.layers.dense import dropout

    x, key = jnp.ones((100, 100)), jax.random.key(0)
    masks = [dropout(x, key, layer, 0.25) for layer in (0, 1)]
    for mask in masks:
        np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.75], rtol=1e-6)
        assert np.mean(mask == 0) == pytest.approx(0.25, abs=0.02)
    assert np.mean((masks[0] == 0) & (masks[1] == 0)) == pytest.approx(0.25**2, abs=0.02), "masks of layers agree"
    assert dropout(x, None, 0, 0.25) is x


@pytest.mark.parametrize("family", [slow("elman"), "lstm", slow("gru")])
def test_dropout_falls_on_inputs_of_layers_not_on_the_recurrence(family):
    """With the first layer's input weights zero, dropout of its inputs changes nothing in its state."""
    config = FAMILIES[family](D, n_layers=1, dropout=0.5)
    model, params = make(config)
    params["layers"]["W_x"] = jnp.zeros_like(params["layers"]["W_x"])
    apply = jax.jit(model.apply, static_argnames="train")
    plain = apply({"params": params}, TOKENS)
    dropped = apply({"params": params}, TOKENS, train=True, rngs={"dropout": jax.random.key(0)})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), dropped[1], plain[1])
    assert np.abs(dropped[0] - plain[0]).max() > 1e-3


@pytest.mark.parametrize("name", [slow("elman"), "lstm-wide", slow("gru")])
def test_dropout_falls_on_the_inputs_of_every_layer(name):
    """The state of each layer moves when only the input of that layer (and of those below it) is dropped."""
    config = replace(CONFIGS[name], dropout=0.5)
    model, params = make(config)
    apply = jax.jit(model.apply, static_argnames="train")
    plain, dropped = (
        jax.tree.leaves(apply({"params": params}, TOKENS, train=train, rngs={"dropout": jax.random.key(0)})[1])[0]
        for train in (False, True)
    )
    assert (np.abs(plain - dropped).max(axis=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("parts", [{"mlp": "none"}, {"attention": False}], ids=str)
def test_dropout_falls_on_the_output_of_every_sublayer(parts):
    """With embeddings of zero only the sub-layers' own dropout can change the logits."""
    config = replace(CONFIGS["no-positions"], dropout=0.5, **parts)
    model, params = make(config)
    params["embedding"] = jnp.zeros_like(params["embedding"])
    apply = jax.jit(model.apply, static_argnames="train")
    plain, dropped = (
        apply({"params": params}, TOKENS, train=train, rngs={"dropout": jax.random.key(0)})[0]
        for train in (False, True)
    )
    assert np.abs(plain - dropped).max() > 1e-3
