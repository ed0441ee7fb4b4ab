"""Which files are splits by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqjax.data import load_corpus
from seqjax.data.split_names import named_splits
from seqjax.errors import UserError

SHORT = {"T": "train", "V": "validation", "S": "test", "-": None}  # "-": left out

TAKEN = [  # files with their splits, and whether earlier versions took the same ones
    ("train.txt T, eval.txt V", False),
    ("train.txt T, heldout.txt V", False),
    ("train.txt T, held_out.txt V", False),
    ("train.txt T, held-out.txt V, test.txt S", False),
    ("train.txt T, dev.txt V", True),
    ("train.txt T, devel.txt V, test.txt S", False),
    ("train.txt T, dev.txt V, eval.txt S", False),
    ("train/a.txt T, held_out/a.txt V", False),
    ("data_train_en.txt T, data_valid_en.txt V, data_test_en.txt S", False),
    ("corpus-train-v2.txt T, corpus-valid-v2.txt V", False),
    ("my train 1.txt T, my train 2.txt T, my dev.txt V", True),
    ("wiki.train.tokens T, wiki.valid.tokens V, wiki.test.tokens S, README.md -", True),
    ("train-00000-of-00001.txt T, val-00000-of-00001.txt V, test-00000-of-00001.txt S", True),
    ("Train.TXT T, VALID2.md V", True),
    ("train.en.txt T, valid.en.txt V", True),
    ("data/train/valid.txt T, data/dev/train.txt V", True),
    ("train.txt T, valid.txt V, my-test.txt S", False),
    ("train.txt T, valid.txt V, emma.txt -", True),
    ("wiki.train.tokens T, wiki.valid.tokens V, wiki.all.txt -", True),
    ("train/README.txt T, test/README.txt S", True),
    ("train.txt T, valid.txt V, train_test.txt -", False),
    ("train.txt T, valid.txt V, train.test.txt -", False),
    ("a.txt T, b.txt T, valid.txt V, test.txt S", True),
    ("a.txt T, valid.txt V, test.txt S, README.md -", False),
    ("a.txt T, valid.txt V, dev_test.txt -", False),
]


@pytest.mark.parametrize(("layout", "as_before"), TAKEN)
def test_names_that_are_taken(layout: str, as_before: bool) -> None:
    files = dict(file.rsplit(" ", 1) for file in layout.split(", "))
    found = named_splits(files)
    assert {name: found.splits.get(name) for name in files} == {name: SHORT[split] for name, split in files.items()}
    assert found.notes[0].startswith("splits by name: train ") and len(found.notes) == 1 + ("-" in files.values())
    assert found.as_before is as_before


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (("train-test.txt", "train.txt"), "one text: train-test.txt has the names of two splits (train, test)"),
        (("a-dev-test.txt", "a-train.txt", "a-val.txt"), "one text: a-dev-test.txt has the names of two splits"),
        (("a-train-to-nowhere.txt", "the-acid-test.txt", "emma.txt"), "one text: a-train-to-nowhere.txt has the"),
        (("wiki-train.txt", "wiki-valid.txt", "wiki-all.txt"), "has the name of a split, and wiki-all.txt does"),
        (("train.txt", "emma.txt"), "one text: train.txt has the name of a split, and emma.txt does not"),
        (("train/a.txt", "train/b.txt"), "one text: all files are named train"),
        (("the-acid-test.txt", "my-last-test.txt"), "one text: all files are named test"),
        (("testament.txt", "trainspotting.txt", "devil.txt", "evaluate.txt", "withheldout.txt"), None),
        (("train+dev.txt", "mytrain.txt", "d\u00e9train.txt"), None),
        (("test.txt",), None),
        (("test.txt", "README.md"), None),
        (("1.txt", "2.txt"), None),
    ],
)  # fmt: skip
def test_names_that_are_not_taken(names: tuple[str, ...], note: str | None) -> None:
    found = named_splits(names)
    assert found.splits is None
    assert note in found.notes[0] if note else found.notes == ()


@pytest.mark.parametrize("names", [("valid.txt", "test.txt"), ("dev/a.txt", "test/a.txt"), ("dev.txt", "dev_test.txt")])
def test_training_text_must_be_there(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"no training text: .* are held out by their names"):
        named_splits(names)


def test_what_was_taken_is_said_and_other_splits_are_another_corpus(tmp_path: Path) -> None:
    corpora = {}
    for held_out in ("dev.txt", "eval.txt"):
        folder = tmp_path / held_out
        folder.mkdir()
        (folder / "train.txt").write_bytes(b"a line\n" * 900)
        (folder / held_out).write_bytes(b"a line\n" * 50)
        corpora[held_out] = load_corpus(str(folder))
        assert f"splits by name: train train.txt; validation {held_out}" in corpora[held_out].notes
    assert corpora["dev.txt"].sha256.startswith("c652e887")  # as in earlier versions
    assert not corpora["eval.txt"].sha256.startswith("a8d97bac")  # these took both files for one text
