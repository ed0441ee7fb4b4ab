"""Text files on disk, however they are packed: plain, .gz, .bz2, .xz, .zip, a tar archive, or a folder of these.

Packed text is unpacked once into the cache (in blocks, so memory stays bounded), and from then on every text is a plain
file that can be read from any offset.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from seqjax.errors import UserError, did_you_mean
from seqjax.folders import make_folder, replaced_atomically

CHUNK_BYTES = 4 << 20
TEXT_SUFFIXES = (".txt", ".text", ".md", ".tokens", ".raw")
PACKED_SUFFIXES = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".zip")
UNREADABLE_SUFFIXES = (".zst", ".7z", ".rar", ".parquet", ".lz4", ".br")
_DAMAGE = (EOFError, OSError, lzma.LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
_MEMO_BYTES = 16 << 20  # files below this are hashed afresh each time
_MEMO_AGE_S = 2.0  # a file changed this recently could change again within one tick of the clock


@dataclass(frozen=True)
class TextFile:
    """One text: its name inside what the user named, a plain file with its bytes, their number and sha256."""

    name: str
    path: Path
    n_bytes: int
    sha256: str


def read_files(path: Path, cache: Path) -> tuple[TextFile, ...]:
    """Every text in ``path`` (file, packed file, archive or folder), in the order of the names.

    Raises UserError for a missing path (with the nearest existing name), a file that may not be read, a damaged or
    unknown packing, and a folder or archive without text.
    """
    try:
        return _read(path, cache)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or error}") from None


def _read(path: Path, cache: Path) -> tuple[TextFile, ...]:
    if not path.exists():
        raise UserError(f"no file or folder {path}{_nearest(path)}")
    if path.is_dir():
        return _read_folder(path, cache)
    name = path.name.lower()
    if name.endswith(UNREADABLE_SUFFIXES):
        raise UserError(f"cannot read {path}: text may be plain, .gz, .bz2, .xz, .zip or a tar archive")
    if name.endswith(ARCHIVE_SUFFIXES) or name.endswith(tuple(PACKED_SUFFIXES)):
        return _unpacked(path, cache)
    return (TextFile(path.name, path, path.stat().st_size, file_digest(path, "sha256", cache)),)


def read_chunks(path: Path, start: int, n_bytes: int) -> Iterator[bytes]:
    """Bytes ``start`` to ``start + n_bytes`` of a plain file, in chunks of at most 4 MiB cut at line ends."""
    with path.open("rb") as file:
        file.seek(start)
        yield from cut_chunks(file, n_bytes, path)


def cut_chunks(file: BinaryIO, n_bytes: int, where: Path) -> Iterator[bytes]:
    """The next ``n_bytes`` of an open file in chunks of at most 4 MiB.

    A chunk ends after a newline; where there is none, before a space (so that a word keeps the space in front of it);
    where there is neither, before a character.
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
    """Where to cut the end off so that what stays ends after a newline; else before a space; else after a character."""
    newline = data.rfind(b"\n")
    if newline >= 0:
        return newline + 1
    space = data.rfind(b" ")
    if space > 0:
        return space
    cut = len(data) - 1
    while cut > max(len(data) - 4, 1) and 0x80 <= data[cut] < 0xC0:
        cut -= 1
    return max(cut, 1)


def cut_after(path: Path, at: int, n_bytes: int) -> int:
    """The first offset from ``at`` on, at most ``n_bytes``, where a line ends; else a word; else a character."""
    with path.open("rb") as file:
        file.seek(max(at - 1, 0))
        previous = file.read(1) if at else b"\n"
        if previous == b"\n":
            return at
        block = file.read(min(CHUNK_BYTES, n_bytes - at))
    newline = block.find(b"\n")
    if newline >= 0:
        return at + newline + 1
    space = block.find(b" ")
    if space >= 0:
        return at + space
    step = 0
    while step < len(block) and 0x80 <= block[step] < 0xC0:
        step += 1
    return at + step


