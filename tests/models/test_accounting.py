"""Counts against the real trees and closed formulas; FLOPs against the traced program and XLA's own analysis."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from variants import recurrent

from seqjax.families import (
    GRU,
    LSTM,
    MLSTM,
    RGLRU,
    GatedDeltaNet,
    Mamba2,
    MinGRU,
    MinLSTM,
    Recurrent,
    Transformer,
    Window,
)
from seqjax.families.matrix_state import MatrixState
from seqjax.models import build_model, count_parameters, flops_per_token, group_of
from seqjax.models.accounting import GROUPS, state_size

V, T = 29, 16
RECURRENT = [
    recurrent(family, 12, d_hidden, n_layers, bias, tied_embeddings=tied, reset=reset)
    for family, reset in (("elman", "after"), ("lstm", "after"), ("gru", "after"), ("gru", "before"))
    for d_hidden, tied, bias, n_layers in ((None, False, True, 3), (20, False, False, 3), (None, True, True, 1))
] + [recurrent("lstm", 12, 20, 3, residual=True, norm="rmsnorm", bias=False)]
TRANSFORMERS = [
    Transformer(d_model=12, n_heads=2, n_layers=2, norm=norm, positions=positions, mlp=mlp, bias=bias)
    for norm, positions, mlp, bias in (
        ("layernorm", "learned", "gelu", True),
        ("rmsnorm", "rotary", "swiglu", False),
        ("none", "none", "swiglu", True),
        ("layernorm", "rotary", "none", False),
        ("none", "learned", "gelu", False),
    )
] + [
    Transformer(d_model=12, n_heads=1, n_layers=0),
    Transformer(d_model=12, n_heads=3, n_layers=5, attention=False),
    Transformer(d_model=12, n_heads=3, n_layers=2, attention=False, mlp="none"),
    Transformer(d_model=12, n_heads=3, n_layers=2, d_ff=7, tied_embeddings=True),
    Transformer(d_model=12, n_heads=3, n_layers=2, kv_heads=1),
    Transformer(d_model=12, n_heads=3, n_layers=2, qk_norm=True, initial="fan_in", zero_output=True),
]
WINDOWS = [
    Window(d_model=6, window=3, d_ff=10, n_layers=n_layers, bias=bias) for n_layers in (1, 3) for bias in (True, False)
] + [Window(d_model=6, window=1, d_ff=6, tied_embeddings=True)]
STACKED = [
    MinGRU(d_model=12, n_layers=2),
    MinLSTM(d_model=12, n_layers=1, d_hidden=20, block="published", tied_embeddings=True),
    RGLRU(d_model=12, n_layers=3, d_hidden=16, block="published"),
    RGLRU(d_model=12, n_layers=2, block="cell"),
    RGLRU(d_model=12, n_layers=4, blocks=("recurrent", "recurrent", "attention"), n_heads=3, kv_heads=1),
]
MATRIX = [
    Mamba2(d_model=12, n_layers=2, n_heads=3, d_state=5),
    MLSTM(d_model=12, n_layers=1, n_heads=3, block="published"),
    GatedDeltaNet(d_model=12, n_layers=2, n_heads=3, block="cell"),
]
ALL = RECURRENT + TRANSFORMERS + WINDOWS + STACKED + MATRIX


def shapes(config):
    model = build_model(config, V, T)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def test_groups_sum_to_the_tree():
    for config in ALL:
        counts = count_parameters(config, V, T)
        assert sum(counts[group] for group in GROUPS) == counts["total"], config
        assert counts["total"] == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(config))), config
        assert set(counts) == {*GROUPS, "total", "non_embedding", "with_readout"}


def test_closed_formulas_of_recurrent_models():
    """4 (D h + h^2) for the LSTM's first layer and 8 h^2 for the others; 3/4 of that for the GRU, 1/4 for Elman."""
    gates = {"elman": 1, "lstm": 4, "gru": 3}
    for config in RECURRENT:
        counts, d, n_layers = count_parameters(config, V, T), config.d_model, config.n_layers
        h, n = config.d_hidden or d, gates[config.family]
        assert counts["non_embedding"] == counts["matrices"] == n * (d * h + h * h) + (n_layers - 1) * n * 2 * h * h
        extra = h if config.family == "gru" and config.reset == "after" else 0
        gains = h * (n_layers - 1) if config.norm == "rmsnorm" else 0
        assert counts["vectors"] == gains + (n_layers * (n * h + extra) if config.bias else 0)
        assert counts["embedding"] == V * d
        assert counts["readout"] == (0 if config.tied_embeddings else V * h)
        assert counts["readout_bias"] == (V if config.bias else 0)
        assert counts["positional"] == 0
        assert counts["with_readout"] == counts["matrices"] + V * h


