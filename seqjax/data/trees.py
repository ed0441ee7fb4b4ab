"""Which files of a folder or an archive are text: one rule for all of them.

- Hidden and platform files and folders are left out (``.git/``, ``._x.txt``, ``__MACOSX/``).
- Files with a suffix of text are text (`TEXT_SUFFIXES`, also packed). A single file with another suffix is text too,
  unless its suffix is of a picture or program.
- In a folder, links are followed and each file is read once. In an archive, links are left out.
- Names are paths from the deepest folder that holds all the text, without the suffix of a packing. Of two files with
  one name, a plain file has precedence over a packed one; else the last is read, as unpacking would leave it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import mimetypes
import os
import posixpath
import stat
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from seqjax.errors import UserError, printable

TEXT_SUFFIXES = (".txt", ".text", ".md", ".tokens", ".raw")
PACKED_SUFFIXES: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".zip")
PLATFORM_NAMES = ("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir")
_TYPES = mimetypes.MimeTypes()  # Python's own table, independent of the system
_SHOWN = 3


class Entry(NamedTuple):
    """One entry of a folder or archive: its path; "file", "link" or "other"; a handle to open it."""

    name: str
    kind: str
    handle: Any = None


class Choice(NamedTuple):
    """The texts by name, in the order of the paths, and a description of files left out ("": none)."""

    texts: dict[str, Entry]
    left_out: str


def choose(entries: Iterable[Entry]) -> Choice:
    """Apply the rule of this module."""
    left: dict[str, dict[str, None]] = {}
    visible = []
    for entry in entries:
        if hidden := _hidden(entry.name):
            left.setdefault("hidden", {})[hidden] = None
        elif entry.kind == "link":
            left.setdefault("links", {})[entry.name] = None
        else:
            visible.append(entry)
    files = [entry for entry in visible if entry.kind == "file"]
    texts = [entry for entry in files if is_text(entry.name)]
    if not texts and len(files) == 1 and _may_be_text(files[0].name):
        texts = files
    taken = set(map(id, texts))
    for entry in visible:
        if id(entry) not in taken:
            kind = "archives" if entry.name.lower().endswith(ARCHIVE_SUFFIXES) else "other kinds"
            left.setdefault(kind, {})[entry.name] = None
    named: dict[str, Entry] = {}
    for entry in texts:
        name = _unpacked_name(entry.name)
        if name in named and name != entry.name and named[name].name == name:  # the plain file is there
            left.setdefault("same name", {})[entry.name] = None
        else:
            if name in named:
                left.setdefault("same name", {})[named[name].name] = None
            named[name] = entry
    shared = len(PurePosixPath(posixpath.commonpath([posixpath.dirname(name) for name in named] or [""])).parts)
    order = sorted(named, key=lambda name: PurePosixPath(name).parts)
    chosen = {printable("/".join(PurePosixPath(name).parts[shared:])): named[name] for name in order}
    return Choice(chosen, _describe({kind: list(names) for kind, names in left.items()}))


def is_text(name: str) -> bool:
    """Whether the suffix is one of text, plain or packed."""
    return _unpacked_name(name).lower().endswith(TEXT_SUFFIXES)


def allowed() -> str:
    """The suffixes of text, for errors."""
    return ", ".join(TEXT_SUFFIXES) + " (also packed: " + ", ".join(PACKED_SUFFIXES) + ")"


def _unpacked_name(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in PACKED_SUFFIXES else name


def _may_be_text(name: str) -> bool:
    kind, packing = _TYPES.guess_type(_unpacked_name(name).lower())
    return packing is None and (kind is None or kind.startswith("text/"))


def _hidden(name: str) -> str | None:
    """The first hidden file or folder in a path; None if there is none."""
    parts = name.split("/")
    for i, part in enumerate(parts):
        if part.startswith(".") or part.lower() in PLATFORM_NAMES:
            return "/".join(parts[: i + 1]) + "/" * (i + 1 < len(parts))
    return None


def _describe(left: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{kind} {len(names)} ({', '.join(map(printable, sorted(names)[:_SHOWN]))}{', ...' * (len(names) > _SHOWN)})"
        for kind, names in left.items()
    )


def walk(root: Path) -> list[Entry]:
    """Everything below a folder; the handle of a file is its path. Links are followed, each file and folder once.

    A link stays a link if it is broken, or if its target is read anyway or contains ``root``.
    """
    found: list[Entry] = []
    links: deque[tuple[str, Path]] = deque()
    seen = {_identity(folder.stat()) for folder in (root.resolve(), *root.resolve().parents)}

    def take_file(name: str, path: Path, status: os.stat_result) -> None:
        twin = is_text(name) and _identity(status) in seen
        if is_text(name):
            seen.add(_identity(status))
        found.append(Entry(name, "link" if twin else "file", path))

    def take_folder(start: str, top: Path) -> None:
        waiting = [(start, top)]
        while waiting:
            prefix, folder = waiting.pop()
            for item in sorted(os.scandir(folder), key=lambda item: item.name):
                name, path = prefix + item.name, Path(item.path)
                if _hidden(name):
                    found.append(Entry(name + "/" * item.is_dir(follow_symlinks=False), "other"))
                elif item.is_symlink():
                    links.append((name, path))
                elif item.is_dir():
                    seen.add(_identity(item.stat()))
                    waiting.append((name + "/", path))
                elif item.is_file():
                    take_file(name, path, item.stat())
                else:
                    found.append(Entry(name, "other"))

    take_folder("", root)
    while links:
        name, path = links.popleft()
        try:
            status = path.stat()
        except OSError:  # it is broken or circular
            found.append(Entry(name, "link"))
            continue
        if stat.S_ISREG(status.st_mode):
            take_file(name, path, status)
        elif stat.S_ISDIR(status.st_mode) and _identity(status) not in seen:
            seen.add(_identity(status))
            take_folder(name + "/", path)
        else:
            found.append(Entry(name, "link"))
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextmanager
def opened_archive(path: Path) -> Iterator[tuple[Sequence[Entry], Callable[[Entry], BinaryIO]]]:
    """The entries of an archive or packed file, and a function that opens one of them.

    Raises the errors of gzip, bz2, lzma, tarfile and zipfile, and UserError for a file with a password.
    """
    name = path.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            yield _zip_entries(archive), lambda entry: _open_zipped(archive, entry, path)
    elif name.endswith(ARCHIVE_SUFFIXES):
        with tarfile.open(path) as archive:
            yield _tar_entries(archive), lambda entry: archive.extractfile(entry.handle)
    else:
        open_packed = PACKED_SUFFIXES[path.suffix.lower()]
        yield [Entry(path.name[: -len(path.suffix)], "file")], lambda _: open_packed(path, "rb")


def _tar_entries(archive: tarfile.TarFile) -> list[Entry]:
    kinds = ((tarfile.TarInfo.isreg, "file"), (tarfile.TarInfo.issym, "link"), (tarfile.TarInfo.islnk, "link"))
    return [
        Entry(_member_name(member.name), next((kind for holds, kind in kinds if holds(member)), "other"), member)
        for member in archive.getmembers()
        if not member.isdir()
    ]


def _zip_entries(archive: zipfile.ZipFile) -> list[Entry]:
    entries = []
    for member in archive.infolist():
        # Names without the flag of UTF-8 are bytes of an unknown encoding, as in a folder; some tools write backslashes
        flagged = member.flag_bits & 0x800
        name = member.filename if flagged else os.fsdecode(member.filename.encode("cp437", "replace"))
        name = name.replace("\\", "/")
        if not name.endswith("/"):
            mode = stat.S_IFMT(member.external_attr >> 16)
            kind = "link" if mode == stat.S_IFLNK else "file" if mode in (0, stat.S_IFREG) else "other"
            entries.append(Entry(_member_name(name), kind, member))
    return entries


def _open_zipped(archive: zipfile.ZipFile, entry: Entry, path: Path) -> Any:
    if entry.handle.flag_bits & 0x1:
        raise UserError(f"{path}: {printable(entry.name)} is under a password: unpack it yourself")
    return archive.open(entry.handle)


def _member_name(name: str) -> str:
    """A path inside the archive: ``./a``, ``/a`` and ``../a`` become ``a``."""
    return posixpath.normpath("/./" + name).lstrip("/")
