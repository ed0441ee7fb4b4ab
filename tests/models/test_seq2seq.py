"""Encoder-decoders: step by step as all at once, padding changes nothing, torch agrees on the Transformer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick, slow

from seqjax.families import GRU, LSTM, Elman, Transformer, recurrent
from seqjax.models.seq2seq import Seq2Seq
from seqjax.training.state import init_state

MODELS = {
    "transformer": (Transformer(d_model=8, n_layers=2, n_heads=2, d_ff=12), True),
    "rotary": (Transformer(d_model=8, n_layers=1, n_heads=2, positions="rotary", tied_embeddings=True), True),
    "norm after": (Transformer(d_model=8, n_layers=2, n_heads=2, norm_position="after"), True),
    "gru": (GRU(d_model=6, d_hidden=8, n_layers=1, tied_embeddings=True), True),
    "gru-cho": (GRU(d_model=8, n_layers=2), False),
    "lstm": (LSTM(d_model=8, n_layers=2), True),
    "elman-cho": (Elman(d_model=8, n_layers=1), False),
}
S, T, V = 7, 6, 13


def drawn() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Sources with their mask, targets, a key."""
    keys = jax.random.split(jax.random.key(0), 3)
    source_BxS = jax.random.randint(keys[0], (3, S), 0, V)
    mask_BxS = jnp.arange(S)[None] < jnp.array([S, 2, 5])[:, None]
    return source_BxS, mask_BxS, jax.random.randint(keys[1], (3, T), 0, V), keys[2]


@cache
def made(name: str) -> tuple[Seq2Seq, dict, jax.Array, jax.Array, jax.Array]:
    config, attention = MODELS[name]
    model = Seq2Seq(config, V, max_length=12, attention=attention)
    source_BxS, mask_BxS, target_BxT, key = drawn()
    params = jax.jit(model.init)(key, source_BxS, mask_BxS, target_BxT)["params"]
    params = jax.tree.map(lambda p: 5 * p if p.ndim > 1 else p, params)  # so that attention is not flat
    return model, params, source_BxS, mask_BxS, target_BxT


@partial(jax.jit, static_argnums=0, static_argnames=("method", "keep_state"))
def run(model: Seq2Seq, params: dict, *arguments: Any, **options: Any) -> Any:
    return model.apply({"params": params}, *arguments, **options)


@pytest.mark.parametrize("name", quick(MODELS, "transformer", "gru"))
def test_one_token_at_a_time_gives_what_all_at_once_gives(name: str) -> None:
    model, params, source_BxS, mask_BxS, target_BxT = made(name)
    whole = run(model, params, source_BxS, mask_BxS, target_BxT)
    memory = run(model, params, source_BxS, mask_BxS, method="encode")
    state = run(model, params, memory, method="start")
    for first, end in ((0, 1), (1, 2), (2, 4), (4, T)):
        piece = target_BxT[:, first:end]
        logits, state = run(model, params, memory, state, piece, keep_state=True, method="decode")
        np.testing.assert_allclose(logits, whole[:, first:end], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["transformer", "gru", slow("gru-cho")])
def test_padding_of_the_source_changes_nothing_and_the_source_matters(name: str) -> None:
    model, params, source_BxS, mask_BxS, target_BxT = made(name)
    whole = run(model, params, source_BxS, mask_BxS, target_BxT)
    junk_BxS = jnp.where(mask_BxS, source_BxS, V - 1 - source_BxS)
    np.testing.assert_allclose(run(model, params, junk_BxS, mask_BxS, target_BxT), whole, atol=1e-5)
    for row, length in enumerate((S, 2, 5)):
        rows = slice(row, row + 1)
        alone = run(model, params, source_BxS[rows, :length], mask_BxS[rows, :length], target_BxT[rows])
        np.testing.assert_allclose(alone[0], whole[row], rtol=2e-4, atol=2e-5)
    other = run(model, params, (source_BxS + 1) % V, mask_BxS, target_BxT)
    assert np.abs(np.asarray(other - whole)).max() > 1e-3


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_later_target_tokens_are_not_seen(name: str) -> None:
    model, params, source_BxS, mask_BxS, target_BxT = made(name)
    whole = run(model, params, source_BxS, mask_BxS, target_BxT)
    changed = run(model, params, source_BxS, mask_BxS, target_BxT.at[:, 4:].set(0))
    np.testing.assert_allclose(changed[:, :4], whole[:, :4], atol=1e-5)
    assert not np.allclose(changed[:, 4:], whole[:, 4:], atol=1e-3)


