"""Pointers of Git LFS: three lines of text in a clone instead of a large file that was not fetched."""

from __future__ import annotations

import contextlib
from pathlib import Path

from seqjax.errors import UserError, printable

HEAD_BYTES = 64
_BEGIN = b"version https://git-lfs.github.com/spec/v1"


def refuse_pointer(head: bytes, where: str) -> None:
    """Raise UserError if the first bytes of a file, `HEAD_BYTES` or more, are of a pointer."""
    if head.startswith((_BEGIN + b"\n", _BEGIN + b"\r\n")):
        raise UserError(f"{where} is a pointer of Git LFS and not the file itself: run `git lfs pull` where it lies")


def refuse_pointer_file(path: Path) -> None:
    """As :func:`refuse_pointer`, for a file on disk; an unreadable file passes."""
    head = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    refuse_pointer(head, printable(str(path)))
