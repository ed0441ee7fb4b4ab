"""Splits of local text: by name, by whole files, by position, and how much is held out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seqjax.data import SPLITS, Corpus, load_corpus, load_tokenizer, prepare_shard
from seqjax.errors import UserError


def write(folder: Path, files: dict[str, bytes | int]) -> Path:
    """Files with this content, or with so many lines."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a line\n" * data if isinstance(data, int) else data)
    return folder


def names(corpus: Corpus) -> dict[str, list[str]]:
    return {split: sorted({d.name for d in corpus.splits[split]}) for split in SPLITS if split in corpus.splits}


def shares(corpus: Corpus) -> dict[str, float]:
    sizes = {split: sum(d.n_bytes for d in documents) for split, documents in corpus.splits.items()}
    return {split: size / sum(sizes.values()) for split, size in sizes.items()}


def content(corpus: Corpus, split: str) -> bytes:
    return b"".join(chunk for d in corpus.splits[split] for chunk in d.chunks())


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("Train.TXT", "validation.txt", "test.txt"),
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("corpus-train.txt", "corpus-dev.txt", "corpus-test.txt"),
        ("ptb_train.txt", "ptb_val.txt", "ptb_test.txt"),
        ("wiki.train.raw.txt", "wiki.valid.raw.txt", "wiki.test.raw.txt"),
        ("training.txt", "dev.txt", "test.txt"),
        ("train/a.txt", "valid/a.txt", "test/a.txt"),
        ("data/train/valid.txt", "data/dev/train.txt", "data/test/train.txt"),
        ("train-00000-of-00001.txt", "val-00000-of-00001.txt", "test-00000-of-00001.txt"),
        ("train.en.txt", "valid.en.txt", "test.en.txt"),
        ("train1.md", "dev1.md", "test1.md"),
        ("train.txt.xz", "valid.txt", "test.txt"),
    ],
)
def test_names_are_the_splits(train: str, validation: str, test: str, tmp_path: Path) -> None:
    import lzma

    files = {train: b"T\n" * 300, validation: b"V\n" * 900, test: b"S\n" * 900}
    files = {name: lzma.compress(data) if name.endswith(".xz") else data for name, data in files.items()}
    corpus = load_corpus(str(write(tmp_path / "tree", files)))
    assert [content(corpus, split)[:1] for split in SPLITS] == [b"T", b"V", b"S"]
    assert [len(content(corpus, split)) for split in SPLITS] == [600, 1800, 1800]


def test_a_text_that_is_no_split_is_left_out_and_said(tmp_path: Path) -> None:
    files = {"train.txt": 900, "valid.txt": 50, "test.txt": 50, "README.md": 20, "wiki.all.txt": 5000}
    corpus = load_corpus(str(write(tmp_path, files)))
    assert names(corpus) == {"train": ["train.txt"], "validation": ["valid.txt"], "test": ["test.txt"]}
    assert "left out beside the named splits: 2 (README.md, wiki.all.txt)" in corpus.notes


def test_without_validation_a_part_of_the_training_text_is_held_out(tmp_path: Path) -> None:
    corpus = load_corpus(str(write(tmp_path, {"train.txt": 1000, "test.txt": 50})))
    assert names(corpus) == {"train": ["train.txt"], "validation": ["train.txt"], "test": ["test.txt"]}
    assert len(content(corpus, "validation")) == 350 and len(content(corpus, "train")) == 6650
    assert any("nothing is named validation" in note for note in corpus.notes)


def test_without_test_there_is_none(tmp_path: Path) -> None:
    corpus = load_corpus(str(write(tmp_path, {"train.txt": 1000, "valid.txt": 50})))
    assert set(corpus.splits) == {"train", "validation"}
    with pytest.raises(UserError, match="no split 'test': it has train, validation"):
        corpus.documents("test")


def test_held_out_files_leave_all_others_to_train_on(tmp_path: Path) -> None:
    corpus = load_corpus(str(write(tmp_path, {"a.txt": 100, "b.txt": 100, "valid.txt": 9, "test.txt": 9})))
    assert names(corpus) == {"train": ["a.txt", "b.txt"], "validation": ["valid.txt"], "test": ["test.txt"]}
    with pytest.raises(UserError, match=r"no training text: test.txt, valid.txt are held out by their names"):
        load_corpus(str(write(tmp_path / "held", {"valid.txt": 9, "test.txt": 9})))


def test_a_single_file_may_be_called_test(tmp_path: Path) -> None:
    assert shares(load_corpus(str(write(tmp_path, {"test.txt": 1000}) / "test.txt")))["train"] == pytest.approx(0.9)
    assert shares(load_corpus(str(tmp_path)))["train"] == pytest.approx(0.9)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 13, 20, 50])
def test_about_a_tenth_is_held_out_however_many_files(count: int, tmp_path: Path) -> None:
    files = {f"{n}.txt": b"".join(b"line %d of %d\n" % (i, n) for i in range(500)) for n in range(count)}
    corpus = load_corpus(str(write(tmp_path, files)))
    found = shares(corpus)
    assert found["train"] >= 0.85 and all(0.03 < found[split] <= 0.075 for split in SPLITS[1:])
    assert sorted(b"".join(content(corpus, s) for s in SPLITS).splitlines()) == sorted(
        b"".join(files.values()).splitlines()
    )


