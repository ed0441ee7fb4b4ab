"""Bytes to lines, one way for all tasks: ends of lines, byte order marks, bytes that are no text, printable names."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from seqjax.data import text
from seqjax.data.pairs import read_pairs
from seqjax.data.sentiment import load_splits, parse
from seqjax.data.text import lines_of
from seqjax.errors import UserError, printable, utf8

MARK = b"\xef\xbb\xbf"
ENDS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}


@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_pairs_and_labels_are_the_same_with_every_line_end(end: bytes, last: bool, mark: bytes, tmp_path: Path) -> None:
    for name, rows in {"de": ["ein Hund", "zwei Hunde", "drei"], "en": ["a dog", "two dogs", "three"]}.items():
        (tmp_path / name).write_bytes(mark + end.join(row.encode() for row in rows) + end * last)
    assert read_pairs(tmp_path / "de", tmp_path / "en") == (
        ("ein Hund", "a dog"), ("zwei Hunde", "two dogs"), ("drei", "three")
    )  # fmt: skip
    found = parse(mark + end.join([b"1 a good film", b"0\ta bad one"]) + end * last, ("0", "1"), "my.txt")
    assert found.words == (("a", "good", "film"), ("a", "bad", "one")) and found.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\rc\nd", ["a", "b", "c", "d"]),
        ("a\u2028b\x85c\x0cd\x0be\x1cf\n".encode(), ["a\u2028b\x85c\x0cd\x0be\x1cf"]),
        (MARK, []),
        (MARK + b"\n", [""]),
        (b"a\n" + MARK + b"b", ["a", "\ufeffb"]),
    ],
)
def test_lines(data: bytes, lines: list[str]) -> None:
    assert lines_of(data, "x") == lines


@pytest.mark.parametrize(
    ("data", "lone"),
    [(b"a\r\nb\n", False), (b"a\rb", True), (b"a\r", True), (b"a\r\r\n", True), (b"", False), (b"aaa\r\n", False),
     (b"aaa\rb", True), (b"aaa\r", True)],
)  # fmt: skip
def test_lone_returns_are_seen_across_blocks(
    data: bytes, lone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 4)
    (tmp_path / "t").write_bytes(data)
    assert text.has_lone_returns(tmp_path / "t") is lone


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\nb".encode("utf-16"), "x is UTF-16 .*iconv -f UTF-16"),
        ("a\nb".encode("utf-32"), "x is UTF-32"),
        (b"\xfe\xff\0a", "x is UTF-16"),
        ("a\nb".encode("utf-16-le"), "x:1: a NUL byte at column 2: .*iconv"),
        (b"a\r\rb\0c\r", "x:3: a NUL byte at column 2"),
        (b"a\r\nb\r\nc\xe9", "x:3: not UTF-8: byte 0xe9 at column 2"),
    ],
)
def test_what_is_no_text_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        lines_of(data, "x")
    assert "\n" not in str(error.value)


def rows(start: int, count: int) -> bytes:
    return b"".join(b"%d word%d\n" % (i % 2, i) for i in range(start, start + count))


@pytest.mark.parametrize("packed", [False, True])
def test_all_files_of_a_folder_are_read(packed: bool, tmp_path: Path) -> None:
    for n in range(12):
        data = (MARK if n % 2 else b"") + rows(40 * n, 40).replace(b"\n", (b"\n", b"\r\n", b"\r")[n % 3])
        (tmp_path / (f"{n}.txt.xz" if packed else f"{n}.txt")).write_bytes(lzma.compress(data) if packed else data)
    splits = load_splits(str(tmp_path), ("0", "1"), tmp_path, tmp_path / ".cache")
    assert [len(split.labels) for split in splits] == [384, 48, 48]
    assert {word for split in splits for (word,) in split.words} == {f"word{i}" for i in range(480)}


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (("train.txt", "valid.txt", "test.txt"), (100, 20, 30)),
        (("train/a.txt", "dev/a.txt", "test/a.txt"), (100, 20, 30)),
        (("sst.train.txt", "sst.dev.txt", "sst.test.txt"), (100, 20, 30)),
        (("train.txt", "valid.txt", "other.txt"), (90, 20, 10)),
        (("train.txt", "other.txt", "test.txt"), (90, 10, 30)),
        (("a.txt", "b.txt", "c.txt"), (120, 15, 15)),
    ],
)
def test_labelled_files_named_as_splits_are_these(
    names: tuple[str, ...], counts: tuple[int, ...], tmp_path: Path
) -> None:
    for number, (name, count) in enumerate(zip(names, (100, 20, 30), strict=True)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rows(1000 * number, count))
    splits = load_splits(str(tmp_path), ("0", "1"), tmp_path, tmp_path / ".cache")
    assert tuple(len(split.labels) for split in splits) == counts
    first = [{int(word[4:]) // 1000 for (word,) in split.words} for split in splits]
    if "train.txt" in names:
        assert first[0] == {0}


def test_a_mistake_in_one_of_several_files_is_named(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.txt").write_bytes(rows(0, 20) + b"no label\n" * (n == 1))
    with pytest.raises(UserError, match=r": 1\.txt:21: the label 'no' is none of 0, 1"):
        load_splits(str(tmp_path), ("0", "1"), tmp_path, tmp_path / ".cache")


@pytest.mark.parametrize("raw", [b"caf\xe9", b"a\nb", b"a\tb", b"\xe2\x80\xa8", b"\xff", b"\xc2\x85"])
def test_names_can_be_printed(raw: bytes) -> None:
    shown = printable(raw.decode("utf-8", "surrogateescape"))
    assert shown.encode().decode() == shown and shown.isprintable()
    assert printable("Ünïcode ok.txt") == "Ünïcode ok.txt"


def test_options_must_be_utf8() -> None:
    assert utf8("é", "x") == b"\xc3\xa9"
    with pytest.raises(UserError, match=r"x: 'caf\\xe9' is not UTF-8; of a file, rename it or make a link"):
        utf8("caf\udce9", "x")