def test_additive_attention_against_a_loop() -> None:
    model, params, source_BxS, mask_BxS, target_BxT = made("gru")
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["decoder"])
    memory = run(model, params, source_BxS, mask_BxS, method="encode")
    m_BxSxM = np.asarray(memory["m"], np.float64)
    for row, length in enumerate((S, 2, 5)):
        m_SxM = m_BxSxM[row, :length]
        s_H = np.tanh(m_SxM.mean(axis=0) @ p["W_0"] + p["b_0"])
        E = np.asarray(params["embedding"], np.float64)
        for t in range(T):
            y_D = np.sqrt(6) * E[target_BxT[row, t]]
            e_S = np.tanh(s_H @ p["W_s"] + m_SxM @ p["W_m"]) @ p["v"]
            a_S = np.exp(e_S) / np.exp(e_S).sum()
            c_M = a_S @ m_SxM
            x = np.concatenate([y_D, c_M]) @ p["first"]["W_x"] + p["first"]["b"]
            h = s_H @ p["first"]["W_h"]
            (xr, xz, xn), (hr, hz, hn) = np.split(x, 3), np.split(h, 3)
            r, z = 1 / (1 + np.exp(-xr - hr)), 1 / (1 + np.exp(-xz - hz))
            s_H = z * s_H + (1 - z) * np.tanh(xn + r * (hn + p["first"].get("b_hn", 0)))
            o_D = np.tanh(np.concatenate([s_H, c_M, y_D]) @ p["W_out"] + p["b_out"])
        logits = run(model, params, source_BxS, mask_BxS, target_BxT)
        np.testing.assert_allclose(logits[row, -1], E @ o_D, rtol=1e-3, atol=1e-4)


def test_a_decoder_of_two_layers_has_the_gradients_of_the_plain_scan() -> None:
    model, params, *arguments = made("gru-cho")

    def loss(params: Any, recurrence: str) -> Any:
        one = model.clone(family=replace(model.family, recurrence=recurrence))
        return (one.apply({"params": params}, *arguments) ** 2).mean()

    fast, scan = (jax.jit(jax.grad(partial(loss, recurrence=how)))(params) for how in ("fast", "scan"))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(scan))
    assert np.abs(scan["decoder"]["layers"]["W_h"]).max() > 1e-3 * largest
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5 * largest), fast, scan)  # float32


