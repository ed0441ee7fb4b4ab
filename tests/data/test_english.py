"""The embedded corpus and its builder."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import tarfile
from pathlib import Path

import pytest

from seqjax.data import english, load_corpus
from seqjax.data.english import build
from seqjax.errors import UserError


def test_text_has_the_pinned_sha256_and_works_tile_it() -> None:
    assert len(english.text()) == 10_264_685
    assert hashlib.sha256(english.text()).hexdigest() == english.SHA256
    end = 0
    for work in english.works():
        assert work["offset"] == end
        end += work["length"]
    assert end == len(english.text())
    assert len(english.works()) == 42 + 5 + 66


def test_work_boundaries_fall_where_works_begin() -> None:
    heads = {w["name"]: english.text()[w["offset"] :][:60] for w in english.works()}
    assert heads["Genesis"].startswith(b"In the beginning God created")
    assert heads["Revelation"].startswith(b"The Revelation of Jesus Christ")
    assert heads["macbeth"].split()[0] == b"MACBETH"
    assert heads["poemata"].startswith("\ufeff".encode())


def test_held_out_works_come_from_each_source_and_are_unseen() -> None:
    corpus = load_corpus("english")
    assert corpus.sha256 == english.SHA256
    names = {split: {d.name for d in documents} for split, documents in corpus.splits.items()}
    assert names["validation"] == {"coriolanus", "twelfth_night", "paradise_regained", "Ezekiel"}
    assert {"macbeth", "tempest", "areopagitica", "Romans"} < names["test"]
    assert len(set.union(*names.values())) == sum(map(len, names.values())) == 113
    for documents in corpus.splits.values():
        assert {d.source for d in documents} == {"shakespeare", "milton", "kjv"}
    sizes = {split: sum(d.n_bytes for d in documents) for split, documents in corpus.splits.items()}
    assert sizes == {"train": 9_137_344, "validation": 578_558, "test": 548_783}
    for documents in corpus.splits.values():
        for document in documents:
            assert sum(map(len, document.chunks())) == document.n_bytes


def test_no_long_passage_of_a_held_out_work_is_in_training() -> None:
    corpus = load_corpus("english")

    def lines(split: str) -> set[bytes]:
        text = b"".join(chunk for d in corpus.splits[split] for chunk in d.chunks())
        return {line for line in re.split(rb"\r?\n", text) if len(line) >= 60}

    seen = lines("train")
    for split in ("validation", "test"):
        held_out = lines(split)
        assert len(held_out & seen) <= 0.005 * len(held_out), sorted(held_out & seen)


@pytest.mark.parametrize("content", [english.TEXT_FILE.read_bytes()[:-100], lzma.compress(b"another text")])
def test_damaged_package_file_is_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "english.txt.xz"
    broken.write_bytes(content)
    monkeypatch.setattr(english, "TEXT_FILE", broken)
    english.text.cache_clear()
    try:
        with pytest.raises(UserError, match=r"english.txt.xz"):
            english.text()
    finally:
        english.text.cache_clear()


def _archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _verse(book: str, text: str) -> str:
    return json.dumps({"book": book, "text": text, "citation": "x", "chapter": 1, "verse": 1})


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, Path]:
    plays = {
        f"s-1/shksprdata/texts/{n}": d
        for n, d in (("tempest_gut.txt", b"T"), ("lear_gut.txt", b"LL"), ("lear.txt", b"no"))
    }
    plays |= {"s-1/shksprdata/texts/lear_gut_f.txt": b"folio"}
    plays |= {f"s-1/miltondata/texts/{n}_gut.txt": n[:10].encode() for n in build.MILTON}
    verses = [_verse("Genesis", "g1"), _verse("Genesis", "g2"), _verse("Ezekiel", "e1")]
    bible = {"b-1/bible/data/kjv.jsonl": "\n".join(verses).encode()}
    return _archive(tmp_path / "s.tar.gz", plays), _archive(tmp_path / "b.tar.gz", bible)


def test_builder_puts_works_in_order_and_marks_splits(archives: tuple[Path, Path]) -> None:
    text, works = build.assemble(*archives)
    assert text == b"LLTparadise_lparadise_rpoetical_wareopagitipoematag1\ng2\ne1"
    assert [(w["name"], w["source"], w["split"]) for w in works] == [
        ("lear", "shakespeare", "train"),
        ("tempest", "shakespeare", "test"),
        ("paradise_lost", "milton", "train"),
        ("paradise_regained", "milton", "validation"),
        ("poetical_works", "milton", "train"),
        ("areopagitica", "milton", "test"),
        ("poemata", "milton", "train"),
        ("Genesis", "kjv", "train"),
        ("Ezekiel", "kjv", "validation"),
    ]
    assert [text[w["offset"] :][: w["length"]] for w in works][-2:] == [b"g1\ng2\n", b"e1"]


def test_builder_refuses_other_packages(archives: tuple[Path, Path], tmp_path: Path) -> None:
    for (file, _), archive in zip(build.PACKAGES.values(), archives, strict=True):
        (tmp_path / file).write_bytes(archive.read_bytes())
    with pytest.raises(UserError, match="not the pinned"):
        build.build(tmp_path, tmp_path / "out")


def test_builder_refuses_text_with_another_sha256(archives: tuple[Path, Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(build, "fetch", lambda folder: list(archives))
    with pytest.raises(UserError, match="another sha256"):
        build.build(tmp_path, tmp_path / "out")
