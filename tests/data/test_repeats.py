"""Held-out sentences that are training sentences too."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqjax.data.pairs import Pairs, first_pairs, lowercased
from seqjax.data.sentiment import load_splits


def test_labelled_sentences_are_counted_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"train": "1 a good film\n0 a bad film\n", "valid": "0 new\n", "test": "1 a  bad film\n0 other\n1 a good\n"}
    for split, text in texts.items():
        (tmp_path / f"{split}.txt").write_text(text * 2)
    splits = load_splits(str(tmp_path), ("0", "1"), tmp_path, tmp_path / ".cache")
    assert splits.repeats == {"validation": 0, "test": 2}  # another label, other blanks
    assert len(splits.test.labels) == 6
    notes = capsys.readouterr().err.splitlines()
    assert notes[-1] == f"note: {tmp_path}: 2 of 6 test sentences are in the training set too"
    assert not any("validation sentences" in note for note in notes)


def test_sentences_that_differ_are_not_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("".join(f"1 sentence {n}\n" for n in range(100)))
    assert load_splits(str(tmp_path / "t.txt"), ("0", "1"), tmp_path, tmp_path).repeats == {"validation": 0, "test": 0}
    assert capsys.readouterr().err == ""


def test_pairs_with_one_source_are_counted() -> None:
    train = (("ein Hund", "a dog"), ("zwei", "two"))
    test = (("Ein Hund", "a dog"), ("zwei", "a pair"), *(("neu", "new") for _ in range(1200)))
    pairs = Pairs("mine", {"train": train, "validation": (("zwei", "two"),), "test": test})
    assert pairs.repeats == {"validation": 1, "test": 1}
    assert pairs.notes == (
        "1 of 1 validation sentences is in the training set too",
        "1 of 1,202 test sentences is in the training set too",
    )
    assert lowercased(pairs).repeats["test"] == 2
    assert first_pairs(pairs, 1).repeats == {"validation": 0, "test": 0} and first_pairs(pairs, 1).notes == ()
