"""Gradients of loss_t with respect to the state at step k: closed form, torch and the models themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick

from seqjax.families import GRU, LSTM, MLSTM, RGLRU, Elman, Transformer
from seqjax.models import build_model
from seqjax.tasks.text import token_losses
from seqjax.training import gradients
from seqjax.training.gradients import by_distance, elman_bound, elman_mean_slope, nudged_losses

state_gradients = jax.jit(gradients.state_gradients, static_argnums=0)
gradient_norms = jax.jit(gradients.gradient_norms, static_argnums=0)

V, B, T, H = 7, 2, 6, 5
CONFIGS = {
    "elman": Elman(d_model=H, n_layers=1),
    "lstm": LSTM(d_model=H, n_layers=1),
    "gru": GRU(d_model=H, n_layers=1),
    "stacked": LSTM(d_model=3, d_hidden=H, n_layers=3),
    "transformer": Transformer(d_model=8, n_layers=2, n_heads=2),
    "norm after": Transformer(d_model=8, n_layers=2, n_heads=2, norm_position="after"),
    "rotary": Transformer(d_model=8, n_layers=1, n_heads=2, positions="rotary", norm="rmsnorm"),
    "rg_lru": RGLRU(d_model=4, n_layers=2),
    "mlstm": MLSTM(d_model=4, n_layers=1, n_heads=2),
}


def example(name: str, batch: int = B) -> tuple[Any, dict, np.ndarray]:
    """Config, float64 parameters away from their initial values, and tokens [B, T+1]."""
    config, rng = CONFIGS[name], np.random.default_rng(0)
    tokens = rng.integers(0, V, (batch, T + 1))
    params = jax.jit(build_model(config, V, T).init)(jax.random.key(1), tokens[:, :-1])["params"]
    return (
        config,
        jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.2 * rng.standard_normal(p.shape), params),
        tokens,
    )


@pytest.mark.parametrize("name", quick(CONFIGS, "stacked", "norm after"))
def test_without_nudges_losses_are_the_models(name: str) -> None:
    config, params, tokens = example(name)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    want_BxT, _ = jax.jit(partial(token_losses, build_model(config, V, T)))(params, tokens)
    got_TxB = jax.jit(partial(nudged_losses, config))(params, tokens, config.no_nudges(B, T))
    np.testing.assert_allclose(got_TxB.T, want_BxT, rtol=1e-4, atol=1e-5)


def test_elman_is_the_product_of_jacobians() -> None:
    """Loops in numpy, float64: backwards from loss_t, one factor W_h diag(1 - h^2) a step."""
    config, params, tokens = example("elman")
    with jax.enable_x64(True):
        got = state_gradients(config, jax.tree.map(jnp.asarray, params), tokens)[:, :, 0]
        norms = gradient_norms(config, jax.tree.map(jnp.asarray, params), tokens)["h"]
    p = jax.tree.map(lambda leaf: leaf[0], params["layers"])
    for b in range(B):
        h = [np.zeros(H)]
        for token in tokens[b, :-1]:
            h.append(np.tanh(np.sqrt(H) * params["embedding"][token] @ p["W_x"] + p["b"] + h[-1] @ p["W_h"]))
        h = np.array(h[1:])
        for t in range(T):
            logits = h[t] @ params["readout"] + params["readout_bias"]
            probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            g = params["readout"] @ (probabilities - np.eye(V)[tokens[b, t + 1]])
            for k in range(T - 1, -1, -1):
                if k > t:
                    assert not np.any(got[t, k, b])
                    continue
                if k < t:
                    g = p["W_h"] @ (g * (1 - h[k + 1] ** 2))  # d h_{k+1} / d h_k, transposed
                np.testing.assert_allclose(got[t, k, b], g, rtol=1e-9, atol=1e-14)
                np.testing.assert_allclose(norms[t, k, b], np.linalg.norm(g), rtol=1e-9)


@pytest.mark.parametrize("family", ["lstm", "gru"])
def test_gated_cells_are_torchs(family: str) -> None:
    torch = pytest.importorskip("torch")
    config, params, tokens = example(family)
    if family == "gru":
        params["layers"]["b_hn"] = params["layers"].get("b_hn", np.zeros((1, H)))
    with jax.enable_x64(True):
        got = jax.tree.leaves(state_gradients(config, jax.tree.map(jnp.asarray, params), tokens))
    p = jax.tree.map(lambda leaf: torch.tensor(leaf[0]), params["layers"])
    cell = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[family](H, H, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(p["W_x"].T)
        cell.weight_hh.copy_(p["W_h"].T)
        cell.bias_ih.copy_(p["b"])
        cell.bias_hh.zero_()
        if family == "gru":
            cell.bias_hh[2 * H :] = p["b_hn"]
    nudges = [[torch.zeros(B, H, dtype=torch.float64, requires_grad=True) for _ in got] for _ in range(T)]
    state, losses = [torch.zeros(B, H, dtype=torch.float64) for _ in got], []
    for t in range(T):
        x = np.sqrt(H) * torch.tensor(params["embedding"])[tokens[:, t]]
        moved = cell(x, tuple(state)) if family == "lstm" else (cell(x, state[0]),)
        state = [part + nudge for part, nudge in zip(moved, nudges[t], strict=True)]
        logits = state[0] @ torch.tensor(params["readout"]) + torch.tensor(params["readout_bias"])
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[:, t + 1]), reduction="sum"))
    for t in range(T):
        flat = [nudge for of_step in nudges for nudge in of_step]
        found = torch.autograd.grad(losses[t], flat, retain_graph=True, allow_unused=True)
        for number, g in enumerate(found):
            want = np.zeros((B, H)) if g is None else g.numpy()
            np.testing.assert_allclose(got[number % len(got)][t, number // len(got), 0], want, rtol=1e-8, atol=1e-13)


@pytest.mark.slow
def test_a_transformers_are_those_of_its_learned_positions() -> None:
    """With one row, a position's embedding is added where the nudge is: differentiate the model itself."""
    config, params, tokens = example("transformer", batch=1)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    model = build_model(config, V, T)
    losses = lambda P: token_losses(model, params | {"positions": P}, tokens)[0][0]  # noqa: E731
    want = jax.jit(jax.jacrev(losses))(params["positions"])
    np.testing.assert_allclose(state_gradients(config, params, tokens)[:, :, 0], want, rtol=1e-3, atol=1e-5)
    norms = gradient_norms(config, params, tokens)["x"][:, :, 0]
    np.testing.assert_allclose(norms, np.linalg.norm(want, axis=-1), rtol=1e-3, atol=1e-5)


