"""Sizes and horizons: against closed forms, and against a search over all widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from closed_forms import matrices
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.config import ModelConfig
from seqjax.errors import UserError
from seqjax.families import GRU, LSTM, Elman, Transformer, Window
from seqjax.runs import targets
from seqjax.runs.targets import Resolved, model_of_size, resolve, vocabulary_size
from seqjax.runs.tree import Tree, options_tree, overlay, read_tree


def at_width(model: ModelConfig, width: int) -> ModelConfig:
    """The model with its widths in proportion."""
    changes = {"d_model": width}
    for name in ("d_hidden", "d_ff"):
        if getattr(model, name, None) is not None:
            changes[name] = max(1, round(getattr(model, name) * width / model.d_model))
    return type(model)(**{**vars(model), **changes})


MODELS = st.one_of(
    st.builds(
        lambda family, **fields: family(**fields),
        family=st.sampled_from([Elman, LSTM, GRU]),
        d_model=st.integers(1, 300),
        d_hidden=st.none() | st.integers(1, 300),
        n_layers=st.integers(1, 4),
    ),
    st.builds(
        Transformer,
        d_model=st.integers(1, 300),
        d_ff=st.none() | st.integers(1, 300),
        n_layers=st.integers(1, 4),
        n_heads=st.sampled_from([1, 2, 4, 6]),
        mlp=st.sampled_from(["gelu", "swiglu", "none"]),
        positions=st.sampled_from(["learned", "rotary"]),
    ),
    st.builds(Window, d_model=st.integers(1, 300), d_ff=st.integers(1, 300), n_layers=st.integers(1, 3)),
)


@settings(max_examples=60, deadline=None)
@given(MODELS, st.floats(1.5, 5.5))
def test_no_width_is_nearer(model: ModelConfig, exponent: float) -> None:
    target = 10**exponent
    grain = model.n_heads * (2 if model.positions == "rotary" else 1) if isinstance(model, Transformer) else 1
    sizes: dict[int, int] = {}
    while not sizes or sizes[grain * len(sizes)] < target:
        width = grain * (len(sizes) + 1)
        sizes[width] = matrices(at_width(model, width))
    nearest = min(abs(size - target) for size in sizes.values())
    try:
        with mock.patch.object(targets, "non_embedding_parameters", matrices):  # the real count takes its time
            found = model_of_size(model, target, "here")
    except UserError as error:
        assert nearest > 0.1 * target
        named = [width for width in sizes if f"d_model {width} gives {sizes[width]:,}" in str(error)]
        assert any(abs(sizes[width] - target) == nearest for width in named)
        return
    assert nearest <= 0.1 * target
    assert found == at_width(model, found.d_model) and found.d_model % grain == 0
    assert abs(sizes[found.d_model] - target) == nearest


def test_widths_of_round_sizes() -> None:
    def width(model: ModelConfig, target: float) -> int:
        return model_of_size(model, target, "here").d_model

    assert width(LSTM(n_layers=1), 4 * 2 * 50**2) == 50
    assert width(LSTM(n_layers=3), 3 * 4 * 2 * 50**2) == 50
    assert width(Elman(n_layers=1), 2 * 50**2 + 40) == 50
    assert width(Transformer(n_layers=4), 12 * 4 * 128**2) == 128
    assert width(Transformer(n_layers=12, n_heads=12), 84_934_656) == 768  # GPT-2 small


def test_given_widths_keep_their_ratio() -> None:
    lstm = model_of_size(LSTM(d_model=10, d_hidden=30, n_layers=1), 4 * (20 * 60 + 60 * 60), "here")
    assert (lstm.d_model, lstm.d_hidden) == (20, 60)
    transformer = model_of_size(Transformer(d_model=8, d_ff=8, n_layers=2), 2 * 6 * 24**2, "here")
    assert (transformer.d_model, transformer.d_ff) == (24, 24)
    window = model_of_size(Window(d_model=8, d_ff=32, window=4), 4 * 16 * 64, "here")
    assert (window.d_model, window.d_ff) == (16, 64)
    assert model_of_size(GRU(d_model=8), 1e4, "here").d_hidden is None
    assert model_of_size(Transformer(), 1e5, "here").d_ff is None


def test_heads_and_rotary_positions_divide_the_width() -> None:
    plain = Transformer(n_layers=1, n_heads=6)
    assert model_of_size(plain, 12 * 65**2, "here").d_model == 66
    assert model_of_size(plain, 12 * 54**2, "here").d_model == 54
    rotary = Transformer(n_layers=1, n_heads=6, positions="rotary", d_model=12)
    assert model_of_size(rotary, 12 * 59**2, "here").d_model == 60
    with pytest.raises(UserError, match=r"d_model 48 gives 27,648, d_model 60 gives 43,200"):
        model_of_size(rotary, 12 * 54**2, "here")


def test_a_size_that_cannot_be_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        model_of_size(Transformer(n_layers=3, n_heads=8), 4000, "sweep.yaml:7")
    assert str(caught.value) == (
        "sweep.yaml:7: size.non_embedding: no width gives 4,000 within 10% for the family 'transformer' with n_layers 3"
        " and n_heads 8; d_model 8 gives 2,304, d_model 16 gives 9,216. Change the size, the depth or the heads"
    )
    with pytest.raises(UserError, match=r"family 'lstm' with n_layers 2; d_model 1 gives 16, d_model 2 gives 64\. "):
        model_of_size(LSTM(), 35, "here")
    for empty in (Transformer(n_layers=0), Transformer(attention=False, mlp="none")):
        with pytest.raises(UserError, match=r"here: size\.non_embedding: the model has no layers"):
            model_of_size(empty, 1e4, "here")


SMALL = {"model.family": "lstm", "model.d_model": 10, "model.n_layers": 2}
N = 2 * 4 * 2 * 10**2  # its matrices
B, T, V = 4, 16, 257


@pytest.fixture
def tree_of(small_text: Path) -> Any:
    """``tree_of({...}, {...})``: layers of dotted options over a two-layer LSTM of width 10."""
    base = SMALL | {"data.corpus": str(small_text), "train.batch_size": B, "train.context_length": T}

    def make(*layers: dict[str, Any]) -> Tree:
        tree = options_tree(base, "base")
        for number, layer in enumerate(layers, 1):
            tree = overlay(tree, options_tree(layer, f"layer {number}"))
        return tree

    return make


@pytest.fixture
def resolved(tree_of: Any) -> Any:
    def make(*layers: dict[str, Any]) -> Resolved:
        return resolve(tree_of(*layers))

    return make


def test_horizons_are_their_closed_forms(resolved: Any) -> None:
    flops_per_token = 3 * (2 * N + 2 * 10 * V)  # forward 2 N and the readout, backward twice that
    for horizon, tokens in (
        ({"horizon.tokens": 64_000}, 64_000),
        ({"horizon.tokens_per_parameter": 20}, 20 * N),
        ({"horizon.kaplan_flops": 1e9}, 1e9 / (6 * N)),
        ({"horizon.flops": 1e9}, 1e9 / flops_per_token),
    ):
        assert resolved(horizon).config.train.steps == round(tokens / (B * T)), horizon
    assert resolved({"train.steps": 123}).config.train.steps == 123
    assert resolved({}).config.train.steps == 1000


def test_the_exact_count_has_attention_in_it(resolved: Any) -> None:
    transformer = {"model.family": "transformer", "model.d_model": 16, "model.n_layers": 3, "model.n_heads": 2}
    forward = 2 * 12 * 3 * 16**2 + 3 * 2 * 16 * (T + 1) + 2 * 16 * V
    steps = resolved(transformer, {"horizon.flops": 1e10}).config.train.steps
    assert steps == round(1e10 / (3 * forward) / (B * T))


def test_steps_are_the_nearest_and_at_least_one(resolved: Any) -> None:
    for tokens, steps in ((95, 1), (97, 2), (159, 2), (161, 3), (1, 1), (B * T * 7, 7)):
        assert resolved({"horizon.tokens": tokens}).config.train.steps == steps


def test_a_horizon_is_of_the_resolved_size(resolved: Any) -> None:
    found = resolved({"size.non_embedding": 4 * 2 * 2 * 40**2, "horizon.tokens_per_parameter": 5})
    assert found.config.model.d_model == 40
    assert found.config.train.steps == 5 * 4 * 2 * 2 * 40**2 / (B * T)


def test_what_lies_above_decides_and_it_is_told(resolved: Any) -> None:
    found = resolved({"train.steps": 7}, {"horizon.tokens": 640})
    assert found.config.train.steps == 10
    assert found.notes == ("horizon.tokens (layer 2) over train.steps 7 (layer 1)",)
    found = resolved({"horizon.tokens": 640}, {"train.steps": 7})
    assert (found.config.train.steps, found.notes) == (7, ("train.steps (layer 2) over horizon.tokens 640 (layer 1)",))
    found = resolved({"horizon.flops": 1e12}, {"horizon.tokens_per_parameter": 4}, {"horizon.tokens": 640})
    assert found.config.train.steps == 10
    assert len(found.notes) == 2
    assert resolved({"horizon.tokens": 64}, {"horizon.tokens": 640}).notes == ()
    assert resolved({"horizon.tokens": 64}, {"horizon.tokens": None, "train.steps": 3}).config.train.steps == 3


def test_of_two_in_one_file_the_first_of_the_order_decides(resolved: Any) -> None:
    order = {
        "train.steps": 3,
        "horizon.tokens": 5 * B * T,
        "horizon.flops": 1e9,
        "horizon.kaplan_flops": 1e9,
        "horizon.tokens_per_parameter": 4,
    }
    keys = list(order)
    for first, key in enumerate(keys[:-1]):
        alone = resolved({key: order[key]}).config.train.steps
        found = resolved({k: order[k] for k in reversed(keys[first:])})
        assert found.config.train.steps == alone
        (note,) = found.notes
        assert note.startswith(key) and note.endswith(f"over {', '.join(keys[first + 1 :])}")


def test_warmup_is_a_share_of_the_steps(resolved: Any) -> None:
    def warmup(*layers: dict[str, Any]) -> int:
        return resolved({"train.steps": 200}, *layers).config.optimizer.warmup_steps

    assert warmup({"horizon.warmup_fraction": 0.05}) == 10
    assert warmup({"horizon.warmup_fraction": 0.0001}) == 1
    assert warmup({"horizon.warmup_fraction": 0}) == 0
    assert warmup({"horizon.warmup_fraction": 0.05}, {"horizon.tokens": B * T * 1000}) == 50
    assert warmup({"optimizer.warmup_steps": 3}, {"horizon.warmup_fraction": 0.05}) == 10
    assert warmup({"horizon.warmup_fraction": 0.05}, {"optimizer.warmup_steps": 3}) == 3
    assert warmup({"horizon.warmup_fraction": 0.05, "optimizer.warmup_steps": 3}) == 3


def test_evaluations_are_evenly_spaced(resolved: Any) -> None:
    def every(steps: int, *layers: dict[str, Any]) -> int:
        return resolved({"train.steps": steps}, *layers).config.evaluation.every

    for steps, count in ((100, 4), (100, 1), (10, 3), (3, 4), (1000, 7)):
        between = every(steps, {"horizon.evaluations": count})
        points = {*range(between, steps + 1, between), steps}
        assert len(points) <= count
        assert len({*range(between - 1, steps + 1, max(1, between - 1)), steps}) > count or between == 1
    assert every(100, {"horizon.evaluations": 4}, {"evaluation.every": 9}) == 9
    assert every(100, {"evaluation.every": 9}, {"horizon.evaluations": 4}) == 25


def test_warmup_and_evaluations_given_twice_are_told(resolved: Any) -> None:
    one_file = {"horizon.warmup_fraction": 0.05, "optimizer.warmup_steps": 3}
    assert resolved(one_file).notes == ("optimizer.warmup_steps 3 over horizon.warmup_fraction",)
    one_file = {"horizon.evaluations": 5, "evaluation.every": 3}
    assert resolved(one_file).notes == ("evaluation.every 3 over horizon.evaluations",)
    assert resolved({"evaluation.every": 3}, {"horizon.evaluations": 5}).notes == (
        "horizon.evaluations (layer 2) over evaluation.every 3 (layer 1)",
    )


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"horizon.token": 3}, r"layer 1: horizon.token: unknown key; .*did you mean 'tokens'"),
    "of a size": ({"size.embedding": 3}, r"layer 1: size.embedding: unknown key; .*did you mean 'non_embedding'"),
    "negative": ({"horizon.tokens": -3}, r"layer 1: horizon.tokens: input should be greater than 0, got -3"),
    "nothing": ({"size.non_embedding": 0}, r"size.non_embedding: input should be greater than 0"),
    "text": ({"horizon.flops": "many"}, r"horizon.flops: .*number, got 'many'"),
    "whole warmup": ({"horizon.warmup_fraction": 1.0}, r"horizon.warmup_fraction: input should be less than 1"),
    "half an evaluation": ({"horizon.evaluations": 1.5}, r"horizon.evaluations: .*integer"),
    "for ever": ({"horizon.tokens": 1e30}, r"layer 1: horizon.tokens: 1e.30 is 1e30 tokens; at most 1e15"),
    "immense": ({"size.non_embedding": 1e30}, r"layer 1: size.non_embedding: 1e30 is more than 1e15"),
    "wide": (
        {"size.non_embedding": 4000, "model.d_model": 2**40},
        r"layer 1: model.d_model: 1,099,511,627,776 is too large; at most 2,147,483,647",
    ),
    "no layers": (
        {"model.family": "transformer", "model.n_layers": 0, "horizon.tokens_per_parameter": 3},
        r"layer 1: horizon.tokens_per_parameter: the model has no non-embedding .*; give horizon.tokens",
    ),
    "impossible together": ({"optimizer.warmup_steps": 9, "horizon.tokens": 64}, r"warmup_steps: 9 is more than .* 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name: str, resolved: Any) -> None:
    layer, pattern = MISTAKES[name]
    with pytest.raises(UserError, match=pattern) as caught:
        resolved(layer)
    assert "\n" not in str(caught.value)


def test_a_file_says_where(tmp_path: Path, small_text: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"model: {{family: lstm, n_layers: 2}}\ndata: {{corpus: {small_text}}}\nsize:\n  non_embedding: 35\n"
    )
    with pytest.raises(UserError, match=r"c\.yaml:4: size\.non_embedding: no width gives 35 within 10%"):
        resolve(read_tree(path))


def test_the_vocabulary_is_the_tokenizers(make_config: Any, small_text: Path) -> None:
    assert vocabulary_size(make_config("lstm")) == 257
    characters = set(small_text.read_text())
    chars = vocabulary_size(make_config("lstm", **{"data.tokenizer": "chars"}))
    assert len(characters) <= chars <= len(characters) + 2  # unknown and end of text; the split may lack a character
    assert vocabulary_size(make_config("lstm", **{"data.tokenizer": "bpe-300"})) == 300


def test_a_width_takes_the_place_of_a_size_below_it_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "sized.yaml"
    path.write_text("model: {family: lstm, d_model: 16, n_layers: 1}\nsize: {non_embedding: 1e5}\n")
    base = read_tree(path)
    assert resolve(base).config.model.d_model > 100  # the size wins over a width of the same file
    found = resolve(overlay(base, options_tree({"model.d_model": "24"})))
    assert found.config.model.d_model == 24
    assert any("model.d_model (command line) over size.non_embedding" in note for note in found.notes)
    both = overlay(base, options_tree({"model.d_model": "24", "size.non_embedding": "2e3"}))
    assert resolve(both).config.model.d_model == 16  # 8 d^2 = 2048