@pytest.mark.parametrize("sizes", [(5000, 10, 10), (5000, 4000, 20), (10, 10, 5000, 5000), (9000, 1, 1, 1)])
def test_uneven_files_hold_out_about_a_tenth(sizes: tuple[int, ...], tmp_path: Path) -> None:
    found = shares(load_corpus(str(write(tmp_path, {f"{n}.txt": size for n, size in enumerate(sizes)}))))
    assert found["train"] >= 0.85 and min(found.values()) >= 0.01


LONG = b"many words in one line " * 2000


@pytest.mark.parametrize(
    "text",
    [
        LONG + b"\n",
        LONG + b"\r\n",
        LONG,
        b"x" * 40_000 + b"\n",
        "\N{EURO SIGN}".encode() * 10_000 + b"\n",
        b"short\n" + LONG + b"\n",
        LONG + b"\n" + LONG + b"\n",
        LONG + b"\n\n\n",
    ],
)
def test_long_lines_are_cut_where_they_must_be(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(text)
    corpus = load_corpus(str(path))
    assert b"".join(content(corpus, split) for split in SPLITS) == text
    assert all(0.03 < shares(corpus)[split] < 0.07 for split in SPLITS[1:])
    for split in SPLITS:
        content(corpus, split).decode()
        if b" " in text and split != "train":
            assert content(corpus, split)[:1] in b" \n"


def test_lines_stay_whole_where_they_can(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(200)))
    assert all(content(load_corpus(str(path)), split).endswith(b"\n") for split in SPLITS)


def lines_ended_by(end: bytes) -> bytes:
    return b"".join(b"line %d of a text" % i + end for i in range(300))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_end_of_a_line_is_a_place_to_cut(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(lines_ended_by(end))
    parts = [content(load_corpus(str(path)), split) for split in SPLITS]
    assert all(part.startswith(b"line ") and part.endswith(end) for part in parts)


@pytest.mark.parametrize(
    ("text", "before"),  # the digest of versions that saw no end of a line in a \\r alone
    [
        (lines_ended_by(b"\n"), "1eca0cf3"),
        (lines_ended_by(b"\r\n"), "7e546422"),
        (lines_ended_by(b"\r"), "884f87eb"),
        (lines_ended_by(b"\n") + b"\r", "915671e0"),
    ],
)
def test_only_text_with_lone_returns_is_another_corpus(text: bytes, before: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(text)
    lone = re.search(rb"\r(?!\n)", text) is not None
    assert (load_corpus(str(tmp_path / "t.txt")).sha256[:8] != before) is lone


def test_other_splits_of_one_text_are_another_corpus(tmp_path: Path) -> None:
    """A run must not go on with other splits than it began with."""
    files = {"a.txt": b"T\n" * 900, "b.txt": b"V\n" * 300, "c.txt": b"S\n" * 300}
    named = dict(zip(("train.txt", "valid.txt", "test.txt"), files.values(), strict=True))
    first, second = (load_corpus(str(write(tmp_path / n, f))) for n, f in (("one", files), ("two", named)))
    assert first.sha256 != second.sha256


def test_what_is_held_out_is_said(tmp_path: Path) -> None:
    corpus = load_corpus(str(write(tmp_path, {f"{n}.txt": 1000 for n in range(3)})))
    assert corpus.notes == ("splits: train 3 files, 90.0%; validation 3 files, 5.0%; test 3 files, 5.0%",)
    alone = load_corpus(str(tmp_path / "0.txt"))
    assert alone.notes == ("splits: train 90.0%; validation 5.0%; test 5.0%",)


BOM = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_text(tmp_path: Path, cache: Path) -> None:
    lines = b"".join(b"line %d\n" % i for i in range(500))
    plain, marked = write(tmp_path, {"plain.txt": lines}), write(tmp_path / "m", {"marked.txt": BOM + lines})
    for path in (marked / "marked.txt", marked):
        corpus = load_corpus(str(path))
        assert b"".join(content(corpus, split) for split in SPLITS) == lines
        chars = load_tokenizer("chars", corpus, cache)
        assert chars.vocab_size == load_tokenizer("chars", load_corpus(str(plain / "plain.txt")), cache).vocab_size
    files = write(tmp_path / "many", {f"{n}.txt": BOM + lines for n in range(40)})
    assert BOM not in b"".join(content(load_corpus(str(files)), split) for split in SPLITS)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_utf16_and_utf32_are_named(encoding: str, tmp_path: Path) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    (tmp_path / "t.txt").write_bytes(mark + ("a line\n" * 500).encode(encoding))
    with pytest.raises(UserError, match=rf"t.txt is {encoding[:6].upper()} .*convert it: iconv") as error:
        load_corpus(str(tmp_path / "t.txt"))
    assert "\n" not in str(error.value)


def test_utf16_without_a_mark_is_suspected(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(("a line\n" * 500).encode("utf-16-le"))
    assert "looks like UTF-16" in load_corpus(str(tmp_path / "t.txt")).notes[0]


def test_bytes_stay_as_they_are(tmp_path: Path, cache: Path) -> None:
    text = "a\r\nb\rc\fd\x85e\u2028f\0g\n".encode() * 100
    (tmp_path / "t.txt").write_bytes(text)
    corpus = load_corpus(str(tmp_path / "t.txt"))
    shard = prepare_shard(corpus, "train", load_tokenizer("bytes", corpus, cache), cache)
    assert bytes(shard.tokens[:-1].astype("u1")) == content(corpus, "train") == text[: len(content(corpus, "train"))]