def test_the_norm_is_over_all_layers_and_each_array_has_its_own() -> None:
    config, params, tokens = example("stacked")
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    norms = gradients.gradient_norms(config, params, tokens)  # compiled it would be sorted by name
    assert list(norms) == ["h", "c"]
    for found, leaf in zip(norms.values(), state_gradients(config, params, tokens), strict=True):
        assert leaf.shape == (T, T, 3, B, H)
        np.testing.assert_allclose(found, np.sqrt((np.asarray(leaf) ** 2).sum(axis=(2, 4))), rtol=1e-4)


def test_vanished_gradients_have_a_norm_and_keep_the_bound() -> None:
    """W_h of 1e-5: after five steps 1e-25 is left, the square of which float32 cannot hold."""
    config, params, tokens = example("elman")
    params["layers"]["W_h"] = 1e-5 * params["layers"]["W_h"]
    with jax.enable_x64(True):
        want = gradient_norms(config, jax.tree.map(jnp.asarray, params), tokens)["h"]
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    norms, s = np.asarray(gradient_norms(config, params, tokens)["h"]), elman_bound(params)
    np.testing.assert_allclose(norms, want, rtol=1e-3)
    assert 0 < norms[5, 0].max() < 1e-22
    for t in range(T):
        for k in range(t):
            assert (norms[t, k] <= 1.0001 * norms[t, t] * s ** (t - k)).all()
    h = np.array([0.0, 0.5])
    assert elman_mean_slope(h) == pytest.approx(np.sqrt((1 + 0.75**2) / 2))


def test_means_by_distance() -> None:
    norms_TxTxB = np.arange(3)[:, None, None] * 10.0 + np.arange(3)[None, :, None] + np.zeros((1, 1, 2))
    np.testing.assert_allclose(by_distance(norms_TxTxB), [(0 + 11 + 22) / 3, (10 + 21) / 2, 20])
