"""Families made of residual blocks: their equations in numpy and float64; what does not fit; widths and counts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.families import RGLRU, MinGRU, MinLSTM
from seqjax.families.family import Impossible, Watch
from seqjax.layers.local_attention import _visible, mean_keys

T, D, LAYERS = 7, 8, 2
MODELS = {
    "mingru": MinGRU(d_model=D, n_layers=LAYERS, d_hidden=6, conv=3),
    "minlstm": MinLSTM(d_model=D, n_layers=LAYERS, positive=False),
    "rg_lru": RGLRU(d_model=D, n_layers=LAYERS, gate_blocks=2),
}
Arrays = dict[str, Any]


def sigmoid(u: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-u))


def normed(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return gain * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def gelu(u: np.ndarray) -> np.ndarray:
    return 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))


def convolved(kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
    taps = len(kernel)
    return np.array([sum(kernel[taps - 1 - j] * x[t - j] for j in range(min(t + 1, taps))) for t in range(len(x))])


def mingru(p: Arrays, x: np.ndarray) -> tuple[np.ndarray, Arrays]:
    x, h, seen = convolved(p["conv"]["kernel"], x), np.zeros(6), []
    for x_t in x:
        z, c = sigmoid(x_t @ p["W_gates"][:, 0]), x_t @ p["W_gates"][:, 1]
        c = np.where(c >= 0, c + 0.5, sigmoid(c))
        h = (1 - z) * h + z * c
        seen.append({"h": h, "z": z, "n": c})
    return np.array([s["h"] @ p["W_o"] for s in seen]), stacked(seen)


def minlstm(p: Arrays, x: np.ndarray) -> tuple[np.ndarray, Arrays]:
    h, seen = np.zeros(D), []
    for x_t in x:
        f, i, c = (x_t @ p["W_gates"][:, gate] for gate in range(3))
        f, i = sigmoid(f), sigmoid(i)
        f, i = f / (f + i), i / (f + i)
        h = f * h + i * c
        seen.append({"h": h, "f": f, "i": i, "n": c})
    return np.array([s["h"] for s in seen]), stacked(seen)


def rg_lru(p: Arrays, x: np.ndarray) -> tuple[np.ndarray, Arrays]:
    u, g = convolved(p["conv"]["kernel"], x @ p["W_in"][:, 0]), gelu(x @ p["W_in"][:, 1])
    h, seen = np.zeros(D), []
    for t, u_t in enumerate(u):
        r, i = (
            sigmoid(np.concatenate([part @ W for part, W in zip(np.split(u_t, 2), p["W_blocks"][gate], strict=True)]))
            for gate in range(2)
        )
        a = np.exp(-8 * r * np.log1p(np.exp(p["Lambda"])))
        h = a * h + (np.sqrt(1 - a * a) if t else 1) * i * u_t
        seen.append({"h": h, "a": a, "i": i})
    return np.array([s["h"] for s in seen]) * g @ p["W_o"], stacked(seen)


def stacked(trees: list[Arrays]) -> Arrays:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def equations(name: str, params: Arrays, x: np.ndarray) -> tuple[np.ndarray, Arrays]:
    """Hidden states of the common block, and what is inside."""
    inside = []
    for layer in range(LAYERS):
        p = jax.tree.map(lambda leaf, i=layer: leaf[i], params["layers"])
        y, seen = {"mingru": mingru, "minlstm": minlstm, "rg_lru": rg_lru}[name](
            p["mixer"], normed(x, p["mixer_norm"]["gain"])
        )
        u = x + y
        n = normed(u, p["mlp_norm"]["gain"])
        gate = n @ p["mlp"]["W_gate"]
        x = u + (gate * sigmoid(gate) * (n @ p["mlp"]["W_in"])) @ p["mlp"]["W_out"]
        inside.append(seen)
    return normed(x, params["final_norm"]["gain"]), stacked(inside)


def test_hidden_states_and_gates_are_their_equations() -> None:
    rng = np.random.default_rng(0)
    x_TxD = rng.standard_normal((T, D))
    shapes = {
        name: {part: jax.eval_shape(init, jax.random.key(0)) for part, init in model.init(T).items()}
        for name, model in MODELS.items()
    }
    params = jax.tree.map(lambda leaf: 0.6 * rng.standard_normal(leaf.shape), shapes)

    def run(params: Arrays, x_1xTxD: jax.Array) -> Arrays:
        return {
            name: model.run(params[name], x_1xTxD, dtype="float64", watch=Watch())[::2]
            for name, model in MODELS.items()
        }

    with jax.enable_x64(True):
        found = jax.jit(run)(jax.tree.map(jnp.asarray, params), jnp.asarray(x_TxD[None]))
    for name in MODELS:
        want_TxD, inside = equations(name, params[name], x_TxD)
        h_1xTxD, seen = found[name]
        np.testing.assert_allclose(h_1xTxD[0], want_TxD, rtol=1e-9, atol=1e-12)
        assert set(seen) == set(inside)
        for key, want_LxTxR in inside.items():
            np.testing.assert_allclose(seen[key][:, :, 0], want_LxTxR, rtol=1e-9, atol=1e-12)


def test_initial_decay_of_an_rg_lru_is_in_its_ring() -> None:
    mixer = RGLRU(d_model=64, n_layers=1).init_mixer(jax.random.key(0))
    base = np.exp(-np.logaddexp(0, np.asarray(mixer["Lambda"], np.float64)))
    assert 0.9 <= base.min() < 0.92 and 0.98 < base.max() <= 0.999


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        (MinGRU(block="cell", mlp="gelu"), "model.mlp", "gelu: block cell has no MLP; allowed: null, none"),
        (MinGRU(conv=1), "model.conv", "one tap sees no other step"),
        (MinGRU(d_model=8, tied_embeddings=True, base_width=8), "model.base_width", "needs an embedding"),
        (RGLRU(gate_blocks=3), "model.gate_blocks", "3 blocks do not divide the state's width 128; allowed: 1, 2, 4"),
        (RGLRU(block="cell", d_hidden=64), "model.d_hidden", "64: block cell has a state as wide as d_model 128"),
        (MinLSTM(blocks=("attention",)), "model.blocks", "no block is recurrent"),
        (MinLSTM(blocks=("recurrent", "attention"), block="cell"), "model.blocks", "block cell has no attention"),
        (MinLSTM(blocks=("recurrent", "attention"), n_layers=1), "model.blocks", "2 blocks, but n_layers is 1"),
        (MinLSTM(d_model=24, blocks=("recurrent", "attention")), "model.n_heads", "4 heads of a width that is a"),
        (MinLSTM(blocks=("recurrent", "attention"), kv_heads=3), "model.kv_heads", "3 do not divide n_heads 4"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told(model: Any, key: str, message: str) -> None:
    with pytest.raises(Impossible, match=message) as told:
        model.check()
    assert told.value.key == key


def test_blocks_keep_their_proportions_at_another_width() -> None:
    wide = RGLRU(d_model=128, d_hidden=172, d_ff=300).widened(64)
    assert (wide.d_model, wide.d_hidden, wide.d_ff) == (64, 88, 150)
    hybrid = MinGRU(d_model=128, blocks=("recurrent", "attention"), n_heads=3)
    assert (hybrid.grain, MinGRU().grain, RGLRU(gate_blocks=5).grain) == (12, 1, 5)
    assert [MinGRU(d_model=12, block=block).feed_forward_width for block in ("common", "published")] == [32, 48]


def test_keys_of_a_window_are_counted() -> None:
    for context, window in ((9, 3), (4, 6), (5, None), (1, 1)):
        keys = [min(t, window or context) for t in range(1, context + 1)]
        assert mean_keys(context, window) == pytest.approx(np.mean(keys))


@pytest.mark.parametrize("window", [None, 3, 8])
def test_keys_that_a_state_brings_are_counted(window: int | None) -> None:
    family = MinGRU(d_model=16, n_layers=2, blocks=("recurrent", "attention"), n_heads=2, window=window)
    past = (window or 9) - 1
    visible_1xTxS = _visible(8, past, jnp.array([100]), window, None)
    assert family.extra_flops(8, streams=True) == pytest.approx(4 * 16 * visible_1xTxS.sum() / 8)
    assert family.extra_flops(8) < family.extra_flops(8, streams=True)
