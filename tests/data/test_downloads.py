"""Public corpora: found in the data folder in any form, verified, downloaded, and what is said when that fails."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from seqjax.data import downloads, load_corpus, load_tokenizer, prepare_shard
from seqjax.data.downloads import DOWNLOADS, Download, Text
from seqjax.errors import UserError

PARTS = {"train": b"a b\n" * 100, "validation": b"c d\n" * 10, "test": b"e f\n" * 10}
WIKI_NAMES = {"train": "wiki.train.tokens", "validation": "wiki.valid.tokens", "test": "wiki.test.tokens"}


def no_network(*args: object, **kwargs: object) -> None:
    raise ConnectionError("no route\nto host")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooch, "retrieve", no_network)


@pytest.fixture
def tiny_wikitext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zip in the form of the published one, and a table that pins it."""
    path = tmp_path / "published" / "wikitext-2-v1.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for split, data in PARTS.items():
            archive.writestr(f"wikitext-2/{WIKI_NAMES[split]}", data)
    texts = {
        s: Text(DOWNLOADS["wikitext-2"].texts[s].names, len(d), "md5:" + hashlib.md5(d).hexdigest())
        for s, d in PARTS.items()
    }
    old = DOWNLOADS["wikitext-2"]
    made = Download(old.file, old.addresses, hashlib.sha256(path.read_bytes()).hexdigest(), old.also, texts)
    monkeypatch.setattr(downloads, "DOWNLOADS", {**DOWNLOADS, "wikitext-2": made})
    return path


@pytest.mark.usefixtures("offline")
def test_published_form_in_the_data_folder_needs_no_network(tiny_wikitext: Path, tmp_path: Path) -> None:
    corpus = load_corpus("wikitext-2", tiny_wikitext.parent)
    assert {s: b"".join(d[0].chunks()) for s, d in corpus.splits.items()} == PARTS
    unpacked = tmp_path / "unpacked" / "wikitext-2"
    unpacked.mkdir(parents=True)
    for split, name in {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}.items():
        (unpacked / name).write_bytes(PARTS[split])
    assert load_corpus("wikitext-2", unpacked.parent).sha256 == corpus.sha256


@pytest.mark.usefixtures("offline")
def test_other_content_is_refused(tiny_wikitext: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for name in ("train.txt", "valid.txt", "test.txt"):
        (folder / name).write_bytes(b"x y\n" * 100)
    with pytest.raises(UserError, match=r"not the published wikitext-2: train.txt has 400 bytes and another md5"):
        load_corpus("wikitext-2", tmp_path)
    (folder / "train.txt").unlink()
    with pytest.raises(UserError, match=r"does not hold wiki.train.tokens or train.txt"):
        load_corpus("wikitext-2", tmp_path)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", DOWNLOADS)
def test_without_file_and_network_the_error_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_corpus(name, tmp_path / "data")
    message = str(error.value)
    assert "\n" not in message
    assert f"put it at {tmp_path / 'data' / DOWNLOADS[name].file}" in message
    assert all(address in message for address in DOWNLOADS[name].addresses)


def test_download_tries_mirrors_goes_to_the_data_folder_and_is_kept(
    tiny_wikitext: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def retrieve(address: str, known_hash: str, fname: str, path: Path) -> str:
        asked.append(address)
        if len(asked) == 1:
            no_network()
        assert known_hash == "sha256:" + hashlib.sha256(tiny_wikitext.read_bytes()).hexdigest()
        return shutil.copy(tiny_wikitext, Path(path) / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    data = tmp_path / "data"
    load_corpus("wikitext-2", data)
    assert asked == list(DOWNLOADS["wikitext-2"].addresses)
    assert (data / "wikitext-2-v1.zip").exists()
    load_corpus("wikitext-2", data)
    assert len(asked) == 2


def test_download_goes_to_the_cache_when_the_data_folder_cannot_be_written(
    tiny_wikitext: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pooch, "retrieve", lambda a, known_hash, fname, path: shutil.copy(tiny_wikitext, Path(path) / fname)
    )
    (tmp_path / "file").write_bytes(b"")
    load_corpus("wikitext-2", tmp_path / "file" / "data")
    assert (cache / "corpora" / "wikitext-2-v1.zip").exists()


def test_download_over_http_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.zip").write_bytes(b"content")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        folders = (tmp_path / "data", tmp_path / "other")
        with pytest.raises(UserError, match="its content is not the published one"):
            downloads.fetch("file.zip", (here + "file.zip",), "0" * 64, folders)
        assert not list((tmp_path / "data").iterdir())
        sha256 = hashlib.sha256(b"content").hexdigest()
        path = downloads.fetch("file.zip", (here + "absent.zip", here + "file.zip"), sha256, folders)
        assert path == tmp_path / "data" / "file.zip" and path.read_bytes() == b"content"
        server.shutdown()


def test_byte_corpora_are_cut_90_5_5_million(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "text8"
    with raw.open("wb") as file:
        file.truncate(10**8)
    monkeypatch.setattr(downloads, "file_digest", lambda path, algorithm: "3bea1919949baf155f99411df5fada7e")
    corpus = load_corpus("text8", tmp_path)
    assert {s: (d[0].start, d[0].n_bytes) for s, d in corpus.splits.items()} == {
        "train": (0, 90_000_000),
        "validation": (90_000_000, 5_000_000),
        "test": (95_000_000, 5_000_000),
    }


def test_wikitext_2_has_its_standard_vocabulary_and_counts(shared_data: Path, cache: Path) -> None:
    corpus = load_corpus("wikitext-2", shared_data)
    words = load_tokenizer("words", corpus, cache)
    assert words.vocab_size == 33_278
    counts = {split: len(prepare_shard(corpus, split, words, cache).tokens) for split in corpus.splits}
    assert counts == {"train": 2_088_628, "validation": 217_646, "test": 245_569}


def test_tinyshakespeare_has_65_characters_and_nanogpts_split(shared_data: Path, cache: Path) -> None:
    corpus = load_corpus("tinyshakespeare", shared_data)
    assert {s: d[0].n_bytes for s, d in corpus.splits.items()} == {"train": 1_003_854, "validation": 111_540}
    assert load_tokenizer("chars", corpus, cache).vocab_size == 65 + 2
    with pytest.raises(UserError, match="no split 'test': it has train, validation"):
        corpus.documents("test")


def test_raw_tinyshakespeare_is_the_same_corpus(shared_data: Path, tmp_path: Path) -> None:
    raw = lzma.decompress((shared_data / "tinyshakespeare.txt.xz").read_bytes())
    (tmp_path / "tinyshakespeare.txt").write_bytes(raw)
    assert load_corpus("tinyshakespeare", tmp_path).sha256 == load_corpus("tinyshakespeare", shared_data).sha256
    (tmp_path / "tinyshakespeare.txt").write_bytes(raw[:-1])
    with pytest.raises(UserError, match="not the published tinyshakespeare"):
        load_corpus("tinyshakespeare", tmp_path)
