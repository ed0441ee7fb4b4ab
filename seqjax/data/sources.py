"""Text files on disk: plain, .gz, .bz2, .xz, .zip, a tar archive, or a folder of these.

Packed text is unpacked once into the cache, in blocks of bounded memory. After that every text is a plain file that can
be read from any offset.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from seqjax.data.text import LINE_END
from seqjax.data.trees import ARCHIVE_SUFFIXES, PACKED_SUFFIXES, allowed, choose, opened_archive, walk
from seqjax.errors import UserError, did_you_mean, printable
from seqjax.host.folders import make_folder
from seqjax.host.pointers import HEAD_BYTES, refuse_pointer, refuse_pointer_file

CHUNK_BYTES = 4 << 20
UNREADABLE_SUFFIXES = (".zst", ".7z", ".rar", ".parquet", ".lz4", ".br")
_DAMAGE = (EOFError, OSError, LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
_STRANGE = (NotImplementedError, RuntimeError, ValueError)  # a method or a name that zipfile or tarfile cannot handle
_FORMAT = 2  # of unpacked folders: changes with the rule for texts and their names


@dataclass(frozen=True)
class TextFile:
    """One text: its name in the file, folder or archive; a plain file with its bytes; their number and sha256."""

    name: str
    path: Path
    n_bytes: int
    sha256: str


class Found(NamedTuple):
    """The texts of a file, folder or archive, in the order of their paths, and a description of files left out."""

    files: tuple[TextFile, ...]
    left_out: str = ""


class Absent(UserError):
    """No such file, folder or corpus."""


def read_files(path: Path, cache: Path) -> Found:
    """Every text in ``path`` (file, packed file, archive or folder); `seqjax.data.trees` has the rule.

    Raises:
        Absent: a missing path (with the nearest existing name).
        UserError: an unreadable file, a pipe or device, a damaged or unknown packing, no text.
    """
    try:
        return _read(path, cache)
    except OSError as error:
        raise UserError(f"cannot read {printable(str(error.filename or path))}: {error.strerror or error}") from None


def _read(path: Path, cache: Path) -> Found:
    shown, name = printable(str(path)), path.name.lower()
    if not path.exists():
        raise Absent(f"no file or folder {shown}{_nearest(path)}")
    if path.is_dir():
        return _read_folder(path, cache)
    if not path.is_file():
        raise UserError(f"{shown} is a pipe or a device: save its text in a file")
    if name.endswith(UNREADABLE_SUFFIXES):
        raise UserError(f"cannot read {shown}: text may be plain, .gz, .bz2, .xz, .zip or a tar archive")
    if name.endswith(ARCHIVE_SUFFIXES):
        return _unpacked(path, cache)
    return Found((_read_file(printable(path.name), path, cache),))


def _read_file(name: str, path: Path, cache: Path) -> TextFile:
    """The text of one file, plain or packed."""
    if path.name.lower().endswith(tuple(PACKED_SUFFIXES)):
        (file,) = _unpacked(path, cache).files
        return TextFile(name.removesuffix(path.suffix), file.path, file.n_bytes, file.sha256)
    return TextFile(name, path, path.stat().st_size, file_digest(path))


def read_chunks(path: Path, start: int, n_bytes: int) -> Iterator[bytes]:
    """Bytes ``start`` to ``start + n_bytes`` of a plain file, in chunks of at most 4 MiB cut at line ends."""
    with path.open("rb") as file:
        file.seek(start)
        yield from cut_chunks(file, n_bytes, path)


def cut_chunks(file: BinaryIO, n_bytes: int, where: Path) -> Iterator[bytes]:
    """The next ``n_bytes`` of an open file in chunks of at most 4 MiB.

    A chunk ends at the end of a line; else before a space (a word keeps the space before it); else between characters.
    """
    rest = b""
    while n_bytes:
        block = file.read(min(CHUNK_BYTES - len(rest), n_bytes))
        if not block:
            raise UserError(f"{where} ends {n_bytes} bytes too early: it was changed while it was read")
        n_bytes -= len(block)
        rest += block
        if n_bytes:
            cut = last_cut(rest)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def last_cut(data: bytes) -> int:
    r"""The last place to cut: at the end of a line; else before a space; else between characters.

    A \r ends a line if there is no newline. A \r at the very end may be half of a \r\n, so it does not count.
    """
    line_end = data.rfind(b"\n")
    if line_end < 0:
        line_end = data.rfind(b"\r", 0, -1)
    if line_end >= 0:
        return line_end + 1
    space = data.rfind(b" ")
    if space > 0:
        return space
    cut = len(data) - 1
    while cut > max(len(data) - 4, 1) and 0x80 <= data[cut] < 0xC0:
        cut -= 1
    return max(cut, 1)


def cut_after(path: Path, at: int, n_bytes: int, marks: tuple[bytes, ...] = (b"\n", b" ")) -> int:
    r"""The first offset from ``at`` to ``n_bytes`` at the end of a line; else of a word; else of a character.

    ``marks`` are the ends to look for. b"\n" means every end of a line: \n, \r\n, and \r alone.
    """
    with path.open("rb") as file:
        file.seek(max(at - 1, 0))
        previous = file.read(1) if at else b"\n"
        block = file.read(min(CHUNK_BYTES, n_bytes - at) + 1)  # one more byte distinguishes \r from \r\n
    block, following = block[: n_bytes - at][:CHUNK_BYTES], block
    if previous == b"\n" or (previous == b"\r" and following[:1] != b"\n"):
        return at
    for mark in marks:
        if mark == b"\n":
            if (found := LINE_END.search(following)) and found.start() < len(block):
                return min(at + found.end(), n_bytes)
        elif (place := block.find(mark)) >= 0:
            return at + place  # a word keeps the space before it
    step = 0
    while step < len(block) and 0x80 <= block[step] < 0xC0:
        step += 1
    return at + step


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file. It is computed each time: a changed text can keep its time and size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _nearest(path: Path) -> str:
    """Hint: an existing file beside the missing one, with a similar name."""
    if path.parent.is_dir():
        return did_you_mean(printable(path.name), [printable(near.name) for near in path.parent.iterdir()])
    return f": there is no folder {printable(str(path.parent))} either"


def _read_folder(folder: Path, cache: Path) -> Found:
    texts, left_out = choose(walk(folder))
    if not texts:
        raise _no_text("folder", folder, left_out)
    files = [_read_file(name, entry.handle, cache) for name, entry in texts.items()]
    return Found(tuple(files), left_out)


def _no_text(what: str, path: Path, left_out: str) -> UserError:
    others = f"; left out: {left_out}" if left_out else ""
    return UserError(f"no text in the {what} {printable(str(path))}: its files must end in {allowed()}{others}")


def _unpacked(path: Path, cache: Path) -> Found:
    """The texts of a packed file, from the cache if it was unpacked before."""
    refuse_pointer_file(path)
    packing = next(s for s in (*ARCHIVE_SUFFIXES[::-1], *PACKED_SUFFIXES) if path.name.lower().endswith(s))
    folder = cache / "unpacked" / f"{file_digest(path)[:32]}-{_FORMAT}{packing}"
    found = _read_index(folder) or _unpack(path, folder)
    if not found.files:
        raise _no_text("archive", path, found.left_out)
    return found


def _read_index(folder: Path) -> Found | None:
    """The texts unpacked in ``folder``; None if it is absent, incomplete or altered."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if index["sha256"] != _index_sha256(index):
            return None
        files = tuple(TextFile(name, folder / file, size, sha256) for name, file, size, sha256 in index["files"])
        whole = all(file_digest(file.path) == file.sha256 for file in files)
        return Found(files, index["left_out"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _index_sha256(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([index["files"], index["left_out"]]).encode()).hexdigest()


def _unpack(path: Path, folder: Path) -> Found:
    make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix="tmp-"))
    try:
        index = _unpack_into(temporary, path)
        (temporary / "index.json").write_text(json.dumps(index | {"sha256": _index_sha256(index)}), encoding="utf-8")
        if folder.exists() and _read_index(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was first: its copy is the same
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _read_index(folder)
    if found is None:
        raise UserError(f"cannot unpack {printable(str(path))} into {folder}: remove that folder and try again")
    return found


def _unpack_into(folder: Path, path: Path) -> dict[str, Any]:
    """Write the texts of a packed file as 000000.txt, 000001.txt, ...; return their index."""
    shown = printable(str(path))
    try:
        with opened_archive(path) as (entries, open_entry):
            texts, left_out = {printable(entry.name): entry for entry in entries}, ""
            if path.name.lower().endswith(ARCHIVE_SUFFIXES):
                texts, left_out = choose(entries)
            numbers = {id(entry): (number, name) for number, (name, entry) in enumerate(texts.items())}
            files: list[Any] = [None] * len(texts)
            for entry in entries:  # in the archive's order: seeking back in a packed archive unpacks it from the start
                if id(entry) in numbers:
                    number, name = numbers[id(entry)]
                    target, packing = f"{number:06d}.txt", PurePosixPath(entry.name).suffix.lower()
                    if packing in PACKED_SUFFIXES:
                        with open_entry(entry) as file:
                            refuse_pointer(file.read(HEAD_BYTES), f"{shown}: {name}{packing}")
                    with open_entry(entry) as file:
                        files[number] = [name, target, *_copy(file, packing, folder / target)]
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # no space, no permission: not the file's fault
            raise UserError(f"cannot unpack {shown} into {folder.parent}: {error.strerror}") from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{shown} is damaged or is not what its name says ({reason})") from None
    except _STRANGE as error:
        raise UserError(f"{shown} cannot be unpacked here ({error}): unpack it yourself") from None
    return {"files": files, "left_out": left_out}


def _copy(file: BinaryIO, packing: str, target: Path) -> tuple[int, str]:
    """Write a file, unpacked according to its suffix; return its size and sha256."""
    digest, size = hashlib.sha256(), 0
    with PACKED_SUFFIXES[packing](file, "rb") if packing in PACKED_SUFFIXES else file as text, target.open("wb") as out:
        while block := text.read(1 << 20):
            digest.update(block)
            size += len(block)
            out.write(block)
    return size, digest.hexdigest()
