"""Streams: requests, splits by page number, limits, and a `datasets` module that is absent or fails."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqjax.data import load_corpus, load_tokenizer, prepare_shard, streaming
from seqjax.data.streaming import Request, parse_request, split_of
from seqjax.errors import UserError


@pytest.fixture
def fake_datasets(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """A module `datasets` with a stream of 5000 pages; returns the list of calls."""
    calls: list[tuple] = []

    def rows() -> Iterator[dict[str, str]]:
        for index in range(5000):
            yield {"text": f"page {index}\n", "id": str(index)}

    def load_dataset(name: str, config: str | None, **options: object) -> Iterator[dict[str, str]]:
        calls.append((name, config, options))
        return rows()

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


@pytest.mark.parametrize(
    "spec, request_",
    [
        ("hf:a/b", Request("a/b", None, None, "text", None, None)),
        ("hf:a/b:c", Request("a/b", None, "c", "text", None, None)),
        ("hf:a/b#v1:c:body@500", Request("a/b", "v1", "c", "body", 500, None)),
        ("hf:a::body@2GB", Request("a", None, None, "body", None, 2 * 10**9)),
        ("hf:a@3MB", Request("a", None, None, "text", None, 3 * 10**6)),
    ],
)
def test_requests(spec: str, request_: Request) -> None:
    assert parse_request(spec) == request_


@pytest.mark.parametrize("spec", ["hf:", "hf:a@", "hf:a@0", "hf:a@10XB", "hf:a:b:c:d", "hf:a@-3"])
def test_malformed_requests_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"hf:|limit"):
        load_corpus(spec)


def test_identity_is_that_of_the_request() -> None:
    specs = ["hf:a", "hf:b", "hf:a#1", "hf:a:c", "hf:a::d", "hf:a@1000", "hf:a@1kB"]
    assert len({load_corpus(s).sha256 for s in specs}) == len(specs)
    assert load_corpus("hf:a::text").sha256 == load_corpus("hf:a").sha256


def test_pages_fall_into_splits_by_number_up_to_the_limit(fake_datasets: list[tuple], cache: Path) -> None:
    corpus = load_corpus("hf:a/b#v1:c@250")
    assert not fake_datasets  # nothing is asked before it is read
    pages = {split: [d.name for d in corpus.splits[split]] for split in corpus.splits}
    assert pages["validation"] == ["a/b/0", "a/b/100", "a/b/200"]
    assert pages["test"] == ["a/b/1", "a/b/101", "a/b/201"]
    assert len(pages["train"]) == 244 and sum(map(len, pages.values())) == 250
    assert fake_datasets[0] == ("a/b", "c", {"split": "train", "streaming": True, "revision": "v1"})
    assert [d.name for d in corpus.splits["test"]] == pages["test"]  # afresh


def test_held_out_pages_end_so_that_their_streams_do(
    monkeypatch: pytest.MonkeyPatch, fake_datasets: list[tuple]
) -> None:
    monkeypatch.setattr(streaming, "HELD_OUT_WITHIN", 300)
    drawn = []
    monkeypatch.setattr(streaming, "_rows", lambda request: ({"text": "x"} for i in range(5000) if not drawn.append(i)))
    assert len(list(load_corpus("hf:a").splits["validation"])) == 3
    assert len(drawn) == 301
    assert [split_of(i) for i in (200, 201, 202, 300, 301)] == ["validation", "test", "train", "train", "train"]


def test_limit_in_bytes(fake_datasets: list[tuple]) -> None:
    corpus = load_corpus("hf:a@1kB")
    assert 900 < sum(d.n_bytes for split in corpus.splits.values() for d in split) <= 1000


def test_stream_goes_through_tokenizer_and_shard(fake_datasets: list[tuple], cache: Path) -> None:
    corpus = load_corpus("hf:a/b@300")
    tokenizer = load_tokenizer("bpe-260", corpus, cache)
    totals: list[int | None] = []
    shard = prepare_shard(corpus, "validation", tokenizer, cache, lambda done, total: totals.append(total))
    assert tokenizer.decode(shard.tokens).split("<|endoftext|>")[:3] == ["page 0\n", "page 100\n", "page 200\n"]
    assert totals == [None] * 3
    calls = len(fake_datasets)
    prepare_shard(load_corpus("hf:a/b@300"), "validation", tokenizer, cache)
    assert len(fake_datasets) == calls  # the shard at hand needs no network


def test_missing_column_is_named(fake_datasets: list[tuple]) -> None:
    with pytest.raises(UserError, match="no text in the column 'body': it has text, id"):
        list(load_corpus("hf:a::body").splits["train"])


def test_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"seqjax\[hub\]"):
        list(load_corpus("hf:a").splits["train"])


@pytest.mark.parametrize(
    "error", [ConnectionError("no route\nto host"), FileNotFoundError(), ValueError("BuilderConfig x")]
)
def test_failing_stream_is_one_line(error: Exception, fake_datasets: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fail)
    with pytest.raises(UserError, match="cannot stream a/b: ") as raised:
        list(load_corpus("hf:a/b").splits["train"])
    assert "\n" not in str(raised.value)


def test_real_datasets_streams_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    pytest.importorskip("datasets")
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "train.txt").write_text("".join(f"page {i}\n" for i in range(250)))
    corpus = load_corpus(f"hf:{folder}")
    texts = [b"".join(d.chunks()).decode() for d in corpus.splits["validation"]]
    assert texts == ["page 0", "page 100", "page 200"]
