"""Sweep files: what they expand to, what is wrong with them, and that a config survives every way it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqjax.config import Config, DataConfig, to_dict
from seqjax.config.plain import dump_yaml
from seqjax.errors import UserError
from seqjax.families import GRU, Window
from seqjax.sweeps.grid import Sweep, read_sweep

REPOSITORY = Path(__file__).parent.parent.parent
IN_ONE_FOLDER = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def sweep_of(tmp_path: Path, small_text: Path) -> Any:
    """``sweep_of("grid: ...")``: the sweep of a file s.yaml over an LSTM of width 8, whose lines follow one of base."""
    (tmp_path / "base.yaml").write_text(
        f"model: {{family: lstm, d_model: 8}}\ndata: {{corpus: {small_text}}}\ntrain: {{batch_size: 4, steps: 9}}\n"
    )

    def make(text: str, options: dict[str, Any] | None = None) -> Sweep:
        path = tmp_path / "s.yaml"
        path.write_text(f"base: base.yaml\n{text}")
        return read_sweep(path, options)

    return make


EVERYTHING = """
list:
  - {model.family: lstm}
  - {model: {family: transformer, n_heads: 2}}
zip: {train.context_length: [4, 8, 16], train.batch_size: [8, 4, 2]}
grid:
  train.seed: [0, 1]
  optimizer.weight_decay: [0.0, 0.1]
