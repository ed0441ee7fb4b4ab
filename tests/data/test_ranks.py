"""gpt2 and cl100k_base from rank files at hand; never deleted, never fetched by tiktoken itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pooch
import pytest
import tiktoken

from seqjax.data import Corpus, load_tokenizer, ranks
from seqjax.errors import UserError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No rank files anywhere, no network, and no encoding that tiktoken remembers from another test."""

    def retrieve(*args: object, **kwargs: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr("tiktoken.load.read_file", lambda path: pytest.fail(f"tiktoken fetches {path}"))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("SEQJAX_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)


@pytest.mark.parametrize(
    "name, size, end, ids", [("gpt2", 50257, 50256, [31373, 995]), ("cl100k_base", 100277, 100257, [15339, 1917])]
)
def test_files_in_the_data_folder_are_used(
    name: str,
    size: int,
    end: int,
    ids: list[int],
    shared_data: Path,
    cache: Path,
    tmp_path: Path,
    make_corpus: Callable[..., Corpus],
) -> None:
    shutil.copytree(shared_data / "tiktoken_cache", tmp_path / "data" / "tiktoken_cache")
    tokenizer = load_tokenizer(name, make_corpus(train=["x"]), cache)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (size, end)
    assert tokenizer.encode(b"hello world").tolist() == ids
    assert tokenizer.encode(b"<|endoftext|>").tolist() != [end]
    assert tokenizer.decode(ids) == "hello world"
    assert "TIKTOKEN_CACHE_DIR" not in os.environ
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    tiktoken.registry.ENCODINGS.clear()
    assert load_tokenizer(name, make_corpus(train=["x"]), cache).sha256 == tokenizer.sha256


def test_plain_names_are_found_too(
    shared_data: Path, cache: Path, tmp_path: Path, make_corpus: Callable[..., Corpus]
) -> None:
    folder = tmp_path / "data" / "tiktoken_cache"
    folder.mkdir(parents=True)
    for file in ranks.FILES["gpt2"]:
        shutil.copy(shared_data / "tiktoken_cache" / file.cache_name, folder / file.name)
    assert load_tokenizer("gpt2", make_corpus(train=["x"]), cache).vocab_size == 50257


def test_altered_file_is_refused_and_kept(cache: Path, tmp_path: Path, make_corpus: Callable[..., Corpus]) -> None:
    (file,) = ranks.FILES["cl100k_base"]
    wrong = tmp_path / "data" / "tiktoken_cache" / file.cache_name
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"altered")
    with pytest.raises(UserError, match=r"is not the published cl100k_base.tiktoken"):
        load_tokenizer("cl100k_base", make_corpus(train=["x"]), cache)
    assert wrong.exists()


def test_nowhere_and_no_network_says_what_to_do(
    cache: Path, tmp_path: Path, make_corpus: Callable[..., Corpus]
) -> None:
    with pytest.raises(UserError) as error:
        load_tokenizer("gpt2", make_corpus(train=["x"]), cache)
    message = str(error.value)
    assert "\n" not in message and ranks.FILES["gpt2"][0].address in message
    assert f"put it at {tmp_path / 'data' / 'tiktoken_cache' / 'vocab.bpe'}" in message
