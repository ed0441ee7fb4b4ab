"""A pointer of Git LFS in the place of a file is named by every reader of users' files."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqjax.data import load_corpus
from seqjax.data.downloads import find_file
from seqjax.data.driving import load_log, load_recording
from seqjax.data.pairs import read_pairs
from seqjax.data.sentiment import load_splits
from seqjax.errors import UserError
from seqjax.laws.table_file import read_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
LINES = b"1 a line of text\n" * 100


def tarred(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(POINTER)
    (folder / "whole.txt").write_bytes(LINES)
    with tarfile.open(folder / "t.tar", "w") as archive:
        archive.add(folder / "whole.txt", "whole.txt")
        archive.add(folder / name, name)
    return folder / "t.tar"


def zipped(folder: Path, name: str) -> Path:
    with zipfile.ZipFile(folder / "t.zip", "w") as archive:
        archive.writestr("whole.txt", LINES)
        archive.writestr(name, POINTER)
    return folder / "t.zip"


def log(folder: Path, image: bool) -> Path:
    (folder / "IMG").mkdir()
    (folder / "IMG" / "c.png").write_bytes(POINTER)
    (folder / "driving_log.csv").write_bytes(b"c.png,l.png,r.png,0,0,0,1\n" if image else POINTER)
    return folder


def labelled(path: Path) -> object:
    return load_splits(str(path), ("0", "1"), path.parent, path.parent / "cache")


READERS: dict[str, Callable[[Path, Path], object]] = {  # of a folder with the pointer under each name, and an empty one
    "text": lambda at, _: load_corpus(str(at / "x.txt")),
    "packed text": lambda at, _: load_corpus(str(at / "x.txt.xz")),
    "archive": lambda at, _: load_corpus(str(at / "x.tar.gz")),
    "zip": lambda at, _: load_corpus(str(at / "x.zip")),
    "text of a folder": lambda at, _: load_corpus(str(at)),
    "member": lambda _, new: load_corpus(str(tarred(new, "p.txt"))),
    "packed member": lambda _, new: load_corpus(str(tarred(new, "p.txt.gz"))),
    "zipped member": lambda _, new: load_corpus(str(zipped(new, "p.txt.xz"))),
    "sentences": lambda at, _: labelled(at / "x.txt"),
    "sentences of an archive": lambda _, new: labelled(tarred(new, "p.txt")),
    "pairs": lambda at, _: read_pairs(at / "x.txt", at / "x.txt"),
    "packed pairs": lambda at, _: read_pairs(at / "x.txt.xz", at / "x.txt.xz"),
    "table": lambda at, _: read_file(at / "x.csv"),
    "parquet": lambda at, _: read_file(at / "x.parquet"),
    "recording": lambda at, _: load_recording(at),
    "log": lambda _, new: load_log(log(new, image=False)),
    "public text": lambda at, _: find_file(("x.txt",), (at,)),
}


def folders(tmp_path: Path) -> tuple[Path, Path]:
    at, new = tmp_path / "at", tmp_path / "new"
    at.mkdir()
    new.mkdir()
    for name in ("x.txt", "x.txt.xz", "x.tar.gz", "x.zip", "x.csv", "x.parquet", "driving.npz"):
        (at / name).write_bytes(POINTER)
    return at, new


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_a_pointer(reader: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a pointer of Git LFS and not the file itself: run `git lfs pull`") as error:
        READERS[reader](*folders(tmp_path))
    assert "\n" not in str(error.value)


def test_an_image_of_a_log_may_be_a_pointer(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    with pytest.raises(UserError, match=r"c\.png is a pointer of Git LFS"):
        load_log(log(tmp_path, image=True))


def test_text_about_pointers_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1 begins a pointer\n" * 100)
    assert load_corpus(str(tmp_path / "t.txt")).splits["train"]
    np.savez(tmp_path / "driving.npz", frames=np.zeros((1, 32, 64), "u1"), controls=np.zeros((1, 4)))
    assert len(load_recording(tmp_path).steer_T) == 1
