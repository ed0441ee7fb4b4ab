"""Which files are text: one rule for folder, tar and zip, links, odd names, and what is said of the rest."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from seqjax.data import SPLITS, Corpus, load_corpus
from seqjax.errors import UserError

Files = dict[str, bytes]
NOVELS = {f"novels/{name}.txt": b"a line of %s\n" % name.encode() * 300 for name in "abcdefghijklmnopqrstuvwxyz"}


def text(name: str) -> bytes:
    return f"a line of {name}\n".encode() * 300


def as_folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def as_tar(path: Path, files: Files, prefix: str = "", mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_zip(path: Path, files: Files, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)
    return path


def shown(corpus: Corpus) -> dict[str, dict[str, bytes]]:
    """Split -> name -> content."""
    return {s: {d.name: b"".join(d.chunks()) for d in corpus.splits[s]} for s in SPLITS if s in corpus.splits}


TREES: dict[str, Files] = {
    "of a Mac": NOVELS | {"__MACOSX/novels/._a.txt": b"\0\5\26\7" * 30, "novels/._b.txt": b"\0\5", ".DS_Store": b"x"},
    "with a repository": NOVELS | {".git/description.txt": b"no text\n" * 99, "novels/.hidden.txt": b"hidden\n"},
    "of notebooks": NOVELS | {"novels/.ipynb_checkpoints/a-checkpoint.txt": b"twin\n" * 99, "Thumbs.db": b"x"},
    "with pictures and archives": NOVELS | {"novels/a.png": b"\x89PNG", "old.zip": b"PK", "more.tar.gz": b"x"},
    "with capitals": NOVELS | {"novels/UPPER.TXT": text("upper"), "novels/MORE.Md": text("more")},
    "packed inside": NOVELS | {"novels/packed.txt.gz": gzip.compress(text("packed"), mtime=0)},
    "packed twice": NOVELS | {"novels/a.txt.gz": gzip.compress(text("another a"), mtime=0)},
    "in groups": {f"{group}/{name}": data for group in ("a", "a-b", "a/b") for name, data in NOVELS.items()},
    "of one file": {"corpus": text("the only one") * 50},
    "of Windows": NOVELS | {"desktop.ini": b"[x]", "$RECYCLE.BIN/a.txt": b"gone\n" * 99},
}


@pytest.mark.parametrize("name", TREES)
def test_three_containers_of_one_tree_are_one_corpus(name: str, tmp_path: Path) -> None:
    files = TREES[name]
    places = [
        as_folder(tmp_path / "tree", files),
        as_tar(tmp_path / "t.tar.gz", files),
        as_tar(tmp_path / "dotted.tar", files, "./", "w"),
        as_tar(tmp_path / "topped.tar.xz", files, "tree/", "w:xz"),
        as_zip(tmp_path / "t.zip", files),
        as_zip(tmp_path / "topped.zip", files, "tree/"),
    ]
    first, *others = [load_corpus(str(place)) for place in places]
    content = shown(first)
    assert not any(part.startswith((".", "__")) for own in content.values() for n in own for part in n.split("/"))
    for other in others:
        assert other.sha256 == first.sha256
        if len(files) > 1:
            assert shown(other) == content


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("of a Mac", "left out: hidden 3 (.DS_Store, __MACOSX/, novels/._b.txt)"),
        ("with a repository", "left out: hidden 2 (.git/, novels/.hidden.txt)"),
        ("with pictures and archives", "other kinds 1 (novels/a.png)"),
        ("with pictures and archives", "archives 2 (more.tar.gz, old.zip)"),
        ("packed twice", "left out: same name 1 (novels/a.txt.gz)"),
    ],
)
def test_what_is_left_out_is_said_alike(name: str, said: str, tmp_path: Path) -> None:
    files = TREES[name]
    for place in (
        as_folder(tmp_path / "t", files),
        as_tar(tmp_path / "t.tar", files),
        as_zip(tmp_path / "t.zip", files),
    ):
        (note,) = [note for note in load_corpus(str(place)).notes if note.startswith("left out")]
        assert said in note and len(note) < 200


def test_links_to_files_and_folders_are_followed_and_each_file_is_read_once(tmp_path: Path) -> None:
    tree, elsewhere = as_folder(tmp_path / "tree", NOVELS), as_folder(tmp_path / "other", {"x/one.txt": text("one")})
    blob = as_folder(tmp_path / "blobs", {"0123": text("blob")}) / "0123"
    links = {
        "more": elsewhere, "novels/twin.txt": tree / "novels" / "a.txt", "again": tree / "novels", "blob.txt": blob,
        "loop": tree, "up": tmp_path, "self": tree / "self", "gone.txt": tmp_path / "gone.txt",
    }  # fmt: skip
    for name, target in links.items():
        (tree / name).symlink_to(target)
    corpus = load_corpus(str(tree))
    names = {name for own in shown(corpus).values() for name in own}
    assert names == {*NOVELS, "more/x/one.txt", "blob.txt"}
    (note,) = [note for note in corpus.notes if note.startswith("left out")]
    assert note == "left out: links 6 (again, gone.txt, loop, ...)"


def test_links_in_archives_are_left_out_and_said(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, data in NOVELS.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, kind in (
            ("soft.txt", tarfile.SYMTYPE),
            ("hard.txt", tarfile.LNKTYPE),
            ("pipe.txt", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "novels/a.txt"
            archive.addfile(member)
    as_zip(tmp_path / "t.zip", NOVELS)
    with zipfile.ZipFile(tmp_path / "t.zip", "a") as archive:
        link = zipfile.ZipInfo("soft.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "novels/a.txt")
    tar, packed = load_corpus(str(tmp_path / "t.tar")), load_corpus(str(tmp_path / "t.zip"))
    plain = load_corpus(str(as_folder(tmp_path / "tree", NOVELS)))
    assert plain.sha256 == tar.sha256 == packed.sha256
    assert tar.notes[0] == "left out: links 2 (hard.txt, soft.txt); other kinds 1 (pipe.txt)"
    assert packed.notes[0] == "left out: links 1 (soft.txt)"


def test_of_two_members_of_one_name_the_last_counts_as_when_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar, zipfile.ZipFile(tmp_path / "t.zip", "w") as packed:
        for data in (text("old"), text("new")):
            member = tarfile.TarInfo("a.txt")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            with pytest.warns(UserWarning) if data == text("new") else io.BytesIO():
                packed.writestr("a.txt", data)
    for name in ("t.tar", "t.zip"):
        assert b"".join(b"".join(own.values()) for own in shown(load_corpus(str(tmp_path / name))).values()) == text(
            "new"
        )


@pytest.mark.parametrize("odd", [b"caf\xe9.txt", b"\xff\xfe.txt", b"new\nline.txt", b"tab\t.txt", b"\xe2\x80\xa8.txt"])
def test_names_that_are_not_utf8_or_not_one_line(odd: bytes, tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "tree", NOVELS)
    with open(os.fsencode(folder) + b"/novels/" + odd, "wb") as file:
        file.write(text("odd"))
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(folder, "tree")
    first, second = load_corpus(str(folder)), load_corpus(str(tmp_path / "t.tar"))
    assert first.sha256 == second.sha256
    names = [name for own in shown(first).values() for name in own]
    assert len(names) == 27 and "".join(names).encode().decode().isprintable()
    os.rename(folder, os.fsencode(tmp_path) + b"/tr\xe9e")
    moved = load_corpus(os.fsdecode(os.fsencode(tmp_path) + b"/tr\xe9e"))
    assert moved.sha256 == first.sha256 and moved.name.endswith(r"tr\xe9e") and moved.label.isascii()


def zip_with_raw_name(path: Path, name: bytes) -> Path:
    """A zip with a member whose name is not marked as UTF-8."""
    as_zip(path, {**NOVELS, "@" * len(name): text("odd")})
    path.write_bytes(path.read_bytes().replace(b"@" * len(name), name))
    return path


@pytest.mark.parametrize("name", [b"caf\xe9.txt", "café.txt".encode(), b"x\xff.txt"])
def test_raw_names_in_a_zip_are_those_of_a_folder(name: bytes, tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "tree", NOVELS)
    with open(os.fsencode(folder) + b"/" + name, "wb") as file:
        file.write(text("odd"))
    packed = load_corpus(str(zip_with_raw_name(tmp_path / "t.zip", name)))
    assert packed.sha256 == load_corpus(str(folder)).sha256


def test_backslashes_of_windows_are_folders_in_a_zip(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "t.zip", {name.replace("/", "\\"): data for name, data in NOVELS.items()})
    assert load_corpus(str(path)).sha256 == load_corpus(str(as_folder(tmp_path / "tree", NOVELS))).sha256


def encrypted(path: Path) -> None:
    as_zip(path, {"a.txt": text("a")})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    data[6] |= 1
    path.write_bytes(data)


def unknown_method(path: Path) -> None:
    as_zip(path, {"a.txt": text("a")})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 10] = data[8] = 99
    path.write_bytes(data)


def falsely_flagged(path: Path) -> None:
    data = bytearray(zip_with_raw_name(path, b"caf\xe9.txt").read_bytes())
    at = data.index(b"PK\1\2", data.rindex(b"caf\xe9") - 60)
    data[at + 9] |= 8
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    as_zip(path, NOVELS)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("make", [encrypted, unknown_method, falsely_flagged, cut_short])
def test_a_zip_that_cannot_be_unpacked_is_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "t.zip")
    with pytest.raises(UserError, match=r"t\.zip") as error:
        load_corpus(str(tmp_path / "t.zip"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_pipes_and_folders_called_text_do_not_hang(tmp_path: Path) -> None:
    tree = as_folder(tmp_path / "tree", NOVELS | {"x.txt/inside.txt": text("inside")})
    os.mkfifo(tree / "pipe.txt")
    corpus = load_corpus(str(tree))
    assert "x.txt/inside.txt" in {name for own in shown(corpus).values() for name in own}
    assert corpus.notes[0] == "left out: other kinds 1 (pipe.txt)"
    with pytest.raises(UserError, match=r"pipe.txt is a pipe or a device"):
        load_corpus(str(tree / "pipe.txt"))


def test_no_text_says_what_there_is(tmp_path: Path) -> None:
    tree = as_folder(tmp_path / "tree", {"a.png": b"1", "b.pdf": b"2", ".x.txt": b"3", "old.zip": b"4"})
    with pytest.raises(UserError, match=r"no text in the folder .*tree: .*\.txt.*left out: hidden 1 \(\.x\.txt\)"):
        load_corpus(str(tree))