def file_digest(path: Path, algorithm: str, cache: Path) -> str:
    """Hexadecimal digest of a file; that of a large file is remembered by path, size and time of change."""
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{algorithm}"
    memo = cache / "digests" / hashlib.sha256(key.encode()).hexdigest()[:32]
    large = status.st_size >= _MEMO_BYTES
    if large:
        with contextlib.suppress(OSError):
            return memo.read_text(encoding="ascii")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if large and time.time() - status.st_mtime > _MEMO_AGE_S:
        with contextlib.suppress(UserError, OSError), replaced_atomically(memo) as file:
            file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def _nearest(path: Path) -> str:
    """Hint at an existing neighbour with a name like the missing one."""
    if path.parent.is_dir():
        return did_you_mean(path.name, [neighbour.name for neighbour in path.parent.iterdir()])
    return f": there is no folder {path.parent} either"


def _is_text(name: str) -> bool:
    name = name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(TEXT_SUFFIXES)


def _read_folder(folder: Path, cache: Path) -> tuple[TextFile, ...]:
    files = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and _is_text(path.name) and not any(part.startswith(".") for part in relative.parts):
            text = _read(path, cache)[0]
            files.append(TextFile(relative.as_posix(), text.path, text.n_bytes, text.sha256))
    if not files:
        raise UserError(f"no text in the folder {folder}: its files must end in {_allowed()}")
    return tuple(files)


def _allowed() -> str:
    return ", ".join(TEXT_SUFFIXES) + " (also packed: " + ", ".join(PACKED_SUFFIXES) + ")"


def _unpacked(path: Path, cache: Path) -> tuple[TextFile, ...]:
    """The texts of a packed file, from the cache when it was unpacked before."""
    packing = next(s for s in (*ARCHIVE_SUFFIXES[::-1], *PACKED_SUFFIXES) if path.name.lower().endswith(s))
    folder = cache / "unpacked" / (file_digest(path, "sha256", cache)[:32] + packing)
    files = _read_index(folder)
    if files is None:
        files = _unpack(path, folder)
    if not files:
        raise UserError(f"no text in the archive {path}: its files must end in {_allowed()}")
    if packing in PACKED_SUFFIXES:  # the text bears the name of its file, which may have been renamed since
        files = (replace(files[0], name=path.name[: -len(packing)]),)
    return files


def _read_index(folder: Path) -> tuple[TextFile, ...] | None:
    """The texts unpacked in ``folder``, or None when it is absent or incomplete."""
    try:
        rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        files = tuple(TextFile(name, folder / file, size, sha256) for name, file, size, sha256 in rows)
        return files if all(file.path.stat().st_size == file.n_bytes for file in files) else None
    except (OSError, ValueError):
        return None


def _unpack(path: Path, folder: Path) -> tuple[TextFile, ...]:
    make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix="tmp-"))
    try:
        rows = []
        try:
            for name, file in _members(path):
                target = f"{len(rows):06d}.txt"
                size, sha256 = _copy(file, temporary / target)
                rows.append((name, target, size, sha256))
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:  # no space, not allowed: not the file's fault
                raise UserError(f"cannot unpack {path} into {folder.parent}: {error.strerror}") from None
            reason = str(error) or type(error).__name__
            raise UserError(f"{path} is damaged or is not what its name says ({reason})") from None
        rows.sort()
        (temporary / "index.json").write_text(json.dumps(rows), encoding="utf-8")
        if folder.exists() and _read_index(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was first: its copy is the same
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = _read_index(folder)
    if files is None:
        raise UserError(f"cannot unpack {path} into {folder}: remove that folder and try again")
    return files


def _copy(file: BinaryIO, target: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as out:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
            out.write(block)
    return size, digest.hexdigest()


def _members(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Name and open file of every text in a packed file. Members are never written under their own names."""
    name = path.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            for member in members:
                if len(members) == 1 or _is_text(member.filename):
                    with archive.open(member) as file:
                        yield from _opened(member.filename, file)
    elif name.endswith(ARCHIVE_SUFFIXES):
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and _is_text(member.name) and not Path(member.name).name.startswith("."):
                    yield from _opened(member.name, archive.extractfile(member))
    else:
        open_packed: Callable = PACKED_SUFFIXES[path.suffix.lower()]
        with open_packed(path, "rb") as file:
            yield path.name[: -len(path.suffix)], file


def _opened(name: str, file: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    suffix = Path(name).suffix.lower()
    if suffix in PACKED_SUFFIXES:
        with PACKED_SUFFIXES[suffix](file, "rb") as inner:
            yield name[: -len(suffix)], inner
    else:
        yield name, file
