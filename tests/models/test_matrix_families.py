"""Families with a matrix for a state, and the sLSTM: carried states, counts, initial values, authors' torch code."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick

from seqjax.families import FAMILIES
from seqjax.families.family import Watch
from seqjax.models.accounting import count_parameters, flops_per_token, state_size

B, T, D = 2, 7, 8
SMALL = {
    "mamba2": {"d_state": 3, "n_heads": 2},
    "mlstm": {"n_heads": 2},
    "gated_deltanet": {"n_heads": 2},
    "slstm": {"n_heads": 2},
    "retention": {"n_heads": 2},
}


def family_of(name, **fields):
    return FAMILIES[name](**{"d_model": D, "n_layers": 2, "block": "published", **SMALL[name], **fields})


def random_like(tree, seed=0, scale=0.3):
    """Every entry away from its initial value, float32."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32), tree)


def random_params(family):
    return random_like(jax.eval_shape(lambda key: {n: f(key) for n, f in family.init(T).items()}, jax.random.key(0)))


@pytest.mark.parametrize("name", quick(SMALL, "mlstm"))
def test_a_carried_state_is_the_full_pass(name):
    """Token by token, with padding in one row; the state after has no padding in it."""
    family = family_of(name)
    params, x_BxTxD = random_params(family), random_like(np.zeros((B, 4, D)), 1, scale=1.0)
    mask = jnp.asarray(np.arange(4) < np.array([[4], [2]]))
    run = jax.jit(lambda x, state, mask: family.run(params, x, state, mask_BxT=mask)[:2])
    whole, last = run(x_BxTxD, family.zero_state(B), mask)
    state = family.zero_state(B)
    for t in range(4):
        h_Bx1xD, state = run(x_BxTxD[:, t : t + 1], state, mask[:, t : t + 1])
        np.testing.assert_allclose(h_Bx1xD[0, 0], whole[0, t], rtol=1e-4, atol=1e-5)
        if t == 1:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:, 1], b[:, 1], rtol=1e-5, atol=1e-6), state, last)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state, last)


