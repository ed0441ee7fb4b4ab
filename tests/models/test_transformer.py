"""The Transformer against torch's, and the parts that can be left out."""

from __future__ import annotations

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import slow

from seqjax.errors import UserError
from seqjax.families import Transformer
from seqjax.layers.feed_forward import feed_forward
from seqjax.layers.norms import NORM_EPSILON, normalize
from seqjax.models import build_model

B, T, D, V = 2, 6, 8, 13


def make(config, dtype="float32", scale=0.3):
    """The model and parameters with random values everywhere: no zero bias and no unit gain hides a mistake."""
    model = build_model(config, V, T, dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), dtype), shapes)


@pytest.mark.parametrize(
    "activation, n_layers, norm_position", [("gelu", 1, "before"), slow("relu", 5, "before"), ("relu", 2, "after")]
)
def test_torch_encoder_layers_agree(activation, n_layers, norm_position):
    """Embedding, blocks with the norm on either side, final norm, readout: logits and every gradient, in float64."""
    torch = pytest.importorskip("torch")
    first = norm_position == "before"
    config = Transformer(d_model=D, n_layers=n_layers, n_heads=2, d_ff=20, mlp=activation, norm_position=norm_position)
    tokens = np.random.default_rng(0).integers(0, V, (B, T))
    weights = np.random.default_rng(1).standard_normal((B, T, V))
    with jax.enable_x64(True):
        model, params = make(config, "float64")

        def forward(params):
            return model.apply({"params": params}, jnp.asarray(tokens))[0]

        logits, pullback = jax.vjp(jax.jit(forward), params)
        (grads,) = pullback(jnp.asarray(weights))
    params, grads = jax.tree.map(np.asarray, (params, grads))

    def gelu(x):
        return torch.nn.functional.gelu(x, approximate="tanh")

    layer = torch.nn.TransformerEncoderLayer(
        D, 2, 20, 0.0, gelu if activation == "gelu" else "relu", NORM_EPSILON, True, first, dtype=torch.float64
    )
    blocks = torch.nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)

    def rows(leaf):  # ours D x 3 x N x K, torch's 3 N K x D
        return leaf.reshape(D, 3 * D).T

    def torch_names(layer):
        attention, mlp = layer["attention"], layer["mlp"]
        return {
            "self_attn.in_proj_weight": rows(attention["W_qkv"]),
            "self_attn.in_proj_bias": attention["b_qkv"].reshape(-1),
            "self_attn.out_proj.weight": attention["W_o"].reshape(D, D).T,
            "self_attn.out_proj.bias": attention["b_o"],
            "linear1.weight": mlp["W_in"].T,
            "linear1.bias": mlp["b_in"],
            "linear2.weight": mlp["W_out"].T,
            "linear2.bias": mlp["b_out"],
            "norm1.weight": layer["attention_norm"]["gain"],
            "norm1.bias": layer["attention_norm"]["bias"],
            "norm2.weight": layer["mlp_norm"]["gain"],
            "norm2.bias": layer["mlp_norm"]["bias"],
        }

    def one(tree, i):
        return jax.tree.map(lambda leaf: leaf[i], tree["layers"])

    outer = {name: torch.tensor(params[name], requires_grad=True) for name in ("embedding", "positions", "readout")}
    assert ("final_norm" in params) == first
    if first:
        outer |= {name: torch.tensor(params["final_norm"][name], requires_grad=True) for name in ("gain", "bias")}
    with torch.no_grad():
        for i, block in enumerate(blocks.layers):
            for name, value in torch_names(one(params, i)).items():
                block.get_parameter(name).copy_(torch.tensor(value))
    x = outer["embedding"][torch.tensor(tokens)] + outer["positions"]
    x = blocks(x, mask=torch.nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64))
    if first:
        x = torch.nn.functional.layer_norm(x, (D,), outer["gain"], outer["bias"], NORM_EPSILON)
    want = x @ outer["readout"]
    (want * torch.tensor(weights)).sum().backward()

    def close(got, tensor):
        np.testing.assert_allclose(got, tensor.detach().numpy(), rtol=1e-8, atol=1e-9)

    close(logits, want)
    for name, tensor in outer.items():
        close(grads[name] if name in grads else grads["final_norm"][name], tensor.grad)
    for i, block in enumerate(blocks.layers):
        for name, value in torch_names(one(grads, i)).items():
            close(value, block.get_parameter(name).grad)


def test_norms_are_their_equations():
    x = np.random.default_rng(0).standard_normal((B, T, D)) * 3 + 1
    gain, bias = np.random.default_rng(1).standard_normal((2, D))
    layer = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain
    rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain
    x32, gain, b = jnp.asarray(x, jnp.float32), jnp.asarray(gain, jnp.float32), jnp.asarray(bias, jnp.float32)
    for kind, params, want in (
        ("layernorm", {"gain": gain, "bias": b}, layer + bias),
        ("layernorm", {"gain": gain}, layer),
        ("rmsnorm", {"gain": gain}, rms),
    ):
        np.testing.assert_allclose(normalize(kind, params, x32), want, rtol=1e-4, atol=1e-5)
    assert normalize("rmsnorm", {"gain": gain}, x32.astype(jnp.bfloat16)).dtype == jnp.float32


