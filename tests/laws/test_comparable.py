"""Losses that do not compare are never fitted together, and rows that are different runs are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.laws.comparable import differences, refuse_incomparable
from seqjax.laws.points import read_points


def runs_of(*groups: dict[str, Any], sizes: int = 6, **shared: Any) -> pd.DataFrame:
    """A run table: sizes of each group on a law of their own."""
    rows = []
    for number, group in enumerate(groups):
        for n in np.geomspace(1e4, 1e7, sizes):
            loss = float((1e13 * (number + 1) / n) ** 0.08)
            row = {"run_id": f"r{len(rows)}", "status": "finished", "loss": loss, "bits_per_byte": loss / 2}
            rows.append(row | {"params_non_embedding": round(n), "tokens": 10**6} | shared | group)
    return pd.DataFrame(rows)


TWO = {
    "tokenizers": ({"data.tokenizer": "bytes"}, {"data.tokenizer": "words"}, "data.tokenizer is bytes, words"),
    "corpora": ({"data.corpus": "english"}, {"data.corpus": "text8"}, "data.corpus is english, text8"),
    "windows and streams": ({"data.batching": "windows"}, {"data.batching": "streams"}, "data.batching is streams"),
    "one name, two texts": (
        {"data.corpus": "t.txt", "corpus_sha256": "aa"}, {"data.corpus": "t.txt", "corpus_sha256": "bb"},
        "corpus_sha256 is aa, bb",
    ),
    "one name, two tokenizers": (
        {"data.tokenizer": "bpe-64", "tokenizer_sha256": "aa"}, {"data.tokenizer": "bpe-64", "tokenizer_sha256": "bb"},
        "tokenizer_sha256 is aa, bb",
    ),
    "kinds of one task": (
        {"task.name": "abilities", "task.kind": "parity"}, {"task.name": "abilities", "task.kind": "recall"},
        "task.kind is parity, recall",
    ),
    "vocabularies of one translation": (
        {"task.vocabulary": "words", "data_sha256": "aa"}, {"task.vocabulary": "512", "data_sha256": "aa"},
        "task.vocabulary is 512, words",
    ),
    "a digest and none": (
        {"data.corpus": "a", "corpus_sha256": "aa"}, {"data.corpus": "b", "corpus_sha256": None}, "data.corpus is a, b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TWO)
def test_losses_that_do_not_compare_are_refused(name: str) -> None:
    a, b, words = TWO[name]
    with pytest.raises(UserError, match=f"t.csv: losses that cannot be compared: {words}"):
        read_points(runs_of(a, b), needs=["params"], source="t.csv")
    assert len(read_points(runs_of(a, b)[:6], needs=["params"])) == 6


HALF = {
    "tokenizer": ({"data.tokenizer": "bytes"}, {"data.tokenizer": None}, "data.tokenizer is bytes, and empty in 6 of"),
    "blank": ({"data.tokenizer": "bytes"}, {"data.tokenizer": " "}, "data.tokenizer is bytes, and empty in 6 of"),
    "corpus": ({"data.corpus": "text8"}, {"data.corpus": np.nan}, "data.corpus is text8, and empty in 6 of"),
    "context": (
        {"train.context_length": 64}, {"train.context_length": None}, "train.context_length is 64, and empty in 6 of"
    ),
    "of other tables": ({"tokenizer": "words"}, {"tokenizer": None}, "tokenizer is words, and empty in 6 of 12 rows"),
    "a name here and a digest there": (
        {"data.corpus": "a", "corpus_sha256": None}, {"data.corpus": None, "corpus_sha256": "aa"},
        "data.corpus is a, and empty in 6 of 12 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HALF)
def test_what_is_known_of_some_rows_alone_is_refused_with_the_others(name: str) -> None:
    a, b, words = HALF[name]
    with pytest.raises(UserError, match=f"t.csv: losses that cannot be compared: {words}.*take them apart") as error:
        read_points(runs_of(a, b), needs=["params"], source="t.csv")
    assert "(row 7, row 8, row 9, row 10, ...)" in str(error.value)
    assert len(read_points(runs_of(b, b), needs=["params"])) == len(read_points(runs_of(a, a), needs=["params"])) == 12


ONE = {
    "a digest of every row, a name of some": (
        {"data.corpus": "a", "corpus_sha256": "aa"}, {"data.corpus": None, "corpus_sha256": "aa"}
    ),
    "nothing known": ({"data.tokenizer": None}, {"data.tokenizer": None}),
    "one text under two names": (
        {"data.corpus": "a.txt", "corpus_sha256": "aa"}, {"data.corpus": "b.txt", "corpus_sha256": "aa"}
    ),
    "contexts": ({"train.context_length": 64}, {"train.context_length": 256}),
    "seeds": ({"train.seed": 0}, {"train.seed": 1}),
    "ways to train on one task": (
        {"task.pool": "last", "data_sha256": "aa"}, {"task.pool": "mean", "data_sha256": "aa"}
    ),
    "no such columns": ({"dataset": "a"}, {"dataset": "b"}),
    "unknown digests of one name": (
        {"data.corpus": "a", "corpus_sha256": "aa"}, {"data.corpus": "a", "corpus_sha256": None}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_losses_that_compare_are_fitted(name: str) -> None:
    assert not differences(runs_of(*ONE[name]))
    assert len(read_points(runs_of(*ONE[name]), needs=["params"])) == 12


def test_bits_per_byte_compare_between_tokenizers_of_one_text() -> None:
    table = runs_of({"data.tokenizer": "bytes"}, {"data.tokenizer": "words"})
    assert len(read_points(table, {"loss": "bits_per_byte"}, ["params"])) == 12
    table = runs_of({"data.corpus": "a"}, {"data.corpus": "b"})
    with pytest.raises(UserError, match=r"data\.corpus"):
        read_points(table, {"loss": "bits_per_byte"}, ["params"])


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("column", ["task.name", "task.vocabulary", "task.kind", "task.corpus", "corpus_sha256"])
def test_the_column_that_is_told_takes_the_rows_apart(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    runs_of({column: "one"}, {column: "other"}, **{"model.family": "lstm"}).to_csv(path, index=False)
    words = ("fit", path, "--law", "kaplan-n", "--bootstrap", 0)
    assert call(*words) == 2
    by = capsys.readouterr().err.partition("--by ")[2].partition(" or --where")[0].strip()
    assert call(*words, "--by", by) == 0


def test_the_way_out_is_told_and_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    families = {"model.family": "lstm"}
    runs_of({"data.tokenizer": "bytes"} | families, {"data.tokenizer": "words"} | families).to_csv(path, index=False)
    words = ("fit", path, "--law", "kaplan-n", "--bootstrap", 0)
    assert call(*words) == 2
    (error,) = capsys.readouterr().err.splitlines()
    where = error.partition("--where '")[2].partition("'")[0]
    assert "--by tokenizer" in error and "--loss bits_per_byte" in error
    assert call(*words, "--by", "tokenizer") == call(*words, "--loss", "bits_per_byte") == 0
    assert call(*words, "--where", where) == 0
    runs_of({"data.tokenizer": "bytes"} | families, {"data.tokenizer": None} | families).to_csv(path, index=False)
    capsys.readouterr()
    assert call(*words) == 2 and "(line 8, line 9, line 10, line 11, ...)" in capsys.readouterr().err
    assert call(*words, "--by", "tokenizer") == call(*words, "--where", where) == 0
    runs_of({"data.tokenizer": "bytes"} | families, {"data.tokenizer": "words"} | families).to_csv(path, index=False)
    capsys.readouterr()
    assert call("compare", *words[1:], "--by", "tokenizer") == 2
    assert "losses that cannot be compared" in capsys.readouterr().err
    assert call("compare", *words[1:], "--by", "tokenizer", "--loss", "bits_per_byte") == 0


GOOD = {"params": [1e6, 1e6, 4e6], "tokens": [1e9, 1e9, 1e9], "loss": [3.1, 3.1, 2.7]}


@pytest.mark.parametrize(
    "column",
    [{"seed": [0, 1, 0]}, {"train.seed": [0, 1, 0]}, {"run_id": ["a", "b", "c"]}, {"family": ["lstm", "gru", "lstm"]},
     {"run": ["x-0", "x-1", "y-0"]}],
    ids=lambda column: next(iter(column)),
)  # fmt: skip
def test_two_runs_may_have_one_loss(column: dict[str, Any]) -> None:
    assert len(read_points(pd.DataFrame(GOOD | column), needs=["params"])) == 3


@pytest.mark.parametrize(
    "column",
    [{}, {"seed": [0, 0, 1]}, {"run_id": ["a", "a", "c"], "sweep": ["x", "y", "x"]}, {"width": [8, 9, 8]}],
    ids=str,
)
def test_one_row_twice_is_refused_with_a_way_out(column: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"once more.*keep one, or tell two runs apart in a column 'seed'"):
        read_points(pd.DataFrame(GOOD | column), needs=["params"])


def rates(**status: float | None) -> pd.DataFrame:
    """One model at several rates; None: it diverged, in fewer tokens."""
    rows = [
        {"run_id": f"r{rate}", "label": "m", "status": "finished" if loss else "diverged", "loss": loss,
         "tokens": 1000 if loss else 10, "params_non_embedding": 1e6, "model.d_model": 8,
         "optimizer.learning_rate": float(rate.replace("_", "-"))}
        for rate, loss in status.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "edge"),
    [
        (rates(**{"1e_3": 3.0, "3e_3": 2.8, "1e_2": None}), False),
        (rates(**{"1e_3": None, "3e_3": 2.8, "1e_2": 3.0}), False),
        (rates(**{"1e_3": 2.8, "3e_3": 3.0, "1e_2": None}), True),
        (rates(**{"1e_3": 3.0, "3e_3": 2.8}), True),
        (rates(**{"1e_3": 3.0, "3e_3": 2.8, "1e_2": 2.9}), False),
        (rates(**{"1e_3": None, "3e_3": 2.8, "1e_2": 2.7}), True),
    ],
)
def test_a_rate_that_diverged_was_tried(table: pd.DataFrame, edge: bool) -> None:
    points = read_points(table, needs=["params"])
    assert len(points) == 1 and any("edge" in note for note in points.notes) is edge


@pytest.mark.parametrize("column, values", [("tokenizer", ["bytes", "words"]), ("corpus", ["text8", "enwik8"])])
def test_columns_of_other_tables_count_too(column: str, values: list[str]) -> None:
    table = pd.DataFrame({"params": [1e5, 1e6, 1e7, 1e8], "loss": [4.0, 3.5, 3.1, 2.8], column: values * 2})
    with pytest.raises(UserError, match=f"cannot be compared: {column} is .*--by {column}"):
        refuse_incomparable(table)
