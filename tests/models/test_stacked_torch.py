"""Families made of residual blocks against the code of others, with copied weights: outputs and gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.families import RGLRU, MinGRU, MinLSTM
from seqjax.layers import norms

pytestmark = pytest.mark.slow
B, T, D, V = 2, 11, 16, 13
Tree = Any


def ours(family: Any, weights: Tree, x_BxTxD: np.ndarray, g_BxTxD: np.ndarray, dtype: str) -> tuple[Any, Tree, Any]:
    """Outputs; gradients of sum(g * outputs) by the parameters and by x."""

    def value(params: Tree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h_BxTxD = family.run(params, x, dtype=dtype).h_BxTxH
        return (g_BxTxD * h_BxTxD).sum(), h_BxTxD

    with jax.enable_x64(True):
        arguments = jax.tree.map(lambda w: jnp.asarray(w, dtype), (weights, x_BxTxD))
        (d_params, d_x), h_BxTxD = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(*arguments)
    return h_BxTxD, d_params, d_x


def theirs(module: Any, h: Any, x: Any, g_BxTxD: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """As `ours`, by the names of torch."""
    import torch

    (torch.from_numpy(g_BxTxD).to(h.dtype) * h).sum().backward()
    found = {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}
    return h.detach().numpy(), x.grad.numpy(), found


def drawn(module: Any) -> dict[str, np.ndarray]:
    """Weights of a torch module, redrawn so that every part matters, as numpy arrays."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.4 * torch.randn(p.shape, dtype=torch.float64).to(p.dtype))
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}


def close(got: Tree, want: Tree, tolerance: float) -> None:
    """Equal leaf by leaf, relative to the largest entry of each."""

    def one(path: Any, a: Any, b: Any) -> None:
        error = np.abs(np.asarray(a) - b).max() / np.abs(b).max()
        assert error < tolerance, (jax.tree_util.keystr(path), error)

    jax.tree_util.tree_map_with_path(one, got, want)