def test_swiglu_is_its_equation():
    rng = np.random.default_rng(0)
    shapes = {"W_in": (D, 5), "W_gate": (D, 5), "W_out": (5, D), "b_in": 5, "b_gate": 5, "b_out": D}
    p = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    x = rng.standard_normal((B, T, D))
    gate = x @ p["W_gate"] + p["b_gate"]
    want = (gate / (1 + np.exp(-gate)) * (x @ p["W_in"] + p["b_in"])) @ p["W_out"] + p["b_out"]
    p32 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), p)
    got = feed_forward("swiglu", p32, jnp.asarray(x, jnp.float32), "float32")
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_feed_forward_width():
    assert Transformer(d_model=96).feed_forward_width == 384
    assert Transformer(d_model=96, d_ff=50).feed_forward_width == 50
    assert [Transformer(d_model=d, mlp="swiglu").feed_forward_width for d in (96, 128, 129)] == [256, 344, 344]


NOTHING = {"d_model": D, "n_heads": 2, "norm": "none", "positions": "none"}


def test_recipe_by_config_alone():
    """Embedding to unembedding; plus MLP; plus attention; plus norm: each step adds its parameters and no other."""
    steps = [
        NOTHING | {"n_layers": 0},
        NOTHING | {"n_layers": 2, "attention": False},
        NOTHING | {"n_layers": 2},
        NOTHING | {"n_layers": 2, "positions": "learned"},
        NOTHING | {"n_layers": 2, "positions": "learned", "norm": "layernorm"},
    ]
    trees = [make(Transformer(**step))[1] for step in steps]
    names = [set(flax.traverse_util.flatten_dict(tree, sep="/")) for tree in trees]
    assert names[0] == {"embedding", "readout"}
    assert names[1] - names[0] == {f"layers/mlp/{leaf}" for leaf in ("W_in", "W_out", "b_in", "b_out")}
    assert names[2] - names[1] == {f"layers/attention/{leaf}" for leaf in ("W_qkv", "W_o", "b_qkv", "b_o")}
    assert names[3] - names[2] == {"positions"}
    assert {name.split("/")[-2] for name in names[4] - names[3]} == {"attention_norm", "mlp_norm", "final_norm"}


def test_no_layers_is_a_table_of_bigrams():
    model, params = make(Transformer(**NOTHING, n_layers=0))
    tokens = jnp.arange(V - 1)[None, :T]
    logits, state = jax.jit(model.apply)({"params": params}, tokens)
    assert state is None
    np.testing.assert_allclose(logits[0], (params["embedding"] @ params["readout"])[tokens[0]], rtol=1e-5, atol=1e-7)


def test_residual_can_be_left_out():
    """With W_out and b_out zero a residual block passes its input on; a plain one gives zero."""
    for residual in (True, False):
        config = Transformer(**NOTHING, n_layers=1, attention=False, residual=residual, tied_embeddings=True)
        model, params = make(config)
        mlp = params["layers"]["mlp"]
        mlp |= {name: jnp.zeros_like(mlp[name]) for name in ("W_out", "b_out")}
        tokens = jnp.zeros((1, 2), jnp.int32)
        logits, _ = jax.jit(model.apply)({"params": params}, tokens)
        want = params["embedding"] @ params["embedding"][0] if residual else jnp.zeros(V)
        np.testing.assert_allclose(logits[0, 0], want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"attention": False}, slow({"mlp": "none"}), slow({"attention": False, "mlp": "none"})]
)
def test_missing_sublayers(options):
    """What is left out has no parameters, and without attention a token sees only itself."""
    config = Transformer(d_model=D, n_heads=2, n_layers=2, positions="none", **options)
    model, params = make(config)
    layers = params.get("layers", {})
    assert ("attention" in layers) == config.attention
    assert ("mlp" in layers) == (config.mlp != "none")
    logits = jax.jit(model.apply)({"params": params}, jnp.array([[3, 4, 5], [7, 8, 5]]))[0]
    assert np.allclose(logits[0, 2], logits[1, 2], atol=1e-6) != config.attention


def test_one_head_or_many_have_equal_parameters():
    trees = [make(Transformer(d_model=D, n_heads=n))[1] for n in (1, 2, 8)]
    assert len({sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees}) == 1


def test_initial_values_are_gpt2s():
    model = build_model(Transformer(d_model=64, n_layers=8), V, 200)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    layers = params["layers"]
    for leaf, std in (
        (params["embedding"], 0.02),
        (params["positions"], 0.01),
        (params["readout"], 0.02),
        (layers["attention"]["W_qkv"], 0.02),
        (layers["attention"]["W_o"], 0.02 / 4),
        (layers["mlp"]["W_in"], 0.02),
        (layers["mlp"]["W_out"], 0.02 / 4),
    ):
        assert np.std(leaf) == pytest.approx(std, rel=0.1)
    assert np.abs(layers["mlp"]["W_in"][0] - layers["mlp"]["W_in"][1]).max() > 0.01, "layers start equal"
    assert (layers["mlp_norm"]["gain"] == 1).all() and not layers["attention"]["b_qkv"].any()


def test_initial_values_with_the_norm_after_keep_the_size_of_their_input():
    model = build_model(Transformer(d_model=64, n_layers=8, d_ff=256, norm_position="after"), V, 200)
    layers = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]["layers"]
    for leaf, inputs in (
        (layers["attention"]["W_qkv"], 64),
        (layers["attention"]["W_o"], 64),
        (layers["mlp"]["W_in"], 64),
        (layers["mlp"]["W_out"], 256),
    ):
        assert np.std(leaf) == pytest.approx(inputs**-0.5, rel=0.1)


def test_too_many_tokens_for_learned_positions():
    model, params = make(Transformer(d_model=D, n_heads=2))
    with pytest.raises(UserError, match="a sequence of 7 elements, but the model has learned 6 positions"):
        model.apply({"params": params}, jnp.zeros((1, T + 1), jnp.int32))