def test_counts_are_the_published_ones():
    """Of all parameters of a mixer, of matrices, of FLOPs beyond them, and of the state: the formulas of the papers."""
    E, K, N = 2 * D, 3, 2
    mamba2 = D * (2 * E + 2 * K + N) + E * D
    mlstm = 2 * D * E + 12 * E + 6 * E * N + E * D
    keys, values = 6, 12  # 3 D / 4 and 3 D / 2
    delta = D * (2 * keys + 2 * values + 2 * N) + values * D
    want = {
        "mamba2": (mamba2, 5 * (E + 2 * K) + 3 * N + E, 4 * E * K, E * K + 3 * (E + 2 * K)),
        "mlstm": (mlstm, 5 * E + 2 * E + 2 * N, 4 * E * E // N + 2 * E, E * E // N + E + N + 3 * E),
        "slstm": (8 * D * D // N, 4 * D + 5 * D + D, 0, 4 * D + 3 * D),
        "retention": (8 * D * D, 0, 4 * 2 * D * D // N, 2 * D * D // N + 1),
        "gated_deltanet": (delta, 5 * (2 * keys + values) + 2 * N + values // N, 6 * keys * values // N,
                           keys * values // N + 3 * (2 * keys + values)),
    }  # fmt: skip
    for name, (matrices, vectors, flops, state) in want.items():
        family = family_of(name, mlp="none", n_layers=1, bias=True)
        counts = count_parameters(family, 5, T)
        assert (counts["matrices"], counts["vectors"]) == (matrices, vectors + 2 * D), name  # two norms
        assert flops_per_token(family, 5, T)["attention"] == flops, name
        assert state_size(family, T) == state, name


@pytest.mark.parametrize("name", ["mamba2", "mlstm", "slstm", "gated_deltanet"])
def test_gates_at_the_start_are_those_published(name):
    params = jax.jit(family_of(name, d_model=64, n_heads=32).init_mixer)(jax.random.key(0))
    if name == "slstm":
        b_4xNxK = np.asarray(params["b"]).reshape(4, 32, 2)
        np.testing.assert_allclose(b_4xNxK[1], np.tile([5.0, -7.0], (32, 1)))
        assert not b_4xNxK[[0, 2, 3]].any() and not params["W_h"].any()
        return
    if name == "mlstm":
        i_N, f_N = np.split(np.asarray(params["b_if"]), 2)
        np.testing.assert_allclose(f_N[[0, -1]], [3, 6])
        assert 0.05 < np.std(i_N) < 0.2 and not params["W_if"].any()
        return
    A_N, step_size_N = np.exp(params["A_log"]), np.logaddexp(0, params["dt_bias"])
    assert (A_N > (1 if name == "mamba2" else 0)).all() and A_N.max() < 16 and A_N.std() > 3
    assert (step_size_N > 0.9e-3).all() and (step_size_N < 0.11).all() and np.log(step_size_N).std() > 1


def test_negative_eigenvalues_double_the_strength_of_writes():
    def strength(negative):
        family = family_of("gated_deltanet", negative_eigenvalues=negative)
        params = random_like(jax.eval_shape(family.init_mixer, jax.random.key(0)))
        return family.mix(params, jnp.ones((1, 1, D)), family.mixer_state(1), None, "float32", Watch())[2]["b"]

    one, two = jax.jit(lambda: (strength(False), strength(True)))()
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert (0 < one).all() and (one < 1).all()


@pytest.mark.parametrize("position", [0, 3_000_000])
def test_retention_is_its_parallel_form(position):
    """Sun et al., equation 5, in complex numbers: sums over all pairs of g^(i - j) (q_i . k_j) v_j."""
    family = family_of("retention")
    x_BxTxD = random_like(np.zeros((B, T, D)), 1, scale=1.0)
    params = random_like(jax.eval_shape(family.init_mixer, jax.random.key(0)))
    state = family.mixer_state(B)
    state["position"] += position
    got, _, _ = jax.jit(lambda p, x: family.mix(p, x, state, None, "float32", None))(params, x_BxTxD)
    W_in, W_out, x = (np.asarray(a, np.float64) for a in (params["W_in"], params["W_out"], x_BxTxD))
    q, k, v, z = (a.reshape(B, T, 2, -1) for a in np.split(x @ W_in, [D, 2 * D, 4 * D], axis=-1))
    turns_TxK = np.exp(1j * np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, 4, 2) / 4))
    q, k = ((a[..., :2] + 1j * a[..., 2:]) * turns_TxK[:, None] for a in (q, k))
    ages, y = np.arange(T)[:, None] - np.arange(T), np.zeros_like(v)
    for n, g in enumerate((1 - 1 / 32, 1 - 1 / 64)):
        D_IxJ = np.where(ages >= 0, g ** np.maximum(ages, 0), 0.0)
        y[:, :, n] = ((q[:, :, n] @ k[:, :, n].conj().swapaxes(1, 2)).real / 2 * D_IxJ) @ v[:, :, n]
    y /= np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + 1e-5)
    want = (y * z / (1 + np.exp(-z))).reshape(B, T, -1) @ W_out
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def torch_mamba2(family):
    pytest.importorskip("transformers")
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=D, state_size=family.d_state, num_heads=family.n_heads, head_dim=family.value_width, expand=2,
        n_groups=1, conv_kernel=4, chunk_size=4, use_bias=False, use_conv_bias=True, num_hidden_layers=1,
    )  # fmt: skip
    names = {
        "W_in": ("in_proj.weight", np.transpose), "W_out": ("out_proj.weight", np.transpose),
        "A_log": ("A_log", None), "dt_bias": ("dt_bias", None), "skip": ("D", None), "gain": ("norm.weight", None),
        "conv/kernel": ("conv1d.weight", lambda w: w.T[:, None]), "conv/b": ("conv1d.bias", None),
    }  # fmt: skip
    return Mamba2Mixer(config, 0), names


def torch_gated_deltanet(family):
    pytest.importorskip("transformers")
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    heads, K, P = family.n_heads, family.key_width, family.value_width
    config = Qwen3NextConfig(
        hidden_size=D, linear_num_value_heads=heads, linear_num_key_heads=heads, linear_key_head_dim=K,
        linear_value_head_dim=P, linear_conv_kernel_dim=4, num_hidden_layers=1, rms_norm_eps=1e-5,
    )  # fmt: skip
    ends = np.cumsum([heads * K, heads * K, heads * P, heads * P, heads, heads])

    def by_head(W, parts):
        """The torch code has q, k, v, z side by side for each head, and so b, a."""
        parts = [part.T.reshape(heads, -1, D) for part in np.split(W, ends[:-1], axis=1)[parts]]
        return np.concatenate(parts, axis=1).reshape(-1, D)

    names = {
        "W_in": [("in_proj_qkvz.weight", lambda W: by_head(W, slice(0, 4))),
                 ("in_proj_ba.weight", lambda W: by_head(W, slice(4, 6)))],
        "W_out": ("out_proj.weight", np.transpose), "A_log": ("A_log", None), "dt_bias": ("dt_bias", None),
        "gain": ("norm.weight", None), "conv/kernel": ("conv1d.weight", lambda w: w.T[:, None]),
    }  # fmt: skip
    return Qwen3NextGatedDeltaNet(config, 0), names


