"""What numbers, truth values and YAML mean, in files, in dotted options and in options of commands."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seqjax.cli import main
from seqjax.config import run_id
from seqjax.config.plain import Unreadable, dump_yaml, load_yaml, number, scalar, whole
from seqjax.errors import UserError
from seqjax.host.wording import numbers_by_size, parse_duration
from seqjax.runs.config_file import load_config
from seqjax.sweeps.grid import read_sweep

LSTM = "model: {family: lstm}\n"
STEPS = {"0100": 100, "010": 10, "08": 8, "+3": 3, "1e3": 1000, "1E3": 1000, "100.0": 100, "5.": 5, "2.5e1": 25}
NOT_STEPS = (
    "1:30", "0o17", "0x1F", "0b1", "1_000", "1__0", "0x_", "0b_", "1,000", "٣", "１００", "1e400", "9" * 5000, "1.5",
    ".inf", "-.inf", ".nan", "NaN", "Infinity", "true", "null_", "0", "-0", "-3", "=", "2147483648", "3000000000",
    "1e13", "1e20", "!!int 5", "!!int x", "1 000", "100 # many", "- 5", "*a",
)  # fmt: skip


@pytest.mark.parametrize("word", STEPS)
def test_numbers_are_decimal_in_files_options_and_sweeps(tmp_path: Path, word: str) -> None:
    path, sweep = tmp_path / "c.yaml", tmp_path / "s.yaml"
    path.write_text(f"{LSTM}train: {{steps: {word}}}")
    sweep.write_text(f"{LSTM}grid: {{train.steps: [{word}]}}")
    assert load_config(path).train.steps == STEPS[word]
    assert load_config(path, {"train.steps": word}) == load_config(path)
    (run,) = read_sweep(sweep).runs()
    assert run.config.train.steps == STEPS[word]


@pytest.mark.parametrize("word", NOT_STEPS)
def test_anything_else_is_no_number_of_steps(tmp_path: Path, word: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(LSTM)
    with pytest.raises(UserError, match=r"command line: train\.steps") as caught:
        load_config(path, {"train.steps": word})
    assert "\n" not in str(caught.value)
    path.write_text(f"{LSTM}train:\n  steps: {word if word.isascii() and '#' not in word else repr(word)}\n")
    with pytest.raises(UserError, match=r"c\.yaml:3: ") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "0", "1", "True_", "''"])
def test_truth_is_true_or_false(tmp_path: Path, word: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{family: lstm, bias: {word}}}")
    with pytest.raises(UserError, match=r"c\.yaml:1: model\.bias: expected true or false"):
        load_config(path)


@pytest.mark.parametrize("word", ["no", "on", "yes", "y", "1:30", "0x1F", "0o17", "2026-11-23", "=", ".nan"])
def test_what_is_no_number_is_a_name(tmp_path: Path, word: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{LSTM}data: {{corpus: {word}}}")
    assert load_config(path).data.corpus == word
    assert load_config(path, {"data.corpus": "0100"}).data.corpus == "0100"


UNREADABLE = {
    "an alias of itself": ("model: &a {family: lstm, x: *a}", ":1: an alias"),
    "a list of itself": ("model: {family: lstm}\ndata: &a [*a]", ":2: an alias"),
    "aliases of aliases": ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    ), "more than 100,000"),
    "deep": ("a: " + "[" * 3000 + "]" * 3000, "nested"),
    "a tag of Python": ("a: 1\nb: !!python/name:os.system x", ":2: the tag"),
    "binary": ("a: !!binary AAAA", ":1: the tag !!binary"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "a tab": ("a:\n\tb: 2", ":2: not valid YAML"),
    "a key twice": ("train:\n  steps: 1\n  steps: 2", ":3: train.steps: written twice, first at "),
    "a key twice in a list": ("list:\n  - {a: 1, a: 2}", ":2: a: written twice"),
    "a list as key": ("? [a, b]\n: 1", "expected a name before the colon"),
    "a number above all": ("a: 1\nb: 1e999", ":2: 1e999 is too large"),
    "merging a number": ("a: {<<: 3}", ":1: <<"),
    "a list": ("- model", "expected keys and values, got list"),
    "a word": ("model", "expected keys and values, got str"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    text, message = UNREADABLE[name]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_anchors_and_merge_keys_are_read() -> None:
    text = "a: &a {x: 1, y: 0100}\nb: {<<: *a, x: 2}\nc: {<<: [{z: 1}, *a], 1: no, true: ~}"
    assert load_yaml(text) == {
        "a": {"x": 1, "y": 100},
        "b": {"x": 2, "y": 100},
        "c": {"z": 1, "x": 1, "y": 100, "1": "no", "true": None},
    }


def test_one_run_has_one_id_however_its_numbers_are_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{LSTM}train: {{steps: 1000, seed: 3}}\noptimizer: {{learning_rate: 1.0, weight_decay: 0}}")
    other = {"train.steps": "1e3", "train.seed": "03", "optimizer.learning_rate": "1", "optimizer.weight_decay": "-0.0"}
    assert run_id(load_config(path, other)) == run_id(load_config(path))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["C", "Z"]), max_size=6)
    | st.sampled_from(["0100", "08", "1:30", "0x1F", "1_0", "no", "=", "<<", ".5", "5.", "1e3", "~", "", "+1", "-"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab<=1", min_size=1), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(PLAIN)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    read = load_yaml(dump_yaml(value))
    assert read == value and type(read) is type(value)


@given(st.text("0123456789+-._:eExobn", max_size=6))
def test_a_word_is_the_number_that_yaml_1_2_says_or_itself(word: str) -> None:
    try:
        found = scalar(word)
    except Unreadable:  # no float holds it
        assert float(word) in (math.inf, -math.inf)
        return
    if isinstance(found, int | float):
        assert found == float(word) and "_" not in word
    else:
        assert found in (None, word)


OPTIONS = (
    ["sample", "RUN", "--tokens", "1_000"],
    ["sample", "RUN", "--tokens", "٣"],
    ["sample", "RUN", "--tokens", "-1"],
    ["sample", "RUN", "--seed", "4294967296"],
    ["sample", "RUN", "--seed", "9223372036854775808"],
    ["sample", "RUN", "--temperature", "nan"],
    ["sample", "RUN", "--top-p", "inf"],
    ["sample", "RUN", "--samples", "0"],
    ["eval", "RUN", "--windows", "0x10"],
    ["fit", "t.csv", "--seed", "-1"],
    ["fit", "t.csv", "--delta", "nan"],
    ["fit", "t.csv", "--bootstrap", "1_0"],
    ["frontier", "t.csv", "--seed", "-1"],
    ["train", "c.yaml", "--devices", "1_0"],
    ["plan", "c.yaml", "--ratio", "nan"],
    ["bench", "--sizes", "0"],
    ["bench", "--batch-size", "0"],
    ["bench", "--repeats", "0"],
    ["sweep", "s.yaml", "--workers", "1_0"],
    ["optimal", "t.csv", "--flops", "nan"],
    ["optimal", "t.csv", "--flops", "1_0"],
)


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_options_of_commands_follow_the_same_rule(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(words))
    message = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert words[-2] in message


def test_types_of_options() -> None:
    assert [whole(1)(word) for word in ("1e3", "0100", " 7 ")] == [1000, 100, 7]
    assert number(above=0)("3e-4") == 3e-4
    for read, word in (
        (whole(), "1.5"),
        (whole(most=3), "4"),
        (number(above=0), "0"),
        (number(), "true"),
        (whole(), ""),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a"):
            read(word)


@pytest.mark.parametrize("text", ["٣m", "1_0s", "1e3", "-5", "0", "", "1:30", "9" * 400, "5 m", "h"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


def test_yaml_that_cannot_be_read_says_where() -> None:
    with pytest.raises(Unreadable, match=r"^f\.yaml:2: 1e999 is too large"):
        load_yaml("a: 1\nb: 1e999", "f.yaml")
    assert yaml.safe_load(dump_yaml({"a": ["no", "1:30", "0100"]})) == {"a": ["no", "1:30", "0100"]}


FLOATS = ("optimizer.epsilon", "optimizer.learning_rate", "train.init_scale")


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("value", ["1e-46", "1e-39", "1e39"])
def test_floats_that_float32_does_not_hold_are_refused(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(LSTM)
    with pytest.raises(UserError, match=f"command line: {key}: .*within float32"):
        load_config(path, {key: value})


def test_numbers_go_by_size_alone_and_in_names() -> None:
    expected = ["-1", "0.004", "0.012", "2", "1e1", "11", "lstm 2", "lstm 2 b", "lstm 10", "nan"]
    assert sorted({*expected}, key=numbers_by_size) == expected
