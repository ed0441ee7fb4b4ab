"""Files on disk: replaced atomically, read with checks, errors in one line."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqjax.errors import UserError
from seqjax.host.folders import swapped
from seqjax.host.wording import si

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
MEND = {  # file name -> what to do if it is damaged
    "result.json": "remove it, and the run is finished again from its last checkpoint",
    "plan.json": "remove it, and the sweep writes it again",
    "data.json": "remove it if the data is still the same as at the start of the run",
    "tokenizer.json": "remove it, and it is made again from the text",
    "config.json": "bring it back from a copy, or move the folder away and train the run anew",
    "search.json": "remove it, and the sweep writes it again",
    "sweep.json": "start the sweep again, which writes it",
    "arrays.json": "remove it once no job of this sweep runs",
}


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` atomically: after a crash it is the old file or the new one."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """As :func:`write_atomically`, for bytes. The target of a link is replaced; a pipe or a device is written to."""
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:  # a folder is an error here
            file.write(content)
        return
    with swapped(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` atomically by indented JSON. Raises ValueError for NaN and infinity."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def check_place(path: Path) -> None:
    """Check before long work that ``path`` can be written.

    Raises:
        UserError: it is a folder, or its folder does not exist or cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: cannot be written: Is a directory")
    if not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written: Permission denied")


def read_json(path: Path, kind: type = dict) -> Any:
    """The value of type ``kind`` in a JSON file of a run or sweep.

    Raises:
        UserError: the file is missing, empty, truncated, of another type, or must not be read.
    """
    try:
        value = json.loads(path.read_bytes())
        if isinstance(value, kind):
            return value
        reason = f"it holds a {type(value).__name__} where a {kind.__name__} belongs"
    except RecursionError:
        reason = "it is nested too deep"
    except ValueError as error:  # JSON and UTF-8
        reason = "it is empty" if not path.stat().st_size else str(error)
    except FileNotFoundError:
        reason = "it is missing"
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    raise damaged(path, reason)


def read_json_lines(path: Path, is_whole: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The objects in a file with one per line, oldest first; [] without a file. Incomplete or damaged lines are left
    out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, RecursionError):  # also a number of thousands of digits
            record = json.loads(line)
            if isinstance(record, dict) and is_whole(record):
                records.append(record)
    return records


def damaged(path: Path, reason: str) -> UserError:
    """The error for a damaged file: its path, what is wrong, what to do."""
    what = MEND.get(path.name, "bring it back from a copy, or remove it")
    return UserError(f"{path}: is damaged ({reason}); {what}")


def finite(found: Any) -> Any:
    """The same values with None instead of floats that are not finite, which JSON does not have."""
    if isinstance(found, Mapping):
        return {key: finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def need_room(folder: Path, n_bytes: float, what: str) -> None:
    """Check that the disk of a folder, which need not exist yet, has ``n_bytes`` free.

    A file system that does not report its size passes.

    Raises:
        UserError: ``what`` needs more than is free.
    """
    try:
        place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        total, _, free = shutil.disk_usage(place)
    except (OSError, StopIteration):
        return
    if total > 0 and 0 <= free < n_bytes:
        raise UserError(
            f"{folder}: {what} needs about {si(n_bytes)}B, and {si(free)}B are free there: make room, or choose "
            "another folder"
        )


@contextlib.contextmanager
def reading_errors() -> Iterator[None]:
    """Turn the error of a file or folder that cannot be read into UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn errors of an unwritable or full disk into UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = "the disk is full"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "it cannot be written"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            reason = "a file of that name is in the way"
        elif error.errno in NO_LOCKS:
            reason = (
                "its file system has no file locks: mount it with them (Lustre: -o flock), or choose another folder"
            )
        else:
            raise
        raise UserError(
            f"{error.filename or folder}: {reason} ({os.strerror(error.errno or 0)}); what is in {folder} is intact: "
            "fix this and start the same command again"
        ) from error