def torch_mlstm(family):
    pytest.importorskip("xlstm")
    from xlstm.blocks.mlstm.layer import mLSTMLayer, mLSTMLayerConfig

    config = mLSTMLayerConfig(
        embedding_dim=D, num_heads=family.n_heads, context_length=T, round_proj_up_to_multiple_of=2
    )
    heads, inner = family.n_heads, family.inner
    halves = lambda start: lambda a: a[..., start : start + heads].T  # noqa: E731
    blocks = lambda which: lambda W: W[which].transpose(0, 2, 1)  # noqa: E731
    names = {
        "W_up": ("proj_up.weight", np.transpose), "W_down": ("proj_down.weight", np.transpose),
        "W_blocks": [(f"{name}_proj.weight", blocks(number)) for number, name in enumerate("qkv")],
        "W_if": [("mlstm_cell.igate.weight", halves(0)), ("mlstm_cell.fgate.weight", halves(heads))],
        "b_if": [("mlstm_cell.igate.bias", halves(0)), ("mlstm_cell.fgate.bias", halves(heads))],
        "skip": ("learnable_skip", None), "gain": ("mlstm_cell.outnorm.weight", lambda gain: gain - 1.0),
        "conv/kernel": ("conv1d.conv.weight", lambda w: w.T[:, None]), "conv/b": ("conv1d.conv.bias", None),
    }  # fmt: skip
    assert inner == config._inner_embedding_dim
    return mLSTMLayer(config), names


def torch_slstm(family):
    pytest.importorskip("xlstm")
    from xlstm.blocks.slstm.layer import sLSTMLayer, sLSTMLayerConfig

    config = sLSTMLayerConfig(embedding_dim=D, num_heads=family.n_heads, backend="vanilla", dtype="float32")
    blocks = lambda which: lambda W: W[which].transpose(0, 2, 1)  # noqa: E731
    gates = enumerate(("fgate", "igate", "zgate", "ogate"))  # the torch code calls its first gate f; it is i
    names = {
        "W_blocks": [(f"{name}.weight", blocks(number)) for number, name in gates],
        "W_h": ("slstm_cell._recurrent_kernel_", lambda W: W.transpose(0, 2, 1)), "b": ("slstm_cell._bias_", None),
        "gain": ("group_norm.weight", lambda gain: gain - 1.0),
        "conv/kernel": ("conv1d.conv.weight", lambda w: w.T[:, None]), "conv/b": ("conv1d.conv.bias", None),
    }  # fmt: skip
    return sLSTMLayer(config), names


ORACLES = {"mamba2": torch_mamba2, "gated_deltanet": torch_gated_deltanet, "mlstm": torch_mlstm, "slstm": torch_slstm}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLES)
def test_mixers_are_the_torch_code(name):
    """The output, and the gradients of a sum of it with respect to the input and every weight, with copied weights."""
    torch = pytest.importorskip("torch")
    family = family_of(name, bias=name != "gated_deltanet")
    scale = 0.8 if name == "slstm" else 0.3  # torch's norm of a head rounds badly where its units are nearly equal
    params = random_like(jax.eval_shape(family.init_mixer, jax.random.key(0)), scale=scale)
    x_BxTxD, weights = random_like(np.zeros((2, B, T, D)), 2, scale=1.0)

    def loss(params, x_BxTxD):
        y_BxTxD, _, _ = family.mix(params, x_BxTxD, family.mixer_state(B), None, "float32", None)
        return (y_BxTxD * weights).sum(), y_BxTxD

    (_, y_BxTxD), (d_params, d_x) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x_BxTxD)

    mixer, names = ORACLES[name](family)
    theirs = dict(mixer.named_parameters())

    def as_theirs(tree, gradient=False):
        """By the names of the torch code; a constant that is added to a weight is not in its gradient."""
        flat = {
            "/".join(key.key for key in path): np.asarray(a) for path, a in jax.tree_util.tree_leaves_with_path(tree)
        }
        assert flat.keys() == names.keys()
        found = {}
        for ours, entry in names.items():
            for their, convert in [entry] if isinstance(entry, tuple) else entry:
                zero = convert(0 * flat[ours]) if gradient and convert else 0.0
                found[their] = (convert(flat[ours]) if convert else flat[ours]) - zero
        assert found.keys() == theirs.keys()
        return found

    with torch.no_grad():
        for their, value in as_theirs(params).items():
            theirs[their].copy_(torch.tensor(np.ascontiguousarray(value)))
    x = torch.tensor(np.asarray(x_BxTxD), requires_grad=True)
    y = mixer.eval()(x)
    (y * torch.tensor(np.asarray(weights))).sum().backward()
    np.testing.assert_allclose(y_BxTxD, y.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_x, x.grad, rtol=1e-5, atol=1e-5)
    for their, value in as_theirs(d_params, gradient=True).items():
        np.testing.assert_allclose(value, theirs[their].grad, rtol=1e-4, atol=1e-5, err_msg=their)