@pytest.mark.parametrize("norm_position", ["before", slow("after")])
def test_the_transformer_agrees_with_torch(norm_position: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle of this test")
    config = Transformer(
        d_model=8,
        n_layers=2,
        n_heads=2,
        d_ff=12,
        mlp="relu",
        positions="none",
        tied_embeddings=True,
        norm_position=norm_position,
    )
    first = norm_position == "before"
    model = Seq2Seq(config, V, max_length=12)
    source_BxS, mask_BxS, target_BxT, _ = drawn()
    params = jax.jit(model.init)(jax.random.key(1), source_BxS, mask_BxS, target_BxT)["params"]
    params = jax.tree.map(lambda p: 4 * p + 0.01 if p.ndim > 1 else p, params)
    options = {"dim_feedforward": 12, "dropout": 0.0, "norm_first": first, "batch_first": True}
    reference = torch.nn.Transformer(8, 2, 2, 2, **options)
    for side, layers in (("encoder", reference.encoder.layers), ("decoder", reference.decoder.layers)):
        for index, layer in enumerate(layers):
            p = jax.tree.map(lambda x, i=index: np.asarray(x[i]), params[side]["layers"])
            attention, names = p["attention"], {"norm1": "attention_norm", "norm2": "mlp_norm"}
            _set_attention(torch, layer.self_attn, attention["W_qkv"], attention["b_qkv"], attention)
            if side == "decoder":
                cross = p["cross"]
                W_Dx3xNxK = np.concatenate([cross["W_q"][:, None], cross["W_kv"]], axis=1)
                b_3xNxK = np.concatenate([cross["b_q"][None], cross["b_kv"]])
                _set_attention(torch, layer.multihead_attn, W_Dx3xNxK, b_3xNxK, cross)
                names = {"norm1": "attention_norm", "norm2": "cross_norm", "norm3": "mlp_norm"}
            for theirs, ours in names.items():
                _set(torch, getattr(layer, theirs), p[ours]["gain"], p[ours]["bias"])
            _set(torch, layer.linear1, p["mlp"]["W_in"].T, p["mlp"]["b_in"])
            _set(torch, layer.linear2, p["mlp"]["W_out"].T, p["mlp"]["b_out"])
        assert ("final_norm" in params[side]) == first
        if first:
            norm = params[side]["final_norm"]
            _set(torch, getattr(reference, side).norm, np.asarray(norm["gain"]), np.asarray(norm["bias"]))
        else:
            getattr(reference, side).norm = None  # torch's one too many
    E = torch.tensor(np.asarray(params["embedding"]))
    unseen = torch.tensor(~np.asarray(mask_BxS))
    causal = torch.nn.Transformer.generate_square_subsequent_mask(T)
    with torch.no_grad():
        wanted = reference.eval()(
            E[torch.tensor(np.asarray(source_BxS))], E[torch.tensor(np.asarray(target_BxT))], tgt_mask=causal,
            src_key_padding_mask=unseen, memory_key_padding_mask=unseen,
        ) @ E.T  # fmt: skip
    found = run(model, params, source_BxS, mask_BxS, target_BxT)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def _set(torch, module, weight, bias) -> None:
    with torch.no_grad():
        module.weight.copy_(torch.tensor(np.array(weight)))
        module.bias.copy_(torch.tensor(np.array(bias)))


def _set_attention(torch, module, W_Dx3xNxK, b_3xNxK, out) -> None:
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.tensor(W_Dx3xNxK.transpose(1, 2, 3, 0).reshape(24, 8)))
        module.in_proj_bias.copy_(torch.tensor(b_3xNxK.reshape(24)))
    _set(torch, module.out_proj, out["W_o"].reshape(8, 8).T, out["b_o"])


def test_dropout_drops_an_embedding_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of the inputs of the encoder's layer that is zero."""
    inputs: list[jax.Array] = []
    plain = recurrent.unroll

    def seen(cells: Any, params: Any, x_TxBxD: jax.Array, *rest: Any) -> Any:
        inputs.append(x_TxBxD)
        return plain(cells, params, x_TxBxD, *rest)

    monkeypatch.setattr("seqjax.families.recurrent.unroll", seen)
    model = Seq2Seq(GRU(d_model=64, n_layers=1, dropout=0.5), V, max_length=12, attention=False)
    source_BxS, _, target_BxT, key = drawn()
    mask_BxS = jnp.ones((3, S), bool)
    params = model.init(key, source_BxS, mask_BxS, target_BxT)
    inputs.clear()
    with jax.disable_jit():
        model.apply(params, source_BxS, mask_BxS, target_BxT, train=True, rngs={"dropout": key})
    shares = [float((x == 0).mean()) for x in inputs]
    assert len(shares) == 2  # both directions
    np.testing.assert_allclose(shares, 0.5, atol=0.05)


def test_an_initial_scale_multiplies_the_tables_of_both_sides() -> None:
    model = Seq2Seq(MODELS["transformer"][0], V, max_length=12)
    source_BxS, mask_BxS, target_BxT, _ = drawn()
    once, twice = (
        init_state(lambda key: model.init(key, source_BxS, mask_BxS, target_BxT)["params"], optax.sgd(0.0), 0, scale)
        for scale in (1.0, 2.0)
    )
    ratios = jax.tree.map(lambda a, b: float(b.std() / a.std()) if a.std() else None, once.params, twice.params)
    places = [ratios["source"], ratios["embedding"], ratios["encoder"]["positions"], ratios["decoder"]["positions"]]
    np.testing.assert_allclose(places, 2.0, rtol=1e-5)
