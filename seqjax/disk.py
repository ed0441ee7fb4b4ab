"""Files on disk that are never half true: replaced as a whole, read with a reason, errors in one line."""

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
from seqjax.folders import swapped
from seqjax.units import si

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
MEND = {  # what to do where such a file is damaged
    "result.json": "remove it, and the run ends once more from its last checkpoint",
    "plan.json": "remove it, and the sweep writes it once more",
    "data.json": "remove it if the text is still the one that the run began with",
    "config.json": "bring it back from a copy; a sweep writes it once more where it is removed",
    "search.json": "remove it, and the sweep writes it once more",
    "sweep.json": "start the sweep once more, which writes it",
    "arrays.json": "remove it once no job of this sweep runs",
}


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: a reader, or a crash, sees the old file or the new one, nothing between."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """As :func:`write_atomically`, for bytes. Of a link its target is replaced; a pipe or a device is written to."""
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:  # a folder is an error here
            file.write(content)
        return
    with swapped(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` atomically by indented JSON; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kind: type = dict) -> Any:
    """The object (or the list, if that is the kind) in a JSON file of a run or sweep.

    Raises:
        UserError: the file is empty, cut short, holds something else, or may not be read.
    """
    try:
        value = json.loads(path.read_bytes())
        if isinstance(value, kind):
            return value
        reason = f"it holds a {type(value).__name__} where a {kind.__name__} belongs"
    except ValueError as error:  # JSON and UTF-8
        reason = "it is empty" if not path.stat().st_size else str(error)
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    raise damaged(path, reason)


def read_json_lines(path: Path, is_whole: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The objects in a file of one a line, oldest first; none where there is no file. A line that is torn, overwritten
    or not whole is left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if isinstance(record, dict) and is_whole(record):
                records.append(record)
    return records


def damaged(path: Path, reason: str) -> UserError:
    """What to say of a damaged file: where it is, what is wrong with it, what to do."""
    what = MEND.get(path.name, "bring it back from a copy, or remove it")
    return UserError(f"{path}: is damaged ({reason}); {what}")


def finite(found: Any) -> Any:
    """The same values with None in the place of floats that are not finite, which JSON does not have."""
    if isinstance(found, Mapping):
        return {key: finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def need_room(folder: Path, n_bytes: float, what: str) -> None:
    """See that the disk of a folder, which need not be there yet, has room for so many bytes more.

    A file system that cannot tell, or says that it has no size, is taken to have room.

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
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn an unwritable or full disk into one clear line: what is on disk stays valid."""
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
            "mend this and start the same command again"
        ) from error