def data(dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((B, T, D)).astype(dtype), rng.standard_normal((B, T, D))


def mingru_weights(found: dict[str, np.ndarray], prefix: str, n_gates: int) -> Tree:
    """Theirs has the candidate first, then the gates; ours the gates first."""
    name = next(name for name in found if name.startswith(f"{prefix}to_hidden"))
    candidate, *gates = np.split(found[name].T, n_gates, axis=1)
    return {"W_gates": np.stack([*gates, candidate], axis=1), "W_o": found[f"{prefix}to_out.weight"].T}


@pytest.mark.parametrize("family", ["mingru", "minlstm"])
def test_minimal_recurrent_networks_are_minGRU_pytorchs(family: str) -> None:
    torch, pytorch = pytest.importorskip("torch"), pytest.importorskip("minGRU_pytorch")
    kind, module, n_gates = {
        "mingru": (MinGRU, pytorch.minGRU, 2),
        "minlstm": (MinLSTM, pytest.importorskip("minGRU_pytorch.minLSTM").minLSTM, 3),
    }[family]
    oracle = module(D, expansion_factor=1.5).double()
    weights = drawn(oracle)
    x_BxTxD, g_BxTxD = data()
    x = torch.tensor(x_BxTxD, requires_grad=True)
    h, d_x, d_theirs = theirs(oracle, oracle(x), x, g_BxTxD)
    model = kind(d_model=D, d_hidden=24, n_layers=1, block="cell")
    params = {"layers": {"mixer": jax.tree.map(lambda w: w[None], mingru_weights(weights, "", n_gates))}}
    got, d_params, d_inputs = ours(model, params, x_BxTxD, g_BxTxD, "float64")
    want = {"layers": {"mixer": jax.tree.map(lambda w: w[None], mingru_weights(d_theirs, "", n_gates))}}
    close((got, d_params, d_inputs), (h, want, d_x), 1e-10)


def set_epsilon(monkeypatch: pytest.MonkeyPatch, epsilon: float) -> None:
    """Let the norms of these families, which take the package's own epsilon, take that of an author's code."""
    for function in (norms.normalize, norms.branch):
        monkeypatch.setattr(function, "__defaults__", (epsilon,))


def test_the_published_block_is_that_of_their_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks with norms and MLP. Their gates have no biases, and their GELU is made the tanh form here."""
    torch, minlm = pytest.importorskip("torch"), pytest.importorskip("minGRU_pytorch.minLM")
    set_epsilon(monkeypatch, float(np.finfo(np.float64).eps))
    oracle = minlm.minLM(num_tokens=V, dim=D, depth=2).double()
    weights = drawn(oracle)
    for layer in oracle.layers:
        layer[4][1] = torch.nn.GELU("tanh")
    oracle.token_emb, oracle.to_logits = torch.nn.Identity(), torch.nn.Identity()
    x_BxTxD, g_BxTxD = data()
    x = torch.tensor(x_BxTxD, requires_grad=True)
    h, d_x, d_theirs = theirs(oracle, oracle(x), x, g_BxTxD)

    def mapped(found: dict[str, np.ndarray]) -> Tree:
        def block(i: int) -> Tree:
            at = f"layers.{i}."
            mlp = {"W_in": found[f"{at}4.0.weight"].T, "b_in": found[f"{at}4.0.bias"],
                   "W_out": found[f"{at}4.2.weight"].T, "b_out": found[f"{at}4.2.bias"]}  # fmt: skip
            return {"mixer_norm": {"gain": found[f"{at}1.weight"]}, "mixer": mingru_weights(found, f"{at}2.", 2),
                    "mlp_norm": {"gain": found[f"{at}3.weight"]}, "mlp": mlp}  # fmt: skip

        layers = jax.tree.map(lambda *leaves: np.stack(leaves), block(0), block(1))
        return {"layers": layers, "final_norm": {"gain": found["norm.weight"]}}

    model = MinGRU(d_model=D, d_hidden=24, n_layers=2, block="published")
    assert model.feed_forward_width == 4 * D and model.has_bias
    got, d_params, d_inputs = ours(model, mapped(weights), x_BxTxD, g_BxTxD, "float64")
    close((got, d_params, d_inputs), (h, mapped(d_theirs), d_x), 1e-10)


def griffin_weights(found: dict[str, np.ndarray], kinds: tuple[str, ...], gains: float) -> Tree:
    """RecurrentGemma's parameters, or gradients; their gains are stored less 1."""

    def norm(name: str) -> Tree:
        return {"gain": gains + found[f"{name}.weight"]}

    def both(at: str, *names: str) -> np.ndarray:
        return np.stack([found[f"{at}.{name}"] for name in names])

    def recurrent(at: str) -> Tree:
        gates = [f"rg_lru.{name}_gate" for name in ("recurrent", "input")]
        return {
            "W_in": both(at, "linear_x.weight", "linear_y.weight").transpose(2, 0, 1),
            "b_in": both(at, "linear_x.bias", "linear_y.bias"),
            "conv": {"kernel": found[f"{at}.conv_1d.weight"][:, 0].T, "b": found[f"{at}.conv_1d.bias"]},
            "W_blocks": both(at, *(f"{name}_weight" for name in gates)),
            "b_blocks": both(at, *(f"{name}_bias" for name in gates)).reshape(2, -1),
            "Lambda": found[f"{at}.rg_lru.recurrent_param"],
            "W_o": found[f"{at}.linear_out.weight"].T,
            "b_o": found[f"{at}.linear_out.bias"],
        }

    def attention(at: str) -> Tree:
        heads = lambda name, n: found[f"{at}.{name}.weight"].T.reshape(D, n, -1)  # noqa: E731
        return {
            "W_q": heads("q_proj", 2),
            "W_kv": np.stack([heads("k_proj", 1), heads("v_proj", 1)], axis=1),
            "W_o": found[f"{at}.o_proj.weight"].T.reshape(2, -1, D),
            "b_o": found[f"{at}.o_proj.bias"],
        }

    def block(i: int, kind: str) -> Tree:
        at = f"layers.{i}"
        mlp = {f"{w}_{ours}": found[f"{at}.mlp_block.{theirs}_proj.{long}"].T
               for ours, theirs in (("gate", "gate"), ("in", "up"), ("out", "down"))
               for w, long in (("W", "weight"), ("b", "bias"))}  # fmt: skip
        mixer = (recurrent if kind == "recurrent" else attention)(f"{at}.temporal_block")
        return {"mixer_norm": norm(f"{at}.temporal_pre_norm"), "mixer": mixer,
                "mlp_norm": norm(f"{at}.channel_pre_norm"), "mlp": mlp}  # fmt: skip

    blocks = [(kind, block(i, kind)) for i, kind in enumerate(kinds)]
    layers = {
        kind: jax.tree.map(lambda *leaves: np.stack(leaves), *(tree for own, tree in blocks if own == kind))
        for kind in dict.fromkeys(kinds)
    }
    return {"layers": layers if len(layers) > 1 else layers["recurrent"], "final_norm": norm("final_norm")}


@pytest.mark.parametrize("pattern", [("recurrent",), ("recurrent", "recurrent", "attention")], ids=["hawk", "griffin"])
def test_hawk_and_griffin_are_recurrent_gemma(pattern: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four blocks, a window of 5, one head of keys. Their recurrence is in float32, so all is."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    set_epsilon(monkeypatch, 1e-6)
    config = transformers.RecurrentGemmaConfig(
        num_hidden_layers=4, vocab_size=V, hidden_size=D, intermediate_size=6 * D, num_attention_heads=2,
        num_key_value_heads=1, lru_width=D, attention_window_size=5, block_types=pattern, pad_token_id=None,
        attn_implementation="eager",
    )  # fmt: skip
    oracle = transformers.RecurrentGemmaModel(config)
    weights = drawn(oracle)
    x_BxTxD, g_BxTxD = data(np.float32)
    x = torch.tensor(x_BxTxD, requires_grad=True)
    out = oracle(inputs_embeds=x / float(oracle.normalizer), use_cache=False).last_hidden_state
    h, d_x, d_theirs = theirs(oracle, out, x, g_BxTxD)
    model = RGLRU(
        d_model=D, n_layers=4, gate_blocks=2, block="published", blocks=pattern, n_heads=2, kv_heads=1, window=5
    )
    model.check()
    kinds = tuple(pattern[i % len(pattern)] for i in range(4))
    got, d_params, d_inputs = ours(model, griffin_weights(weights, kinds, 1.0), x_BxTxD, g_BxTxD, "float32")
    close((got, d_params, d_inputs), (h, griffin_weights(d_theirs, kinds, 0.0), d_x), 1e-5)
