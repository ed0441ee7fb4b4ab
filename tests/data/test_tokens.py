"""Token shards: contents, binding, damage, concurrency, bounded memory."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from seqjax.data import Corpus, Document, TokenShard, load_corpus, load_tokenizer, prepare_shard, tokens
from seqjax.errors import UserError


def only_shard(cache: Path) -> Path:
    (path,) = cache.glob("tokens/*")
    return path


def bytes_shard(corpus: Corpus, cache: Path, split: str = "train") -> TokenShard:
    return prepare_shard(corpus, split, load_tokenizer("bytes", corpus, cache), cache)


def test_documents_are_separated_and_listed(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    shard = bytes_shard(make_corpus(train=["ab", "c\u00e9"]), cache)
    assert shard.tokens.tolist() == [97, 98, 256, 99, 0xC3, 0xA9, 256]
    assert shard.n_bytes == 5
    assert [tuple(d) for d in shard.header["documents"]] == [("train0", "made", 0), ("train1", "made", 3)]
    assert isinstance(shard.tokens, np.memmap) and not shard.tokens.flags.writeable
    assert shard.header["n_tokens"] == 7 and shard.header["split"] == "train"


def test_tokenizer_without_end_of_text_puts_nothing_between(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["a b\n", "a\n"])
    shard = prepare_shard(corpus, "train", load_tokenizer("words", corpus, cache), cache)
    assert shard.tokens.tolist() == [2, 3, 1, 2, 1]


def test_dtype_follows_the_vocabulary(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=[" ".join(f"w{i:05d}" for i in range(70_000))])
    small = prepare_shard(corpus, "train", load_tokenizer("words-65536", corpus, cache), cache)
    large = prepare_shard(corpus, "train", load_tokenizer("words-65537", corpus, cache), cache)
    assert small.tokens.dtype == np.uint16 and large.tokens.dtype == np.uint32
    assert large.tokens.max() == 65_536 and small.tokens.max() == 65_535


def test_file_is_magic_header_and_raw_little_endian_tokens(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    bytes_shard(make_corpus(train=["ab"]), cache)
    data = only_shard(cache).read_bytes()
    assert data.startswith(tokens.MAGIC) and len(data) == 4096 + 6
    assert data[4096:] == b"a\0b\0\0\1"


def test_matching_shard_is_not_built_again(
    make_corpus: Callable[..., Corpus], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(train=["abc"])
    first = bytes_shard(corpus, cache)
    monkeypatch.setattr(tokens, "_encode_documents", lambda *a: pytest.fail("built again"))
    np.testing.assert_array_equal(bytes_shard(corpus, cache).tokens, first.tokens)


def test_shard_of_other_text_or_tokenizer_is_replaced(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    before, after = make_corpus(train=["abc"]), make_corpus(train=["xyz"])
    old = bytes_shard(before, cache)
    assert bytes_shard(after, cache).tokens.tolist() == [120, 121, 122, 256]
    assert old.tokens.tolist() == [97, 98, 99, 256]  # an open map keeps the old file
    tokenizer = dataclasses.replace(load_tokenizer("bytes", after, cache), sha256="other")
    assert prepare_shard(after, "train", tokenizer, cache).header["tokenizer_sha256"] == "other"
    only_shard(cache)


@pytest.mark.parametrize("others", [1, 10])
def test_a_shard_of_another_builder_at_the_same_time_is_not_taken(
    others: int, make_corpus: Callable[..., Corpus], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(train=["abc"])
    ours = load_tokenizer("bytes", corpus, cache)
    prepare_shard(corpus, "train", dataclasses.replace(ours, sha256="other"), cache)
    path, real, left = only_shard(cache), tokens.replaced_atomically, [only_shard(cache).read_bytes()] * others

    @contextmanager
    def raced(path: Path) -> Iterator[BinaryIO]:
        with real(path) as file:
            yield file
        if left:
            path.write_bytes(left.pop())

    monkeypatch.setattr(tokens, "replaced_atomically", raced)
    if others == 1:
        assert prepare_shard(corpus, "train", ours, cache).header["tokenizer_sha256"] == ours.sha256
    else:
        with pytest.raises(UserError, match=rf"{path.name} .*another process .*SEQJAX_CACHE"):
            prepare_shard(corpus, "train", ours, cache)


def test_splits_do_not_share_a_shard(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["a"], validation=["b"])
    assert [bytes_shard(corpus, cache, s).tokens[0] for s in corpus.splits] == [97, 98]


@pytest.mark.parametrize("cut", [0, 10, 30, 4096, 4097, -1])
def test_truncated_shard_is_refused(cut: int, make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["abc"])
    bytes_shard(corpus, cache)
    path = only_shard(cache)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=rf"{path.name} is damaged: .*; delete it and it is built again"):
        bytes_shard(corpus, cache)
    path.unlink()
    assert bytes_shard(corpus, cache).n_bytes == 3


@pytest.mark.parametrize(
    "at, message", [(4096, "tokens were altered"), (0, "no token shard"), (30, "header was altered")]
)
def test_altered_shard_is_refused(at: int, message: str, make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["abc"])
    bytes_shard(corpus, cache)
    path = only_shard(cache)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        bytes_shard(corpus, cache)


def test_altered_count_in_the_header_is_refused(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["abc"])
    bytes_shard(corpus, cache)
    path = only_shard(cache)
    path.write_bytes(path.read_bytes().replace(b'"n_bytes": 3', b'"n_bytes": 4'))
    with pytest.raises(UserError, match="header was altered"):
        bytes_shard(corpus, cache)


def test_lengthened_shard_is_refused(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["abc"])
    bytes_shard(corpus, cache)
    with only_shard(cache).open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(UserError, match="has 4106 bytes where its header says 4104"):
        bytes_shard(corpus, cache)


def test_failed_build_leaves_nothing(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["abc\n", b"ab\nc\xff"])
    tokenizer = load_tokenizer("bpe-257", make_corpus("clean", train=["abc"]), cache)
    with pytest.raises(UserError, match=r"train1 of made is not UTF-8 at byte 4.*'bytes'"):
        prepare_shard(corpus, "train", tokenizer, cache)
    assert not list(cache.glob("tokens/*"))
    assert bytes_shard(corpus, cache).n_bytes == 4 + 5


def test_offset_of_a_bad_byte_counts_from_the_start_of_the_file(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"a line\n" * 100_000 + b"\xff\n")
    corpus = load_corpus(str(path))
    tokenizer = load_tokenizer("bpe-260", corpus, cache)
    with pytest.raises(UserError, match=r"text.txt is not UTF-8 at byte 700000"):
        prepare_shard(corpus, "test", tokenizer, cache)


def test_empty_and_missing_splits_are_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "one.txt").write_bytes(b"one line\n")
    corpus = load_corpus(str(tmp_path / "one.txt"))
    with pytest.raises(UserError, match=r"split 'validation' of .*one.txt is empty"):
        bytes_shard(corpus, cache, "validation")
    with pytest.raises(UserError, match="no split 'tests'"):
        bytes_shard(corpus, cache, "tests")


def test_concurrent_builders_leave_one_good_shard(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "text.txt.gz"  # unpacked, trained on and tokenized by all of them
    path.write_bytes(gzip.compress(b"some text of a line\n" * 20_000))
    code = (
        "import sys; from seqjax.data import *; c = load_corpus(sys.argv[1]); k = cache_folder();"
        "print(prepare_shard(c, 'train', load_tokenizer('bpe-260', c, k), k).header['tokens_sha256'])"
    )
    builders = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    results = {b.communicate()[0].strip() for b in builders}
    assert all(b.returncode == 0 for b in builders) and len(results) == 1
    corpus = load_corpus(str(path))
    shard = prepare_shard(corpus, "train", load_tokenizer("bpe-260", corpus, cache), cache)
    assert {shard.header["tokens_sha256"]} == results
    only_shard(cache)
    assert not [*cache.rglob("*.tmp"), *cache.rglob("tmp-*")]


def test_progress_runs_to_the_total(make_corpus: Callable[..., Corpus], cache: Path) -> None:
    corpus = make_corpus(train=["a line\n" * 100_000, "the end\n"])
    calls: list[tuple[int, int | None]] = []
    prepare_shard(corpus, "train", load_tokenizer("bytes", corpus, cache), cache, lambda *c: calls.append(c))
    done = [d for d, _ in calls]
    assert len(calls) > 3 and done == sorted(done) and calls[-1] == (700_008, 700_008)


def test_pieces_do_not_change_the_tokens(make_corpus: Callable[..., Corpus], cache: Path, monkeypatch) -> None:
    text = "the cat sat\non a mat \u20ac\n" * 500
    corpus = make_corpus(train=[text])
    for name in ("bytes", "chars", "words"):
        tokenizer = load_tokenizer(name, corpus, cache)
        with monkeypatch.context() as patch:
            patch.setattr(tokens, "_PIECE_BYTES", 100)
            shard = prepare_shard(corpus, "train", tokenizer, cache)
        n = len(shard.tokens) - (tokenizer.end_of_text is not None)
        np.testing.assert_array_equal(shard.tokens[:n], tokenizer.encode(text.encode()))


def test_building_uses_bounded_memory(cache: Path) -> None:
    block = b"a line of text that is repeated\n" * 30_000

    def chunks() -> Iterator[bytes]:
        for _ in range(60):
            yield block

    corpus = Corpus("large", "0", {"train": (Document("d", "s", chunks, 60 * len(block)),)})
    tokenizer = load_tokenizer("bytes", corpus, cache)
    tracemalloc.start()
    try:
        shard = prepare_shard(corpus, "train", tokenizer, cache)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert shard.n_bytes == 60 * len(block) > 50e6
    assert peak < 16e6


def test_long_lists_of_documents_are_shortened(
    make_corpus: Callable[..., Corpus], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_LISTED_DOCUMENTS", 3)
    shard = bytes_shard(make_corpus(train=["a"] * 10), cache)
    assert [d[2] for d in shard.header["documents"]] == [0, 2, 4] and len(shard.tokens) == 20


def test_unwritable_cache_is_explained(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="SEQJAX_CACHE"):
        bytes_shard(make_corpus(train=["a"]), tmp_path / "file" / "cache")


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: (10**12, 0, n_bytes))


@pytest.mark.parametrize("name", ["bytes", "words"])
def test_room_is_asked_for_before_text_is_tokenized(
    name: str, make_corpus: Callable[..., Corpus], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(train=["two words\n" * 10_000, "a line\n" * 10_000])
    tokenizer = load_tokenizer(name, corpus, cache)
    monkeypatch.setattr(tokens, "_SAMPLE_BYTES", 1000)
    size = {"bytes": 170_000, "words": 60_000}[name] * 2  # bytes of the tokens, which lie there twice for a while
    free(monkeypatch, int(1.9 * size))
    with pytest.raises(
        UserError, match=r"tokens: tokenizing the train split into SEQJAX_CACHE needs about .*B, and .*B are free there"
    ):
        prepare_shard(corpus, "train", tokenizer, cache)
    assert not (cache / "tokens").exists()
    free(monkeypatch, int(2.1 * size))
    shard = prepare_shard(corpus, "train", tokenizer, cache)
    free(monkeypatch, 0)
    assert shard.tokens.nbytes == pytest.approx(size, rel=0.01)
    prepare_shard(corpus, "train", tokenizer, cache)  # it is there


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fills_up_meanwhile_is_explained(
    code: int, make_corpus: Callable[..., Corpus], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    corpus = make_corpus(train=["abc"])
    monkeypatch.setattr(tokens, "_encode_documents", fail)
    with pytest.raises(UserError, match=rf"cannot write in .*tokens \({os.strerror(code)}\): set SEQJAX_CACHE"):
        bytes_shard(corpus, cache)
