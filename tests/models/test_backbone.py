"""Padding changes nothing; directions and heads do what their equations say; gradients reach what is there alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick, slow

from seqjax.config import ModelConfig
from seqjax.errors import UserError
from seqjax.families import GRU, LSTM, RGLRU, Elman, Mamba2, MinGRU, Retention, Transformer, Window
from seqjax.layers.heads import (
    Classifier,
    Regressor,
    SequenceModel,
    TokenEmbedding,
    TokenHead,
    pool_attention,
    pool_last,
    pool_mean,
)
from seqjax.models.backbone import Backbone

MODELS: dict[str, ModelConfig] = {
    "elman": Elman(d_model=6, d_hidden=8),
    "lstm": LSTM(d_model=8, n_layers=2),
    "lstm-scan": LSTM(d_model=8, n_layers=1, recurrence="scan"),
    "gru": GRU(d_model=8, n_layers=1, recurrence="lean"),
    "transformer": Transformer(d_model=8, n_layers=2, n_heads=2),
    "norm after": Transformer(d_model=8, n_layers=2, n_heads=2, norm_position="after"),
    "rotary": Transformer(d_model=8, n_layers=1, n_heads=2, positions="rotary"),
    "window": Window(d_model=8, window=3, d_ff=10, n_layers=2),
    "rg_lru": RGLRU(d_model=8, n_layers=1, gate_blocks=2, bias=True),
    "griffin": RGLRU(d_model=8, n_layers=2, gate_blocks=2, blocks=("recurrent", "attention"), n_heads=1, window=2),
    "mingru": MinGRU(d_model=8, n_layers=1, conv=4),
    "retention": Retention(d_model=8, n_layers=1, n_heads=2),
    "mamba2": Mamba2(d_model=8, n_layers=1, n_heads=2),
}
LENGTHS = np.array([5, 1, 3])


def padded(length: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Inputs of three sequences, with noise in the padding, and their mask."""
    x_BxTxD = jax.random.normal(jax.random.key(seed), (3, 5, 8))[:, :, :]
    junk = 9.0 * jax.random.normal(jax.random.key(seed + 1), (3, length - 5, 8))
    x_BxTxD = jnp.concatenate([x_BxTxD, junk], axis=1)
    return x_BxTxD, jnp.arange(length)[None] < LENGTHS[:, None]


