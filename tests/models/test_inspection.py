"""What inspection shows is what the model computes: against the model itself, numpy in float64 and torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick, slow

from seqjax.errors import UserError
from seqjax.families import GRU, LSTM, MLSTM, RGLRU, Elman, Transformer, Window
from seqjax.models import build_model
from seqjax.models.inside import look_inside as look_inside_now
from seqjax.models.inside import next_token_losses

look_inside = jax.jit(look_inside_now, static_argnums=(0, 3))

V, T = 23, 12
MODELS = {
    "elman": Elman(d_model=8, n_layers=2),
    "lstm": LSTM(d_model=8, n_layers=2),
    "lstm of another width": LSTM(d_model=6, d_hidden=8, n_layers=3),
    "gru, reset after": GRU(d_model=8, n_layers=2),
    "gru, reset before": GRU(d_model=8, n_layers=1, reset="before"),
    "learned positions": Transformer(d_model=16, n_layers=3, n_heads=4),
    "rotary, swiglu": Transformer(d_model=16, n_layers=2, n_heads=2, positions="rotary", mlp="swiglu"),
    "no norm, no positions": Transformer(d_model=16, n_layers=2, n_heads=1, norm="none", positions="none"),
    "norm after": Transformer(d_model=16, n_layers=2, n_heads=2, norm_position="after"),
    "no attention": Transformer(d_model=16, n_layers=2, attention=False),
    "embedding alone": Transformer(d_model=16, n_layers=0, norm="none", positions="none"),
    "window": Window(d_model=4, window=3, d_ff=16, n_layers=2),
    "rg_lru": RGLRU(d_model=8, n_layers=2),
    "mlstm": MLSTM(d_model=8, n_layers=1, n_heads=2),
}


def trained(config: Any) -> tuple[Any, Any, np.ndarray]:
    """A model with larger weights than it starts with, and a text; too large, and recurrence is chaotic."""
    scale = 10.0 if isinstance(config, Transformer) else 1.5
    model = build_model(config, V, context_length=16)
    tokens_T = np.random.default_rng(1).integers(0, V, T)
    params = jax.jit(model.init)(jax.random.key(0), tokens_T[None])["params"]
    return model, jax.tree.map(lambda leaf: scale * leaf, params), tokens_T


@pytest.mark.parametrize("name", quick(MODELS, "lstm", "gru, reset before", "rotary, swiglu", "window"))
def test_logits_and_loss_are_those_of_the_model(name: str) -> None:
    model, params, tokens_T = trained(MODELS[name])
    found = look_inside(MODELS[name], params, jnp.asarray(tokens_T))
    want_TxV = np.asarray(jax.jit(model.apply)({"params": params}, tokens_T[None])[0][0], np.float64)
    assert want_TxV.std() > 0.1
    rounding = 1e-5 * max(1.0, np.abs(want_TxV).max())  # of float32: large weights make logits of up to 20
    np.testing.assert_allclose(found.logits_TxV, want_TxV, rtol=1e-5, atol=rounding)
    log_p_TxV = want_TxV - np.log(np.exp(want_TxV).sum(axis=-1, keepdims=True))
    want = [-log_p_TxV[t, tokens_T[t + 1]] for t in range(T - 1)]
    losses_T = next_token_losses(found.logits_TxV, jnp.asarray(tokens_T))
    np.testing.assert_allclose(losses_T, want, rtol=1e-5, atol=rounding)


@pytest.mark.parametrize(
    "name", [slow("learned positions"), "rotary, swiglu", slow("no norm, no positions"), slow("norm after")]
)
def test_attention_looks_back_and_its_rows_sum_to_one(name: str) -> None:
    config = MODELS[name]
    _, params, tokens_T = trained(config)
    attention = np.asarray(look_inside(config, params, jnp.asarray(tokens_T)).attention_LxNxTxT)
    assert attention.shape == (config.n_layers, config.n_heads, T, T)
    np.testing.assert_allclose(attention.sum(axis=-1), 1.0, rtol=1e-5)
    assert (attention >= 0).all() and (np.triu(attention, 1) == 0).all()
    assert attention.std(axis=0).max() > 1e-3  # blocks differ


def test_a_first_block_attends_as_torch_does() -> None:
    """Without positions and norm the first block's input is the embedding itself."""
    torch = pytest.importorskip("torch")
    config = MODELS["no norm, no positions"]
    config = Transformer(**{**config.__dict__, "n_heads": 4})
    _, params, tokens_T = trained(config)
    block = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params["layers"]["attention"])
    oracle = torch.nn.MultiheadAttention(config.d_model, config.n_heads, batch_first=True)
    W_3DxD = block["W_qkv"].transpose(1, 2, 3, 0).reshape(3 * config.d_model, config.d_model)
    x_1xTxD = torch.tensor(np.asarray(params["embedding"])[tokens_T][None])
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.tensor(W_3DxD))
        oracle.in_proj_bias.copy_(torch.tensor(block["b_qkv"].reshape(-1)))
        after = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
        _, want_1xNxTxT = oracle(x_1xTxD, x_1xTxD, x_1xTxD, attn_mask=after, average_attn_weights=False)
    found = look_inside(config, params, jnp.asarray(tokens_T)).attention_LxNxTxT[0]
    np.testing.assert_allclose(found, want_1xNxTxT[0].numpy(), atol=1e-6)
    assert float(found.std()) > 0.1


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_gates_and_states_of_an_lstm_are_its_equations() -> None:
    config = MODELS["lstm"]
    _, params, tokens_T = trained(config)
    found = look_inside(config, params, jnp.asarray(tokens_T))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x_TxD = np.sqrt(8) * params["embedding"][tokens_T]
    for index in range(2):
        W_x, W_h, b = (params["layers"][name][index] for name in ("W_x", "W_h", "b"))
        h, c, outputs = np.zeros(8), np.zeros(8), []
        for t in range(T):
            i, f, g, o = np.split(x_TxD[t] @ W_x + h @ W_h + b, 4)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c + i * g
            h = o * np.tanh(c)
            for name, want in (("i", i), ("f", f), ("g", g), ("o", o)):
                np.testing.assert_allclose(found.gates_LxTxH[name][index, t], want, atol=1e-5)
            np.testing.assert_allclose(found.states_LxTxH["c"][index, t], c, atol=1e-5)
            np.testing.assert_allclose(found.states_LxTxH["h"][index, t], h, atol=1e-5)
            outputs.append(h)
        x_TxD = np.stack(outputs)
    assert set(found.gates_LxTxH) == set("ifgo") and found.attention_LxNxTxT is None


