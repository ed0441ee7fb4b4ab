"""Local text in every packing, splits, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from seqjax.data import CORPORA, SPLITS, Corpus, corpora, load_corpus, sources
from seqjax.errors import UserError

LINES = b"".join(b"line %d of the text\n" % i for i in range(2000))


def text_of(corpus: Corpus, split: str) -> bytes:
    return b"".join(chunk for document in corpus.splits[split] for chunk in document.chunks())


def write_tar(path: Path, files: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_single_file_is_split_90_5_5_at_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(LINES)
    corpus = load_corpus(str(path))
    parts = [text_of(corpus, split) for split in SPLITS]
    assert b"".join(parts) == LINES
    assert [len(p) / len(LINES) for p in parts] == pytest.approx([0.9, 0.05, 0.05], abs=0.002)
    assert all(p.endswith(b"\n") for p in parts)
    assert corpus.splits["test"][0].start == len(parts[0]) + len(parts[1])


@pytest.mark.parametrize("suffix, compress", [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_packed_file_is_the_same_corpus_as_the_plain_one(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "text.txt").write_bytes(LINES)
    (tmp_path / f"text.txt.{suffix}").write_bytes(compress(LINES))
    plain, packed = load_corpus(str(tmp_path / "text.txt")), load_corpus(str(tmp_path / f"text.txt.{suffix}"))
    assert packed.sha256 == plain.sha256
    assert all(text_of(packed, split) == text_of(plain, split) for split in SPLITS)


def test_other_text_is_another_corpus(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(LINES)
    before = load_corpus(str(path))
    path.write_bytes(LINES.replace(b"7", b"8", 1))
    assert load_corpus(str(path)).sha256 != before.sha256


FILES = {f"all/{group}/{i}.txt": b"%s %d\n" % (group.encode(), i) * (50 + i) for group in "ab" for i in range(30)}


def test_folder_and_archives_are_split_by_whole_files_and_alike(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    (tmp_path / "folder" / "picture.png").write_bytes(b"\xff\xfe")
    (tmp_path / "folder" / ".hidden.txt").write_bytes(b"hidden")
    write_tar(tmp_path / "a.tar", FILES, "w")
    write_tar(tmp_path / "a.tar.gz", FILES, "w:gz")
    write_tar(tmp_path / "a.tar.bz2", FILES, "w:bz2")
    write_tar(tmp_path / "a.tar.xz", FILES | {"all/picture.png": b"\xff"}, "w:xz")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    loaded = [load_corpus(str(tmp_path / n)) for n in ("folder", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip")]
    for corpus in loaded:
        assert corpus.sha256 == loaded[0].sha256
        seen = {d.name: (split, d.source, b"".join(d.chunks())) for split in SPLITS for d in corpus.splits[split]}
        assert {f"all/{name}": data for name, (_, _, data) in seen.items()} == FILES
        assert all(source == name.split("/")[0] for name, (_, source, _) in seen.items())
        for split in ("validation", "test"):
            share = len(text_of(corpus, split)) / sum(map(len, FILES.values()))
            assert 0.03 < share <= 0.05
        assert {n: s for n, (s, _, _) in seen.items()} == {
            d.name: split for split in SPLITS for d in loaded[0].splits[split]
        }


def test_path_is_also_looked_for_in_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(LINES)
    assert load_corpus("mine.txt", tmp_path).sha256 == load_corpus(str(tmp_path / "mine.txt")).sha256


def test_unpacking_happens_once_and_is_repaired(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(LINES))
    load_corpus(str(path))
    monkeypatch.setattr(sources, "_unpack_into", lambda *args: pytest.fail("unpacked again"))
    load_corpus(str(path))
    monkeypatch.undo()
    monkeypatch.setenv("SEQJAX_CACHE", str(cache))
    (unpacked,) = cache.glob("unpacked/*/000000.txt")
    os.truncate(unpacked, 100)
    corpus = load_corpus(str(path))
    assert b"".join(text_of(corpus, split) for split in SPLITS) == LINES
    assert not list(cache.glob("unpacked/tmp-*"))


def test_members_of_an_archive_cannot_leave_the_cache(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"../../evil.txt": LINES, "/tmp/evil2.txt": LINES, "good.txt": LINES}, "w")
    corpus = load_corpus(str(tmp_path / "a.tar"))
    assert [d.name for d in corpus.splits["train"]] == ["evil.txt", "good.txt", "tmp/evil2.txt"]
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    "text",
    [
        LINES * 40,
        LINES.replace(b"\n", b"\r") * 40,
        b"word " * 100_000,
        "\N{EURO SIGN}".encode() * 100_000,
        b"x" * 300_000,
    ],
)
def test_chunks_are_bounded_whole_and_cut_between_characters(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", (1 << 16) + 1)
    path = tmp_path / "text.txt"
    path.write_bytes(text)
    chunks = list(sources.read_chunks(path, 0, len(text)))
    assert b"".join(chunks) == text
    assert max(map(len, chunks)) <= (1 << 16) + 1
    assert len(chunks) < 2 + len(text) / (1 << 15)
    for chunk in chunks:
        chunk.decode()
    if b"\n" in text or b"\r" in text:
        assert all(c.endswith((b"\n", b"\r")) for c in chunks)
    elif b" " in text:
        assert all(c.startswith(b" ") for c in chunks[1:])


@pytest.mark.parametrize(
    "text", [b"a line\nanother\n", b"a line\ranother\r", b"one two three", "\N{EURO SIGN}\N{EURO SIGN}".encode()]
)
def test_cut_after_never_splits_a_line_word_or_character(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(text)
    for at in range(len(text) + 1):
        cut = sources.cut_after(path, at, len(text))
        assert at <= cut <= len(text)
        text[:cut].decode()
        if b"\n" in text or b"\r" in text:
            assert cut in (0, 7, 15)


@pytest.mark.parametrize("megabytes", [0, 17])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_text_rewritten_with_equal_size_and_time_is_seen(megabytes: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"text.txt{suffix}"

    def write(line: bytes) -> str:
        data = line * (1000 + (megabytes << 20) // len(line))
        with gzip.GzipFile(path, "wb", compresslevel=0, mtime=0) if suffix else path.open("wb") as file:
            file.write(data)
        os.utime(path, (1e9, 1e9))
        return load_corpus(str(path)).sha256

    first, size = write(b"one line\n"), path.stat().st_size
    assert write(b"two line\n") != first and path.stat().st_size == size
    assert write(b"one line\n") == first


def test_a_link_that_leads_elsewhere_and_a_replaced_file_are_seen(tmp_path: Path) -> None:
    shas = set()
    for n in range(2):
        (tmp_path / str(n)).write_bytes(b"text %d\n" % n * 1000)
        os.utime(tmp_path / str(n), (1e9, 1e9))
        (tmp_path / "link.txt").unlink(missing_ok=True)
        (tmp_path / "link.txt").symlink_to(tmp_path / str(n))
        shas.add(load_corpus(str(tmp_path / "link.txt")).sha256)
    os.replace(tmp_path / "0", tmp_path / "1")
    shas.add(load_corpus(str(tmp_path / "link.txt")).sha256)
    assert len(shas) == 2


def flip(path: Path, at: int) -> None:
    data, status = bytearray(path.read_bytes()), path.stat()
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("name", ["000000.txt", "000001.txt", "index.json"])
@pytest.mark.parametrize("at", [5, -20])
def test_unpacked_text_that_was_altered_is_unpacked_again(name: str, at: int, tmp_path: Path, cache: Path) -> None:
    write_tar(tmp_path / "t.tar", {"a.txt": LINES, "b.txt": LINES[::-1]}, "w")
    before = load_corpus(str(tmp_path / "t.tar"))
    texts = [text_of(before, split) for split in SPLITS]
    (path,) = cache.glob(f"unpacked/*/{name}")
    flip(path, at)
    after = load_corpus(str(tmp_path / "t.tar"))
    assert after.sha256 == before.sha256
    assert [text_of(after, split) for split in SPLITS] == texts


def test_missing_things_are_named_with_what_is_near(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no corpus and no file 'enwik9'; did you mean 'enwik8'.*tinyshakespeare"
    ) as error:
        load_corpus("enwik9", tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "novels.txt").write_bytes(LINES)
    with pytest.raises(UserError, match=r"no file or folder .*novel.txt; did you mean 'novels.txt'"):
        load_corpus(str(tmp_path / "novel.txt"))
    with pytest.raises(UserError, match="there is no folder"):
        load_corpus(str(tmp_path / "nowhere" / "novel.txt"))
    with pytest.raises(UserError, match="empty"):
        load_corpus("  ")


def test_empty_and_unreadable_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.txt is empty"):
        load_corpus(str(tmp_path / "empty.txt"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"no text in the folder .*\.txt"):
        load_corpus(str(tmp_path / "folder"))
    write_tar(tmp_path / "a.tar", {"x.png": b"123"}, "w")
    with pytest.raises(UserError, match="no text in the archive"):
        load_corpus(str(tmp_path / "a.tar"))
    (tmp_path / "a.zst").write_bytes(b"123")
    with pytest.raises(UserError, match=r"\.xz"):
        load_corpus(str(tmp_path / "a.zst"))


def test_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secret.txt").write_bytes(LINES)
    monkeypatch.setattr(sources, "file_digest", refuse)
    with pytest.raises(UserError, match=r"cannot read .*secret.txt: Permission denied"):
        load_corpus(str(tmp_path / "secret.txt"))


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz", "a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("content", [b"this is no packed file", b""])
def test_damaged_packing_is_refused(tmp_path: Path, name: str, content: bytes, cache: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
        load_corpus(str(tmp_path / name))
    assert "\n" not in str(error.value)
    assert not list(cache.glob("unpacked/tmp-*"))


def test_packed_file_keeps_no_name_from_an_earlier_copy(tmp_path: Path) -> None:
    for name in ("one.txt.gz", "two.txt.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"text\n", mtime=0))
        (file,) = sources.read_files(tmp_path / name, tmp_path / "cache").files
        assert file.name == name.removesuffix(".gz")


@pytest.mark.parametrize("suffix, compress", [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_truncated_packing_is_refused(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"t.txt.{suffix}"
    path.write_bytes(compress(LINES)[:-20])
    with pytest.raises(UserError, match="damaged"):
        load_corpus(str(path))


def test_unknown_split_is_named_with_those_there_are(make_corpus: Callable[..., Corpus]) -> None:
    with pytest.raises(UserError, match="no split 'valid': it has train, validation; did you mean 'validation'"):
        make_corpus(train=["a"], validation=["b"]).documents("valid")


def test_text_that_is_not_utf8_is_named_with_its_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 500)
    path = tmp_path / "latin.txt"
    path.write_bytes(LINES[:-1] + b"\xe9\n")
    corpus = load_corpus(str(path))
    with pytest.raises(UserError, match=rf"latin.txt is not UTF-8 at byte {len(LINES) - 1}"):
        list(corpora.decoded(corpus, corpus.splits["test"][0]))


def test_table_describes_every_named_corpus() -> None:
    assert set(CORPORA) == {"english", "novels", *corpora.downloads.DOWNLOADS}


def test_labels_are_safe_for_files_and_tell_corpora_apart(make_corpus: Callable[..., Corpus]) -> None:
    labels = [make_corpus(name).label for name in ("english", "/a/text.txt", "/b/text.txt", "hf:x/y@2GB", "/a/..", "ü")]
    assert labels[0] == "english" and len(set(labels)) == 6
    assert all(
        set(label) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") for label in labels
    )
