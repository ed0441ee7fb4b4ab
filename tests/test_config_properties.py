"""Properties of configs and of overlaying them: nothing is lost on the way through a file, ids tell runs apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from seqjax.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    TrainConfig,
    check,
    dotted,
    run_id,
    text_without,
    to_dict,
)
from seqjax.config.plain import dump_yaml
from seqjax.families import FAMILIES, LSTM, Transformer, Window
from seqjax.families.family import Impossible
from seqjax.runs.config_file import load_config, validate
from seqjax.runs.tree import Tree, options_tree, overlay, read_file
from seqjax.sweeps.grid import read_sweep

HOWEVER_SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
IN_ONE_FOLDER = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


# Configs, however they are written


RATES = st.floats(0.0, 1.0, exclude_min=True)
FRACTIONS = st.floats(0.0, 1.0, exclude_max=True)
COUNTS = st.integers(1, 10**6)
MODELS = {
    **{
        family: st.builds(
            FAMILIES[family],
            d_model=COUNTS,
            d_hidden=st.none() | COUNTS,
            n_layers=COUNTS,
            bias=st.booleans(),
            dropout=FRACTIONS,
            **({"forget_bias": st.floats(-3, 3)} if family == "lstm" else {}),
            **({"reset": st.sampled_from(["before", "after"])} if family == "gru" else {}),
        )
        for family in ("elman", "lstm", "gru")
    },
    "transformer": st.builds(
        lambda heads, width, **others: Transformer(d_model=heads * width, n_heads=heads, **others),
        heads=st.integers(1, 64),
        width=st.integers(1, 512),
        d_ff=st.none() | COUNTS,
        n_layers=st.integers(0, 100),
        attention=st.booleans(),
        mlp=st.sampled_from(["gelu", "relu", "swiglu", "none"]),
        positions=st.sampled_from(["learned", "rotary", "none"]),
        tied_embeddings=st.booleans(),
    ),
    "window": st.builds(Window, d_model=COUNTS, window=COUNTS, d_ff=COUNTS, bias=st.booleans()),
}
CONFIGS = st.builds(
    Config,
    st.one_of(MODELS.values()),
    st.builds(DataConfig, corpus=st.text(), tokenizer=st.text(), batching=st.sampled_from(["windows", "streams"])),
    st.builds(
        OptimizerConfig,
        learning_rate=st.floats(1e-30, 1e30),
        schedule=st.sampled_from(["constant", "cosine", "inverse_sqrt"]),
        warmup_steps=st.integers(0, 50),
        step_factor=RATES,
        beta2=FRACTIONS,
        epsilon=st.floats(1e-37, 1e38),
        clip_norm=st.floats(0.0, 10.0),
    ),
    st.builds(TrainConfig, steps=st.integers(50, 2**31 - 1), batch_size=COUNTS, seed=st.integers(0, 2**31 - 1)),
    st.builds(EvaluationConfig, every=COUNTS, windows=COUNTS),
)


def is_possible(config: Config) -> bool:
    try:
        check(config)
    except Impossible:
        return False
    return True


@IN_ONE_FOLDER
@given(CONFIGS.filter(is_possible))
def test_a_config_survives_its_file(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config), indent=2))
    assert load_config(path) == config
    path.write_text(dump_yaml(to_dict(config)))
    assert load_config(path) == config


@pytest.mark.parametrize("text", ["0E0", "3e-4", "12", "2026-11-23", "yes", "~", "a: b", ""])
def test_text_that_looks_like_something_else_stays_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(dump_yaml({"section": {"key": text, "keys": [text, 1, 3e-4]}}))
    assert read_file(path).values == {"section": {"key": text, "keys": [text, 1, 3e-4]}}


@IN_ONE_FOLDER
@given(CONFIGS.filter(is_possible), CONFIGS.filter(is_possible))
def test_a_config_laid_over_another_is_itself(tmp_path: Path, above: Config, below: Config) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(below)))
    options = {k: json.dumps(v) if not isinstance(v, str) else v for k, v in dotted(to_dict(above))}
    assert load_config(path, options) == above


def test_a_run_id_is_family_shape_and_the_hash_of_the_canonical_json() -> None:
    """Pinned: with another way to write a config, or another default, all run folders there are would be lost."""
    config = Config(LSTM(d_model=8, d_hidden=16))
    tree = to_dict(config)
    for key in ("recurrence", "residual", "norm", "base_width", "alignment"):  # came later, and are at their defaults
        del tree["model"][key]
    for key in ("bptt", "start", "mesh", "remat"):
        del tree["train"][key]
    del tree["optimizer"]["momentum"], tree["optimizer"]["decay_fraction"]
    tree["model"]["reset"] = "after"  # all recurrent families had it when the first runs were recorded
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    assert run_id(config) == f"lstm-2x16-{hashlib.sha256(text.encode()).hexdigest()[:10]}" == "lstm-2x16-77127109a0"
    assert run_id(Config(Transformer())) == "transformer-4x128-f517efe2e7"
    assert run_id(Config(Window())) == "window-1x64-07ebd80063"


@HOWEVER_SLOW
@given(CONFIGS, CONFIGS)
def test_run_ids_are_equal_where_configs_are(a: Config, b: Config) -> None:
    mixed = Config(a.model, b.data, a.optimizer, b.train, a.evaluation)
    again = Config(*[type(part)(**vars(part)) for part in vars(mixed).values()])
    assert run_id(again) == run_id(mixed)
    for other in (a, b):
        assert (run_id(mixed) == run_id(other)) == (mixed == other)


@HOWEVER_SLOW
@given(CONFIGS.filter(is_possible))
def test_the_order_of_keys_means_nothing(config: Config) -> None:
    reversed_ = {section: dict(reversed(part.items())) for section, part in reversed(to_dict(config).items())}
    assert run_id(validate(Tree(reversed_))) == run_id(config)


def test_equal_configs_have_equal_ids_whatever_the_sign_of_a_zero() -> None:
    one, other = (Config(model=LSTM(forget_bias=zero)) for zero in (0.0, -0.0))
    assert one == other and run_id(one) == run_id(other) == run_id(validate(Tree(to_dict(other))))
    assert text_without(one, ["train.seed"]) == text_without(other, ["train.seed"])


KEYS = {
    "train.seed": st.integers(0, 9),
    "train.batch_size": st.integers(1, 9),
    "optimizer.learning_rate": RATES,
    "optimizer.beta1": FRACTIONS,
    "data.corpus": st.text(max_size=3),
    "model.d_model": st.integers(1, 9),
    "model.dropout": FRACTIONS,
}


@st.composite
def layers(draw: st.DrawFn) -> list[Tree]:
    """Three trees whose families, where they name one, are of one kind."""
    families = draw(st.sampled_from([("elman", "lstm", "gru"), ("transformer",), ("window",)]))
    trees = []
    for number in range(3):
        options = draw(st.fixed_dictionaries({}, optional=KEYS))
        if draw(st.booleans()):
            options["model.family"] = draw(st.sampled_from(families))
        trees.append(options_tree(options, f"layer {number}"))
    return trees


@HOWEVER_SLOW
@given(layers())
def test_overlaying_is_associative(trees: list[Tree]) -> None:
    a, b, c = trees
    left, right = overlay(overlay(a, b), c), overlay(a, overlay(b, c))
    assume(any(left.values))
    assert left.values == right.values
    for tree in (left, right):  # a place is that of the layer that gave the value
        for key, place in tree.places.items():
            assert tree.get(key) == trees[int(place[-1])].get(key)
    assert left.places == right.places


def test_a_model_of_another_kind_is_all_there_is_of_it() -> None:
    lstm = options_tree({"model.family": "lstm", "model.d_model": 3, "train.seed": 1}, "below")
    window = options_tree({"model.family": "window", "model.d_ff": 5}, "above")
    found = overlay(lstm, window)
    assert found.values == {"model": {"family": "window", "d_ff": 5}, "train": {"seed": 1}}
    assert found.places == {"model.family": "above", "model.d_ff": "above", "train.seed": "below"}
    again = overlay(found, lstm)
    assert again.values["model"] == {"family": "lstm", "d_model": 3}


@HOWEVER_SLOW
@given(layers())
def test_overlaying_keeps_the_trees_below_as_they_were(trees: list[Tree]) -> None:
    before = json.dumps([tree.values for tree in trees])
    overlay(overlay(trees[0], trees[1]), trees[2])
    assert json.dumps([tree.values for tree in trees]) == before


def test_what_a_file_says_for_all_runs_reaches_every_kind_of_model(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {family: lstm, d_model: 24, dropout: 0.5, forget_bias: 2.0}\n")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("base: base.yaml\nmodel: {dropout: 0.1}\ngrid: {model.family: [lstm, transformer]}\n")
    lstm, transformer = (run.config.model for run in read_sweep(sweep).runs())
    assert (lstm.dropout, lstm.d_model, lstm.forget_bias) == (0.1, 24, 2.0)
    assert (transformer.dropout, transformer.d_model) == (0.1, 128)  # the base was for another kind of model
    assert [run.config.model.dropout for run in read_sweep(sweep, {"model.dropout": "0.2"}).runs()] == [0.2, 0.2]
