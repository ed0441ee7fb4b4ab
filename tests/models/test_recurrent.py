"""Stacks of recurrent layers against torch: outputs, last state and every gradient."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import slow
from variants import recurrent

from seqjax.families import LSTM
from seqjax.families.family import Lookup
from seqjax.models import build_model
from seqjax.models.language_model import watched
from seqjax.through_time.nonlinear import unroll

T, B, D, V = 6, 2, 5, 11
TORCH_NAMES = {"elman": "RNN", "lstm": "LSTM", "gru": "GRU"}


def make(config):
    """The model and parameters with random float64 values everywhere, biases too."""
    model = build_model(config, V, T)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape), shapes)


def layer_list(tree):
    """The stacked layers one by one."""
    first = [tree["first"]] if "first" in tree else []
    rest = jax.tree.leaves(tree["layers"])[0].shape[0] if "layers" in tree else 0
    return first + [jax.tree.map(lambda leaf, i=i: leaf[i], tree["layers"]) for i in range(rest)]


def torch_names(family, layer):
    """Our layer's weights under torch's names; where torch has two biases, ours is the one of the inputs."""
    d_hidden = layer["W_h"].shape[0]
    named = {"weight_ih": layer["W_x"].T, "weight_hh": layer["W_h"].T}
    if "b" in layer:
        named["bias_ih"] = layer["b"]
        named["bias_hh"] = jnp.zeros_like(layer["b"])
        if family == "gru":
            named["bias_hh"] = named["bias_hh"].at[2 * d_hidden :].set(layer["b_hn"])
    return {name: np.asarray(value) for name, value in named.items()}


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), slow("float32", 1e-5)])
@pytest.mark.parametrize(
    "n_layers, d_hidden, bias", [slow(1, D, True), (2, 7, True), slow(3, D, False), slow(3, 7, True)]
)
@pytest.mark.parametrize("family", TORCH_NAMES)
@pytest.mark.parametrize("recurrence", ["fast", "scan"])
def test_torch_agrees(family, n_layers, d_hidden, bias, dtype, tolerance, recurrence):
    torch = pytest.importorskip("torch")
    config = recurrent(family, D, d_hidden, n_layers, bias, recurrence=recurrence)
    rng = np.random.default_rng(1)
    params = make(config)[1]
    with jax.enable_x64(dtype == "float64"):
        layers = {name: params[name] for name in ("first", "layers") if name in params}
        layers = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), layers)
        x = jnp.asarray(rng.standard_normal((T, B, D)), dtype)
        zeros = config.zero_state(B)
        state = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), dtype), zeros)

        def forward(layers, x, state):
            inputs, tokens = x.reshape(T * B, D), jnp.arange(T * B).reshape(T, B)  # every input is a token of its own
            out = config.run(layers, Lookup(tokens.T, inputs), state, dtype=dtype)
            return out.h_BxTxH.swapaxes(0, 1), out.state

        outputs, pullback = jax.vjp(jax.jit(forward), layers, x, state)
        weights = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), dtype), outputs)
        d_layers, d_x, d_state = pullback(weights)

        module = getattr(torch.nn, TORCH_NAMES[family])(D, d_hidden, n_layers, bias=bias, dtype=getattr(torch, dtype))
        with torch.no_grad():
            for i, layer in enumerate(layer_list(layers)):
                for name, value in torch_names(family, layer).items():
                    getattr(module, f"{name}_l{i}").copy_(torch.tensor(value))

        def tensor(leaf):
            return torch.tensor(np.asarray(leaf), requires_grad=True)

        torch_x, torch_state = tensor(x), jax.tree.map(tensor, state)
        torch_outputs = module(torch_x, torch_state)
        sum(
            (a * torch.tensor(np.asarray(b))).sum()
            for a, b in zip(jax.tree.leaves(torch_outputs), jax.tree.leaves(weights), strict=True)
        ).backward()

        def close(got, want):
            np.testing.assert_allclose(got, want.detach().numpy(), rtol=tolerance, atol=tolerance)

        jax.tree.map(close, outputs, tuple(torch_outputs))
        close(d_x, torch_x.grad)
        jax.tree.map(lambda got, leaf: close(got, leaf.grad), d_state, torch_state)
        for i, layer in enumerate(layer_list(d_layers)):
            named = torch_names(family, layer)
            for name in named:
                grad = getattr(module, f"{name}_l{i}").grad
                if name == "bias_hh":  # torch's second bias: its gradient is that of the sum, but for the GRU's b_hn
                    rows = slice(2 * d_hidden, None) if family == "gru" else slice(0)
                    close(named[name][rows], grad[rows])
                else:
                    close(named[name], grad)


@pytest.mark.parametrize(
    "family, d_hidden, norm", [("lstm", D, "layernorm"), ("gru", 7, "rmsnorm"), ("elman", D, "none")]
)
def test_residuals_and_norms_between_layers_agree_with_torch(family, d_hidden, norm):
    """h, the last state and every gradient against one torch layer upon another, with sums and norms by hand."""
    torch = pytest.importorskip("torch")
    config = recurrent(family, D, d_hidden, 2, residual=True, norm=norm)
    rng = np.random.default_rng(1)
    x, tokens = rng.standard_normal((T * B, D)), np.arange(T * B).reshape(T, B)
    weights = rng.standard_normal((T, B, d_hidden))
    params = make(config)[1]
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)

        def forward(params):
            zeros = jax.tree.map(lambda leaf: leaf.astype("float64"), config.zero_state(B))
            out = config.run(params, Lookup(tokens.T, jnp.asarray(x)), zeros, dtype="float64")
            return out.h_BxTxH.swapaxes(0, 1), out.state

        (h, state), pullback = jax.vjp(jax.jit(forward), params)
        (grads,) = pullback((jnp.asarray(weights), jax.tree.map(jnp.zeros_like, state)))

    stack = []
    for layer in layer_list(params):
        one = getattr(torch.nn, TORCH_NAMES[family])(*layer["W_x"].shape[:1], d_hidden, dtype=torch.float64)
        with torch.no_grad():
            for name, value in torch_names(family, layer).items():
                getattr(one, f"{name}_l0").copy_(torch.tensor(value))
        stack.append(one)
    affine = {
        name: torch.tensor(np.asarray(leaf[0]), requires_grad=True) for name, leaf in params.get("norms", {}).items()
    }
    low, last_low = stack[0](torch.tensor(x).reshape(T, B, D))
    read = {
        "layernorm": lambda: torch.nn.functional.layer_norm(low, (d_hidden,), affine["gain"], affine["bias"]),
        "rmsnorm": lambda: torch.nn.functional.rms_norm(low, (d_hidden,), affine["gain"], 1e-5),
        "none": lambda: low,
    }[norm]()
    above, last_above = stack[1](read)
    total = low + above
    (total * torch.tensor(weights)).sum().backward()

    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10)
    close(h, total.detach())
    for got, *want in zip(*map(jax.tree.leaves, (state, last_low, last_above)), strict=True):
        close(got, torch.cat(want).detach())
    for one, layer in zip(stack, layer_list(grads), strict=True):
        close(layer["W_x"].T, one.weight_ih_l0.grad)
        close(layer["W_h"].T, one.weight_hh_l0.grad)
        close(layer["b"], one.bias_ih_l0.grad)
    for name, leaf in affine.items():
        close(grads["norms"][name][0], leaf.grad)


def test_a_deep_stack_keeps_its_signal_with_residuals_and_norms():
    """At depth 6 the gradient reaches the embedding as it does at depth 1; without them a third of it does."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (4, 16)))

    def gradient(**fields):
        model = build_model(LSTM(24, **fields), V, 16)

        def loss(params):
            return -jnp.mean(jax.nn.log_softmax(model.apply({"params": params}, tokens)[0])[..., 0])

        params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
        return float(jnp.linalg.norm(jax.jit(jax.grad(loss))(params)["embedding"]))

    one, plain, deep = (
        gradient(**fields)
        for fields in ({"n_layers": 1}, {"n_layers": 6}, {"n_layers": 6, "residual": True, "norm": "layernorm"})
    )
    assert plain < 0.5 * one, (one, plain, deep)
    assert 0.7 * one < deep < 4 * one, (one, plain, deep)