search: {rates: [1e-2, 1e-3, 3e-3]}
"""


def test_the_last_axis_varies_fastest(sweep_of: Any) -> None:
    expected = [
        (family, context, batch, seed, decay, rate)
        for family in ("lstm", "transformer")
        for context, batch in ((4, 8), (8, 4), (16, 2))
        for seed in (0, 1)
        for decay in (0.0, 0.1)
        for rate in (1e-3, 3e-3, 1e-2)
    ]
    planned = sweep_of(EVERYTHING).runs()
    configs = [run.config for run in planned]
    assert expected == [
        (c.model.family, c.train.context_length, c.train.batch_size, c.train.seed, c.optimizer.weight_decay,
         c.optimizer.learning_rate)
        for c in configs
    ]  # fmt: skip
    assert len({run.run_id for run in planned}) == len(expected) == 72
    assert {c.train.steps for c in configs} == {9}  # of the base
    assert configs[0].model.d_model == 8  # of the base, whose family it is


AXES = {
    "train.seed": st.integers(0, 9),
    "train.batch_size": st.integers(1, 9),
    "train.log_every": st.integers(1, 9),
    "optimizer.learning_rate": st.floats(1e-6, 1.0),
    "optimizer.clip_norm": st.floats(0.0, 3.0),
    "model.family": st.sampled_from(["lstm", "gru", "elman"]),
    "model.n_layers": st.integers(1, 4),
}


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    """Axes shared out among list, zip and grid."""
    keys = draw(st.permutations(list(AXES)))
    cuts = sorted(draw(st.lists(st.integers(0, len(keys)), min_size=3, max_size=3)))
    listed, zipped, gridded = keys[: cuts[0]], keys[cuts[0] : cuts[1]], keys[cuts[1] : cuts[2]]
    length = draw(st.integers(1, 3))
    entries = draw(st.lists(st.fixed_dictionaries({}, optional={key: AXES[key] for key in listed}), max_size=3))
    made: dict[str, Any] = {
        "list": entries,
        "zip": {key: draw(st.lists(AXES[key], min_size=length, max_size=length)) for key in zipped},
        "grid": {key: draw(st.lists(AXES[key], min_size=1, max_size=2)) for key in gridded},
    }
    return {name: section for name, section in made.items() if section}


@IN_ONE_FOLDER
@given(sections(), st.randoms())
def test_points_are_the_product_of_the_sections(sweep_of: Any, made: dict[str, Any], random: Any) -> None:
    expected: list[dict[str, Any]] = []
    for entry in made.get("list", [{}]):
        zipped = made.get("zip", {})
        for place in range(len(next(iter(zipped.values()), [None]))):
            points = [{**entry, **{key: values[place] for key, values in zipped.items()}}]
            for key, values in made.get("grid", {}).items():
                points = [{**point, key: value} for point in points for value in values]
            expected += points
    names = list(made)
    random.shuffle(names)  # the order of the sections in the file means nothing
    text = dump_yaml({name: made[name] for name in names}) if made else ""
    assert list(sweep_of(text).points) == expected
    assert sweep_of(text) == sweep_of(text)
    if len({json.dumps(point, sort_keys=True) for point in expected}) == len(expected):
        once, again = sweep_of(text), sweep_of(text)
        try:
            planned = once.runs()
        except UserError as error:  # {family: lstm} and {} are one run
            assert "two points are the same run" in str(error)
            return
        assert [run.run_id for run in planned] == [run.run_id for run in again.runs()]
        assert [run.axes for run in planned] == expected
        for run, point in zip(planned, expected, strict=True):
            found = to_dict(run.config)
            assert {key: found[key.partition(".")[0]][key.partition(".")[2]] for key in point} == point


def test_no_axes_are_one_run(sweep_of: Any) -> None:
    (run,) = sweep_of("train: {steps: 5}").runs()
    assert (run.axes, run.config.train.steps, run.config.train.batch_size) == ({}, 5, 4)


def test_a_sweep_needs_no_base(tmp_path: Path, small_text: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(f"data: {{corpus: {small_text}}}\nlist: [{{model.family: gru}}, {{model.family: window}}]\n")
    assert [run.config for run in read_sweep(path).runs()] == [
        Config(GRU(), DataConfig(str(small_text))),
        Config(Window(), DataConfig(str(small_text))),
    ]
    assert read_sweep(path).name == "alone"


def test_what_all_share_is_kept_where_no_family_is_named(tmp_path: Path, small_text: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        f"data: {{corpus: {small_text}}}\nmodel: {{n_layers: 3}}\n"
        "list: [{model.family: gru}, {model.family: transformer}]\n"
    )
    for run in read_sweep(path, {"model.dropout": "0.25"}).runs():
        assert (run.config.model.n_layers, run.config.model.dropout) == (3, 0.25)


def test_options_lie_over_the_base_and_under_the_axes(sweep_of: Any) -> None:
    sweep = sweep_of("train: {steps: 5}\ngrid: {train.seed: [3, 4]}", {"train.steps": "7", "model.d_model": "16"})
    assert [(r.config.train.steps, r.config.model.d_model, r.config.train.seed) for r in sweep.runs()] == [
        (7, 16, 3),
        (7, 16, 4),
    ]


def test_a_base_may_have_a_base(tmp_path: Path, sweep_of: Any) -> None:
    sweep_of("")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "middle.yaml").write_text("base: ../base.yaml\ntrain: {batch_size: 2}\n")
    path = tmp_path / "top.yaml"
    path.write_text("base: deep/middle.yaml\ngrid: {train.seed: [0]}\n")
    (run,) = read_sweep(path).runs()
    assert (run.config.model.d_model, run.config.train.batch_size, run.config.train.steps) == (8, 2, 9)
    path.write_text("base: top2.yaml\n")
    (tmp_path / "top2.yaml").write_text("base: deep/middle.yaml\n")
    with pytest.raises(UserError, match=r"middle\.yaml:1: base: a base file cannot have a base of its own"):
        read_sweep(path)


def test_sizes_and_horizons_are_axes(sweep_of: Any) -> None:
    sweep = sweep_of("grid: {size.non_embedding: [1024, 4096], horizon.tokens: [5120, 10240]}")
    planned = sweep.runs()
    assert [(r.config.model.d_model, r.config.train.steps) for r in planned] == [(8, 10), (8, 20), (16, 10), (16, 20)]
    for run in planned:
        (note,) = run.notes
        assert "horizon.tokens" in note and "s.yaml:2" in note and "over train.steps 9" in note


def test_a_label_says_what_the_shape_does_not(sweep_of: Any) -> None:
    (run,) = sweep_of("grid: {model.d_model: [16], train.seed: [3], optimizer.learning_rate: [0.001]}").runs()
    assert run.label == "lstm-2x16 seed=3 learning_rate=0.001"


def test_an_entry_of_the_list_may_have_a_grid_of_its_own(sweep_of: Any) -> None:
    sweep = sweep_of("list: [{train.seed: 5}, {train.steps: 7, grid: {train.seed: [0, 1]}}]")
    points = [{"train.seed": 5}, {"train.steps": 7, "train.seed": 0}, {"train.steps": 7, "train.seed": 1}]
    assert list(sweep.points) == points
    assert [run.config.train.seed for run in sweep.runs()] == [5, 0, 1]


def test_configs_are_an_axis(tmp_path: Path) -> None:
    """Of tasks that differ, too; what the file says for all runs stands over each of them."""
    (tmp_path / "a.yaml").write_text("model: {family: gru, d_model: 8}\ntrain: {steps: 3, batch_size: 2}")
    (tmp_path / "b.yaml").write_text("task: {name: delays, distance: 5}\ntrain: {steps: 4}")
    path = tmp_path / "s.yaml"
    path.write_text("train: {batch_size: 6}\nlist: [{base: a.yaml, model.d_model: 16}, {base: b.yaml}]")
    first, second = read_sweep(path, {"train.seed": "3"}).runs()
    assert (first.config.model.family, first.config.model.d_model, first.config.train.steps) == ("gru", 16, 3)
    assert (second.config.task.distance, second.config.train.steps) == (5, 4)
    assert {(run.config.train.batch_size, run.config.train.seed) for run in (first, second)} == {(6, 3)}
    assert second.label == "delays-lstm-1x32 base=b"


def test_an_option_replaces_an_axis_of_the_grid_or_adds_one(sweep_of: Any) -> None:
    text = "grid: {train.seed: [0, 1, 2]}"
    sweep = sweep_of(text, {"grid.train.seed": "[7]", "grid.train.steps": "[3, 4]"})
    assert list(sweep.points) == [{"train.seed": 7, "train.steps": 3}, {"train.seed": 7, "train.steps": 4}]
    with pytest.raises(UserError, match=r"command line: grid: train.seed: expected a list of values, got 7"):
        sweep_of(text, {"grid.train.seed": "7"})
    searched = sweep_of("search: {rates: [1, 2, 3], extend: 2}", {"search.rates": "[1e-3, 3e-3, 1e-2]"}).search
    assert (searched.rates, searched.extend) == ((1e-3, 3e-3, 1e-2), 2)
    with pytest.raises(UserError, match=r"command line: search.rates: expected at least three different rates"):
        sweep_of("search: {rates: [1, 2, 3]}", {"search.rates": "[1, 2]"})


def test_an_option_chooses_points(sweep_of: Any) -> None:
    text = "list: [{model.family: gru}, {model.family: lstm}, {train.steps: 7}]\ngrid: {train.seed: [0, 1, 2]}"
    sweep = sweep_of(text, {"only.model.family": "[gru, lstm]", "only.train.seed": "2"})
    assert [(point["model.family"], point["train.seed"]) for point in sweep.points] == [("gru", 2), ("lstm", 2)]
    sizes = sweep_of("grid: {size.non_embedding: [1e4, 2e4]}", {"only.size.non_embedding": "20000"})
    assert [point["size.non_embedding"] for point in sizes.points] == [2e4]
    with pytest.raises(UserError, match=r"command line: only.train.seed: no run has 3; allowed: 0, 1, 2"):
        sweep_of(text, {"only.train.seed": "[2, 3]"})
    with pytest.raises(UserError, match=r"only.train.batch_size: no run has 3; no axis is over it; axes: model.family"):
        sweep_of(text, {"only.train.batch_size": "3"})
    with pytest.raises(UserError, match=r"only.train.seed: expected a value or a list of values, got \[\]"):
        sweep_of(text, {"only.train.seed": "[]"})


def test_an_axis_of_a_transfer_is_checked_where_only_leaves_points_out(sweep_of: Any) -> None:
    text = "list: [{model.d_model: 8}, {model.n_layers: 1}]\nsearch: {rates: [1, 2, 3], transfer: model.d_model}"
    with pytest.raises(UserError, match=r"s.yaml:3: search.transfer: expected an axis of numbers"):
        sweep_of(text, {"only.model.d_model": 8})


ELSEWHERE = ("base", "laptop", "workstation", "gpu", "pod")  # but for the base: in test_presets.py
PRESETS = [path for path in REPOSITORY.glob("configs/figure7/*.yaml") if path.stem not in ELSEWHERE]


@pytest.mark.parametrize(
    "path", sorted([*REPOSITORY.glob("configs/sweeps/*.yaml"), *PRESETS]), ids=lambda path: path.stem
)
def test_every_shipped_sweep_expands(path: Path) -> None:
    sweep = read_sweep(path)
    planned = sweep.runs()
    leading = [point for point in sweep.points if sweep.leads(point)]
    assert len(planned) == len(leading) * len(sweep.search.rates if sweep.search else [None])
    assert len({run.run_id for run in planned}) == len(planned)


MISTAKES = {  # (file, what the message must hold); line 1 is the base
    "no such key": ("grid: {train.sed: [0]}", "s.yaml:2: train.sed: unknown key; allowed: steps", "mean 'seed'"),
    "no such section": ("gird: {train.seed: [0]}", "s.yaml:2: gird: unknown key; allowed: base, list", "mean 'grid'"),
    "no such key in a list": ("list:\n- {train.sed: 0}", "s.yaml:2: train.sed: unknown key"),
    "empty axis": ("train: {steps: 3}\ngrid:\n  train.seed: []", "s.yaml:4: grid: train.seed: the axis is empty"),
    "nothing": ("zip: {train.seed: }", "s.yaml:2: zip: train.seed: the axis is empty"),
    "empty list": ("list: []", "s.yaml:2: list: expected a list of entries", "got []"),
    "not a list": ("grid: {train.seed: 3}", "s.yaml:2: grid: train.seed: expected a list of values, got 3; write [3]"),
    "list is no list": ("list: {train.seed: 3}", "s.yaml:2: list: expected a list of entries"),
    "list of numbers": ("list: [3]", "s.yaml:2: list: expected entries such as {model.family: lstm}, got 3"),
    "list of lists": ("list: [{train.seed: [0, 1]}]", "s.yaml:2: train.seed: input should be a valid integer"),
    "one key twice in an entry": ("list: [{train.seed: 0, train: {seed: 1}}]", "s.yaml:2: list: an entry gives one"),
    "grid is a list": ("grid: [train.seed]", "s.yaml:2: grid: expected dotted keys with lists of values"),
    "nested": ("grid:\n  train: {seed: [0]}", "s.yaml:3: grid: train: expected", "write the whole key, train.seed:"),
    "a number for a key": ("grid: {3: [0]}", "s.yaml:2: grid: 3: expected a dotted key"),
    "unequal lengths": (
        "zip: {train.seed: [0, 1], train.steps: [3]}",
        "s.yaml:2: zip: the lists advance together and need one length; train.seed has 2, train.steps has 1",
    ),
    "two sections": ("zip: {train.seed: [0]}\ngrid: {train.seed: [1]}", "s.yaml:3: train.seed: has an axis twice"),
    "list and grid": ("list: [{train: {seed: 0}}]\ngrid: {train.seed: [1]}", "s.yaml:3: train.seed: has an axis twice"),
    "written twice": ("grid:\n  train.seed: [0]\n  train.seed: [1]", "s.yaml:4: grid.train.seed: written twice"),
    "one run twice": (
        "grid: {train.seed: [0, 1, 0]}",
        "s.yaml: two points are the same run lstm-2x8-",
        ": train.seed 0 and train.seed 0; remove one",
    ),
    "one size twice": (
        "grid: {size.non_embedding: [1024, 1030]}",
        "two points are the same run",
        "size.non_embedding 1024 and size.non_embedding 1030",
    ),
    "out of reach": ("grid: {size.non_embedding: [1024, 35]}", "s.yaml:2: size.non_embedding: no width gives 35"),
    "impossible": (
        "grid: {train.batch_size: [4, 6], train.accumulation: [2, 3]}",
        "s.yaml:2: train.accumulation: 3 does not divide train.batch_size 4; allowed: 1, 2, 4",
    ),
    "not a base": ("train: {steps: 3}\ngrid: {base: [base.yaml]}", "s.yaml:1: base: is given for all runs and as"),
    "a base without a name": ("list: [{grid: {base: [3]}}]", "s.yaml:2: base: expected names of files, got 3"),
    "a grid in an entry": ("list: [{grid: {train.seed: 3}}]", "s.yaml:2: list: train.seed: expected a list of values"),
    "search is a number": ("search: 3", "s.yaml:2: search: expected rates, extend, seeds and transfer, got 3"),
    "no rates": ("search: {extend: 3}", "s.yaml:2: search.rates: expected at least three different rates", "got None"),
    "two rates": ("search: {rates: [1e-3, 3e-3, 1e-3]}", "s.yaml:2: search.rates: expected at least three different"),
    "no rate": ("search: {rates: [0, 1e-3, 1e-2]}", "s.yaml:2: search.rates: expected at least three"),
    "not a rate": ("search: {rates: [1e-3, 1e-2, often]}", "s.yaml:2: search.rates: expected at least three"),
    "endless rate": (
        "search:\n  rates: [1e-3, 1e-2, .inf]",
        "s.yaml:3: search.rates: expected at least three different rates",
    ),
    "no search key": ("search: {rats: [1, 2, 3]}", "s.yaml:2: search.rats: unknown key; allowed: rates", "n 'rates'"),
    "negative extend": ("search: {rates: [1, 2, 3], extend: -1}", "s.yaml:2: search.extend: expected 0 or more"),
    "text for seeds": ("search: {rates: [1, 2, 3], seeds: many}", "s.yaml:2: search.seeds: expected a list of whole"),
    "negative seed": ("search: {rates: [1, 2, 3], seeds: [-1]}", "s.yaml:2: search.seeds: expected a list of whole"),
    "rate axis twice": (
        "search: {rates: [1, 2, 3]}\ngrid: {optimizer.learning_rate: [1e-3]}",
        "s.yaml:3: optimizer.learning_rate: the search already has an axis over it",
    ),
    "seed axis twice": (
        "search: {rates: [1, 2, 3], seeds: [5]}\ngrid: {train.seed: [0]}",
        "s.yaml:3: train.seed: the search already has an axis over it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name: str, sweep_of: Any) -> None:
    text, *fragments = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        sweep_of(text).runs()
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


OPTION_MISTAKES = {
    "axis": ("grid: {train.seed: [0]}", "train.seed", "command line: train.seed: the sweep has an axis", "s.yaml:2)"),
    "nested": ("list: [{train: {seed: 0}}]", "train.seed", "command line: train.seed: the sweep has an axis over it"),
    "rate": ("search: {rates: [1, 2, 3]}", "optimizer.learning_rate", "rate: the sweep has an axis", "s.yaml:2)"),
    "unknown": ("", "train.sed", "command line: train.sed: unknown key"),
    "duplicates": ("grid: {train.seed: [1, 1]}", "train.steps", "s.yaml: two points are the same run"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTION_MISTAKES)
def test_a_mistake_in_an_option_is_told_in_one_line(name: str, sweep_of: Any) -> None:
    text, key, *fragments = OPTION_MISTAKES[name]
    with pytest.raises(UserError) as caught:
        sweep_of(text, {key: "3"}).runs()
    for fragment in fragments:
        assert fragment in str(caught.value)