def test_closed_formulas_of_windows():
    for config in WINDOWS:
        counts, d, f = count_parameters(config, V, T), config.d_model, config.d_ff
        assert counts["matrices"] == config.window * d * f + (config.n_layers - 1) * f * f
        assert counts["vectors"] == (config.n_layers * f if config.bias else 0)
        assert counts["with_readout"] == counts["matrices"] + V * f


def test_closed_formulas_of_residual_blocks():
    """The counts of the notes on each family: weights and, where a block is the published one, its biases."""
    d, swiglu = 12, 3 * 12 * 32
    found = [count_parameters(config, V, T) for config in STACKED]
    assert found[0]["matrices"] == 2 * (2 * d * d + swiglu) and found[0]["vectors"] == 2 * 2 * d + d
    assert found[1]["matrices"] == 3 * d * 20 + 20 * d + 8 * d * d
    assert found[1]["vectors"] == 3 * 20 + 5 * d + 2 * d + d
    r = 16
    hawk = 2 * d * r + 2 * r + 5 * r + 2 * (r * r // 4 + r) + r + r * d + d + 9 * d * d + 7 * d
    assert found[2]["matrices"] + found[2]["vectors"] == 3 * (hawk + 2 * d) + d
    assert (found[3]["matrices"], found[3]["vectors"]) == (2 * 2 * d * d // 4, 2 * d)
    assert state_size(STACKED[2], T) == state_size(STACKED[2], 2 * T) == 3 * (4 * r + 1)
    transformer = Transformer(d_model=d, n_layers=2, n_heads=2)
    assert state_size(transformer, 2 * T) == 2 * state_size(transformer, T) == 2 * 2 * 2 * T * d


def test_closed_formulas_of_transformers():
    d = 128
    counts = count_parameters(Transformer(d_model=d, n_layers=4), V, T)
    assert counts["non_embedding"] == 12 * 4 * d * d
    assert counts["vectors"] == 4 * ((3 * d + d) + (4 * d + d) + 4 * d) + 2 * d
    assert (counts["embedding"], counts["positional"], counts["readout"]) == (V * d, T * d, V * d)
    assert counts["readout_bias"] == 0
    tied = count_parameters(Transformer(d_model=d, tied_embeddings=True), V, T)
    assert tied["total"] == counts["total"] - V * d and tied["with_readout"] == counts["with_readout"]
    swiglu = count_parameters(Transformer(d_model=96, n_layers=1, mlp="swiglu"), V, T)
    assert swiglu["non_embedding"] == 4 * 96**2 + 3 * 96 * 256 == 12 * 96**2
    # Kaplan et al. 2020, table 1 and section 2.1: 2 d n_layer (2 d_attn + d_ff)
    gpt2 = count_parameters(Transformer(d_model=768, n_layers=12, n_heads=12, tied_embeddings=True), 50257, 1024)
    assert gpt2["non_embedding"] == 2 * 768 * 12 * (2 * 768 + 3072) == 84_934_656
    assert gpt2["total"] == 124_439_808  # GPT-2 small as published


def test_group_of():
    for path in (("layers", "W_x"), ("layers", "attention", "W_o"), ("first", "W")):
        assert group_of(path) == "matrices"
    for path in (("layers", "b_hn"), ("final_norm", "gain"), ("first", "b")):
        assert group_of(path) == "vectors"
    assert group_of(("positions",)) == "positional"
    assert group_of(("readout_bias",)) == "readout_bias"
    assert group_of((jax.tree_util.DictKey("embedding"),)) == "embedding"


def matmul_flops(jaxpr) -> int:
    """2 M N K of every matmul in a traced program, times the turns of the loops around it."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += turns * matmul_flops(inner)
    return total


def plain(config):
    """The config in the form that computes everything by plain products: no tables of inputs, no compiled functions."""
    if isinstance(config, Recurrent):
        return replace(config, recurrence="scan")
    if isinstance(config, MatrixState):
        return replace(config, recurrence="steps")
    return replace(config, attention_kernel="whole") if isinstance(config, Transformer) else config


def traced_flops(config, n_tokens, batch=2):
    """Matmul FLOPs per token of the plain program: forward, and forward with backward."""
    config = plain(config)
    model, params = build_model(config, V, T), shapes(config)
    tokens = jax.ShapeDtypeStruct((batch, n_tokens), jnp.int32)

    def loss(params, tokens):
        return jnp.sum(model.apply({"params": params}, tokens)[0] ** 2)

    return [
        matmul_flops(jax.make_jaxpr(f)(params, tokens).jaxpr) / (batch * n_tokens)
        for f in (loss, jax.value_and_grad(loss))
    ]


@pytest.mark.parametrize(
    "configs",
    [RECURRENT, TRANSFORMERS, WINDOWS, STACKED, MATRIX],
    ids=["recurrent", "transformers", "windows", "stacked", "matrix"],
)
def test_flops_are_the_traced_programs(configs):
    """Exact at T = 1. At T = 16 the program computes all T keys of each query, of which (T + 1) / 2 are visible."""
    for config in configs:
        attends = not config.recurrent or "attention" in getattr(config, "blocks", ())
        for n_tokens in (1, T) if attends else (T,):
            flops = flops_per_token(config, V, n_tokens)
            masked = attends * flops["attention"] * (2 * n_tokens / (n_tokens + 1) - 1)
            traced = traced_flops(config, n_tokens)
            assert traced == [flops["forward"] + masked, flops["training"] + 3 * masked], (config, n_tokens)


@pytest.mark.parametrize(
    "config",
    [
        LSTM(128, n_layers=1),
        GRU(128, 160, n_layers=1),
        Transformer(d_model=128, n_layers=1, n_heads=2),
        Window(d_model=64, window=4, d_ff=128),
    ],
    ids=lambda config: config.family,
)
def test_flops_are_xlas(config):
    """XLA counts a loop's body once, so one layer and one token; it adds the elementwise work, a few percent."""
    batch = 64
    model = build_model(plain(config), 256, 1)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    forward = jax.jit(lambda params, tokens: model.apply({"params": params}, tokens)[0])
    analysis = forward.lower(params, jax.ShapeDtypeStruct((batch, 1), jnp.int32)).cost_analysis()
    ratio = analysis["flops"] / batch / flops_per_token(config, 256, 1)["forward"]
    assert 1.0 <= ratio < 1.05


def test_kaplans_formula():
    """Forward without readout is 2 N + 2 L T d_attn (Kaplan et al. 2020, table 1) plus 2 L d_attn: T + 1, not T."""
    config = Transformer(d_model=768, n_layers=12, n_heads=12)
    flops = flops_per_token(config, 50257, 1024)
    n = 12 * 12 * 768**2
    assert flops["kaplan_6n"] == 6 * n
    assert flops["forward"] - flops["readout"] - 2 * 12 * 768 == 2 * n + 2 * 12 * 1024 * 768
    assert flops["readout"] == 2 * 768 * 50257
    assert flops["training"] == 3 * flops["forward"]


def test_flops_of_large_models_do_not_overflow():
    flops = flops_per_token(Transformer(d_model=65536, n_layers=512, n_heads=128), 262144, 2**20)
    assert flops["kaplan_6n"] == 6.0 * 12 * 512 * 65536**2
    assert flops == flops_per_token(replace(Transformer(d_model=65536, n_layers=512), n_heads=1), 262144, 2**20)