@pytest.mark.parametrize("name", ["gru, reset after", "gru, reset before"])
def test_gates_and_states_of_a_gru_are_its_equations(name: str) -> None:
    config = MODELS[name]
    _, params, tokens_T = trained(config)
    found = look_inside(config, params, jnp.asarray(tokens_T))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    layer = {key: leaf[0] for key, leaf in params["layers"].items()}
    h = np.zeros(8)
    for t in range(T):
        r_x, z_x, n_x = np.split(np.sqrt(8) * params["embedding"][tokens_T[t]] @ layer["W_x"] + layer["b"], 3)
        r_h, z_h = (h @ layer["W_h"][:, 8 * k : 8 * (k + 1)] for k in (0, 1))
        r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
        if "W_hn" in layer:
            n = np.tanh(n_x + (r * h) @ layer["W_hn"])
        else:
            n = np.tanh(n_x + r * (h @ layer["W_h"][:, 16:] + layer["b_hn"]))
        h = z * h + (1 - z) * n
        for key, want in (("r", r), ("z", z), ("n", n)):
            np.testing.assert_allclose(found.gates_LxTxH[key][0, t], want, atol=1e-5)
        np.testing.assert_allclose(found.states_LxTxH["h"][0, t], h, atol=1e-5)


def test_the_state_of_an_elman_network_is_its_equation() -> None:
    config = MODELS["elman"]
    _, params, tokens_T = trained(config)
    found = look_inside(config, params, jnp.asarray(tokens_T))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    h = np.zeros(8)
    for t in range(T):
        x = np.sqrt(8) * params["embedding"][tokens_T[t]]
        h = np.tanh(x @ params["layers"]["W_x"][0] + h @ params["layers"]["W_h"][0] + params["layers"]["b"][0])
        np.testing.assert_allclose(found.states_LxTxH["h"][0, t], h, atol=1e-5)
    assert found.gates_LxTxH == {} and list(found.states_LxTxH) == ["h"]


def test_more_tokens_than_learned_positions_are_refused() -> None:
    _, params, _ = trained(MODELS["learned positions"])
    with pytest.raises(UserError, match="17 elements, but the model has learned 16 positions"):
        look_inside(MODELS["learned positions"], params, jnp.zeros(17, int))
    rotary = MODELS["rotary, swiglu"]
    found = jax.eval_shape(partial(look_inside, rotary), trained(rotary)[1], jnp.zeros(17, int))
    assert found.logits_TxV.shape == (17, V)


def test_bfloat16_is_that_of_the_model() -> None:
    for name in ("lstm", "rotary, swiglu"):
        _, params, tokens_T = trained(MODELS[name])
        model = build_model(MODELS[name], V, 16, "bfloat16")
        want_TxV = jax.jit(model.apply)({"params": params}, tokens_T[None])[0][0]
        found = look_inside(MODELS[name], params, jnp.asarray(tokens_T), "bfloat16")
        np.testing.assert_allclose(found.logits_TxV, want_TxV, rtol=0.03, atol=0.03 * float(jnp.abs(want_TxV).max()))
