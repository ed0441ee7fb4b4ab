"""The corpus of novels: two collections checked by content, cleaned, split by whole works; what is said without."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pooch
import pytest

from seqjax.data import load_corpus, novels
from seqjax.errors import UserError

TITLES = {
    "novels100": [f"Author_Title{i}_18{i:02d}.txt" for i in range(30)],
    "eltec_eng": [f"ENG18{i:02d}0_Author.txt" for i in range(30)],
}
MARK = b"\xef\xbb\xbf"


def text(collection: str, title: str) -> bytes:
    end = b"\r\n" if collection == "novels100" else b"\n"
    return MARK * (collection == "novels100") + (title.encode() + b" says " + b"more" + end) * 40


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with two small collections, and the digests that belong to them."""
    made, clean = [], b""
    for collection in novels.COLLECTIONS:
        folder = tmp_path / "data" / collection.name
        folder.mkdir(parents=True)
        everything = b""
        for title in sorted(TITLES[collection.name]):
            (folder / title).write_bytes(text(collection.name, title))
            everything += text(collection.name, title)
        (folder / "Woolf_Years_1937.txt").write_bytes(b"too young\n")
        (folder / "README.txt").write_bytes(b"no novel\n")
        made.append(replace(collection, files=30, sha256=hashlib.sha256(everything).hexdigest()))
    for name in sorted(TITLES):
        clean += b"".join(text(name, t).removeprefix(MARK).replace(b"\r", b"") for t in sorted(TITLES[name]))
    monkeypatch.setattr(novels, "COLLECTIONS", tuple(made))
    monkeypatch.setattr(novels, "SHA256", hashlib.sha256(clean).hexdigest())
    return tmp_path / "data"


def test_whole_novels_without_marks_and_returns(small: Path) -> None:
    corpus = load_corpus("novels", small)
    names = {split: [document.name for document in own] for split, own in corpus.splits.items()}
    everything = [name for own in names.values() for name in own]
    assert len(everything) == len(set(everything)) == 60
    assert names["validation"] and names["test"] and len(names["train"]) > 50
    assert {document.source for document in corpus.splits["train"]} == {"novels100", "eltec_eng"}
    for own in corpus.splits.values():
        for document in own:
            title = document.name.rpartition("/")[2].encode()
            assert b"".join(document.chunks()) == (title + b" says more\n") * 40
    again = load_corpus("novels", small)
    assert again.sha256 == corpus.sha256


def test_a_damaged_copy_in_the_cache_is_made_again(small: Path) -> None:
    corpus = load_corpus("novels", small)
    (document, *_) = corpus.splits["train"]
    (path,) = (f.path for f in novels.texts(small, _cache()) if f.name == document.name)
    path.write_bytes(b"damaged\n")
    assert load_corpus("novels", small).sha256 == corpus.sha256
    assert path.read_bytes() != b"damaged\n"


def _cache() -> Path:
    from seqjax.host import folders

    return folders.cache_folder()


def test_other_content_is_refused_in_one_line(small: Path) -> None:
    (small / "eltec_eng" / TITLES["eltec_eng"][3]).write_bytes(b"another novel\n")
    with pytest.raises(UserError, match=r"eltec_eng is not the published eltec_eng: it has 30 novels") as error:
        load_corpus("novels", small)
    assert "\n" not in str(error.value)


def test_what_is_nowhere_is_named_with_its_place(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_network(address: str, **how: object) -> None:
        asked.append((address, how["known_hash"]))
        raise ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    with pytest.raises(UserError, match="could not be downloaded"):
        load_corpus("novels", tmp_path / "empty")
    assert asked == [(novels.COLLECTIONS[0].address, None)]
    (small / "novels100").rename(tmp_path / "empty" / "novels100")
    with pytest.raises(UserError, match=r"needs eltec_eng, 30 novels as plain text.*eltec_eng.tar.xz"):
        load_corpus("novels", tmp_path / "empty")


@pytest.mark.slow
def test_the_real_archives(shared_data: Path) -> None:
    for collection in novels.COLLECTIONS:
        if not (shared_data / f"{collection.name}.tar.xz").exists():
            pytest.skip(f"{collection.name}.tar.xz is not in the folder of real corpora")
    corpus = load_corpus("novels", shared_data)
    found = {}
    for split, own in corpus.splits.items():
        digest = hashlib.sha256()
        for document in own:
            digest.update(b"".join(document.chunks()))
        found[split] = (len(own), digest.hexdigest()[:16])
    assert found == {
        "train": (167, "8c3d8d1f47c48d29"),
        "validation": (11, "34c846b671e0c62c"),
        "test": (8, "6fed0fc50852839f"),
    }