@pytest.mark.parametrize(
    ("name", "causal", "bptt"),
    quick(
        [
            *((name, causal, None) for causal in (True, False) for name in MODELS if causal or name != "window"),
            *((name, False, 2) for name in MODELS if MODELS[name].recurrent),
        ],
        ("gru", True, None),
        ("lstm", False, None),
        ("transformer", True, None),
        ("rg_lru", True, None),
        ("griffin", False, 2),
        ("retention", False, 2),
    ),
)
def test_what_is_not_there_changes_neither_results_nor_gradients(name: str, causal: bool, bptt: int | None) -> None:
    backbone = Backbone(MODELS[name], max_length=12, causal=causal, bptt=bptt)
    width = MODELS[name].d_model
    x_BxTxD, mask_BxT = padded(12)
    x_BxTxD = x_BxTxD[:, :, :width]
    params = jax.jit(backbone.init)(jax.random.key(2), x_BxTxD, mask_BxT)

    def total(params: dict, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        h_BxTxH = backbone.apply(params, x, mask)
        return (h_BxTxH * jnp.cos(jnp.arange(h_BxTxH.shape[-1]))[None, None]).sum(), h_BxTxH

    grad = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (d_params, d_x), h_BxTxH = grad(params, x_BxTxD, mask_BxT)
    assert h_BxTxH.shape[-1] == MODELS[name].width(causal)
    assert not np.any(np.asarray(d_x)[~np.asarray(mask_BxT)])
    alone = jax.tree.map(jnp.zeros_like, d_params)
    for row, length in enumerate(LENGTHS):
        (of_row, d_row), h = grad(params, x_BxTxD[row : row + 1, :length], None)
        alone = jax.tree.map(jnp.add, alone, of_row)
        np.testing.assert_allclose(h_BxTxH[row, :length], h[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(d_x[row, :length], d_row[0], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), d_params, alone)


@pytest.mark.parametrize("name", ["elman", slow("gru"), "transformer", slow("window")])
def test_a_causal_backbone_does_not_look_ahead_and_the_other_does(name: str) -> None:
    x_BxTxD = padded(8)[0][:, :, : MODELS[name].d_model]
    later = x_BxTxD.at[:, 5:].mul(-9.0)
    for causal in (True, False):
        backbone = Backbone(MODELS[name], max_length=8, causal=causal)
        params, apply = jax.jit(backbone.init)(jax.random.key(0), x_BxTxD), jax.jit(backbone.apply)
        before, after = (apply(params, x)[:, :5] for x in (x_BxTxD, later))
        looks_ahead = not np.allclose(before, after, rtol=0, atol=1e-6)
        assert looks_ahead == (not causal and name != "window")


def test_both_directions_of_a_recurrent_backbone_are_mirror_images() -> None:
    backbone = Backbone(MODELS["lstm"], max_length=5, causal=False)
    x_BxTxD = padded(5)[0]
    params, apply = jax.jit(backbone.init)(jax.random.key(0), x_BxTxD)["params"], jax.jit(backbone.apply)
    swapped = {"layers": params["backward"]["layers"], "backward": {"layers": params["layers"]}}
    h_BxTxH = apply({"params": params}, x_BxTxD)
    mirrored = apply({"params": swapped}, x_BxTxD[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(h_BxTxH, jnp.roll(mirrored, 8, axis=-1), rtol=1e-5, atol=1e-6)


def test_pools_against_loops() -> None:
    rng = np.random.default_rng(0)
    h_BxTxH = rng.normal(size=(3, 7, 4)).astype(np.float32)
    mask_BxT = np.arange(7)[None] < np.array([7, 1, 4])[:, None]
    W, b, u = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3,), (3,)))
    for row, length in enumerate((7, 1, 4)):
        h_TxH = h_BxTxH[row, :length].astype(np.float64)
        scores = np.tanh(h_TxH @ W + b) @ u
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(pool_last(h_BxTxH, mask_BxT)[row], h_TxH[-1], rtol=1e-6)
        np.testing.assert_allclose(pool_mean(h_BxTxH, mask_BxT)[row], h_TxH.mean(axis=0), rtol=1e-5)
        found = pool_attention(jnp.asarray(h_BxTxH), jnp.asarray(mask_BxT), W, b, u)[row]
        np.testing.assert_allclose(found, weights @ h_TxH, rtol=1e-5)


@pytest.mark.parametrize(("name", "pool"), [slow("gru", "last"), ("transformer", "attention"), slow("window", "mean")])
def test_any_backbone_takes_any_head_and_no_head_sees_padding(name: str, pool: str) -> None:
    tokens_BxT = np.random.default_rng(0).integers(11, size=(3, 9))
    mask_BxT = np.arange(9)[None] < LENGTHS[:, None]
    for head in (Classifier(3, pool), Regressor(2), TokenHead(11)):  # type: ignore[arg-type]
        model = SequenceModel(TokenEmbedding(11, 8), Backbone(MODELS[name], max_length=9), head)
        params, apply = jax.jit(model.init)(jax.random.key(0), tokens_BxT, mask_BxT), jax.jit(model.apply)
        y = apply(params, tokens_BxT, mask_BxT)
        junk = np.where(mask_BxT, tokens_BxT, 10 - tokens_BxT)
        again = apply(params, junk, mask_BxT)
        shorter = apply(params, tokens_BxT[:, :6], mask_BxT[:, :6])
        if not isinstance(head, Classifier):
            y, again, shorter = (np.asarray(z)[:, :6][mask_BxT[:, :6]] for z in (y, again, shorter))
        np.testing.assert_allclose(y, again, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(y, shorter, rtol=1e-5, atol=1e-6)


def test_mistakes_are_named() -> None:
    backbone = Backbone(MODELS["transformer"], max_length=4)
    with pytest.raises(UserError, match="width 5 for a model of d_model 8"):
        backbone.init(jax.random.key(0), jnp.zeros((1, 3, 5)))
    with pytest.raises(UserError, match="5 elements, but the model has learned 4 positions"):
        backbone.init(jax.random.key(0), jnp.zeros((1, 5, 8)))


def test_a_kernel_that_wants_padding_last_finds_it_there_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fused_attention` reads a mask as a length."""
    monkeypatch.setattr("seqjax.layers.local_attention.fused_kernel", lambda *_: "one that reads masks as lengths")
    seen: list[jax.Array] = []

    def fused(kernel: str, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, **_: object) -> jax.Array:
        seen.append(mask)
        return q

    monkeypatch.setattr("seqjax.layers.local_attention.fused_attention", fused)
    hybrid = MinGRU(d_model=8, n_layers=2, blocks=("recurrent", "attention"), n_heads=2, attention_kernel="fused")
    x_BxTxD, mask_BxT = padded(12)
    with jax.disable_jit():
        Backbone(hybrid, max_length=12, causal=False).init(jax.random.key(0), x_BxTxD, mask_BxT)
    assert len(seen) == 2
    for mask in seen:
        np.testing.assert_array_equal(mask, mask_BxT)