def test_one_by_one_and_both_directions_with_residuals_and_norms():
    """Tokens one by one are the whole text; a stack in both directions has its own norms; Watch sees the layer's h."""
    config = LSTM(D, n_layers=3, residual=True, norm="rmsnorm", recurrence="scan")
    model, params = make(config)
    params = jax.tree.map(jnp.float32, params)
    tokens = np.random.default_rng(1).integers(0, V, (B, T))
    whole, last = jax.jit(model.apply)({"params": params}, tokens)
    step, state = jax.jit(model.apply), model.initial_state(B)
    for t in range(T):
        logits, state = step({"params": params}, tokens[:, t : t + 1], state)
        np.testing.assert_allclose(logits[:, 0], whole[:, t], atol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), state, last)
    seen = jax.jit(partial(watched, config))(params, jnp.asarray(tokens))[1]
    np.testing.assert_allclose(seen["h"][:, -1], last[0], atol=1e-5)
    both = jax.eval_shape(
        lambda key: {n: init(key) for n, init in config.init(T, causal=False).items()}, jax.random.key(0)
    )
    assert both["norms"]["gain"].shape == both["backward"]["norms"]["gain"].shape == (2, D)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "family, reset", [slow("elman", "after"), ("lstm", "after"), slow("gru", "after"), ("gru", "before")]
)
def test_model_is_embedding_layers_readout(family, reset, tied):
    """The whole model from its own parameters by hand, layer by layer without a scan over layers."""
    config = recurrent(family, D, D if tied else 7, 6, tied_embeddings=tied, reset=reset)
    model, params = make(config)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    tokens = np.random.default_rng(1).integers(0, V, (B, T))
    logits, state = jax.jit(model.apply)({"params": params}, tokens)

    x = np.sqrt(D) * np.asarray(params["embedding"])[tokens.T]
    states, one = [], jax.jit(lambda layer, x: unroll(config, layer, x, config.cell_state(B), "float32"))
    for layer in layer_list(params):
        x, last = one(layer, jnp.asarray(x, jnp.float32))
        states.append(last)
    readout = params["embedding"].T if tied else params["readout"]
    want = np.swapaxes(x, 0, 1) @ np.asarray(readout) + np.asarray(params["readout_bias"])[None, None]
    assert len(states) == 6
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda got, *want: np.testing.assert_allclose(got, jnp.stack(want), rtol=1e-5, atol=1e-6), state, *states
    )


def test_initial_scales():
    """Inputs have unit variance and logits start small, tied or not."""
    for tied in (False, True):
        config = LSTM(64, tied_embeddings=tied)
        params = jax.jit(build_model(config, 500, T).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        assert np.std(params["embedding"]) == pytest.approx(64**-0.5, rel=0.05)
        assert ("readout" in params) != tied
        if not tied:
            assert np.std(params["readout"]) == pytest.approx(64**-0.5, rel=0.05)
        assert not params["readout_bias"].any()
