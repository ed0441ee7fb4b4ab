"""Folders of raw corpora and of derived files (unpacked text, tokenizers, token shards)."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from seqjax.errors import UserError


def _user_cache() -> Path | None:
    """The user's cache folder of the system; None without a home folder, as in containers and for cron."""
    import platformdirs

    try:
        return Path(platformdirs.user_cache_dir("seqjax"))
    except RuntimeError:
        return None


def expanded(name: str) -> Path:
    """A path with ``~`` expanded to the home folder; unchanged if there is none."""
    return Path(os.path.expanduser(name))


def data_folder() -> Path:
    """Folder of raw corpora: ``SEQJAX_DATA``, or ``corpora`` in the user's cache of seqjax, or in SEQJAX_CACHE."""
    named = os.environ.get("SEQJAX_DATA")
    return expanded(named) if named else (_user_cache() or cache_folder()) / "corpora"


def cache_folder() -> Path:
    """Folder of derived files: ``SEQJAX_CACHE``, or the user's cache of seqjax (``~/.cache/seqjax`` on Linux).

    Raises:
        UserError: the user has no home, and SEQJAX_CACHE is not set.
    """
    named = os.environ.get("SEQJAX_CACHE")
    folder = expanded(named) if named else _user_cache()
    if folder is None:
        raise UserError("this user has no home folder (HOME): set SEQJAX_CACHE to a folder you can write to")
    return folder


def make_folder(folder: Path) -> Path:
    """Create the folder and its parents. Raises UserError, with how to choose another folder, if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable("create", folder, error) from None
    return folder


@contextlib.contextmanager
def replaced_atomically(path: Path) -> Iterator[BinaryIO]:
    """As :func:`swapped`, for a file of the cache: makes its folder; errors say how to choose another cache."""
    make_folder(path.parent)
    try:
        with swapped(path) as file:
            yield file
    except OSError as error:
        raise _unwritable("write", path, error) from None


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[BinaryIO]:
    """A temporary file in a folder of the cache, for reading and writing; errors say how to choose another cache."""
    try:
        with tempfile.TemporaryFile(dir=make_folder(folder)) as file:
            yield file
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise  # an error of the caller's block
        raise _unwritable("write in", folder, error) from None


@contextlib.contextmanager
def swapped(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for writing; on success flush it to disk and move it over ``path``.

    Readers see the old file or the new one. With two writers at once, the file of the last one remains. The mode of the
    file follows the umask, if the file system supports modes.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _unwritable(action: str, path: Path, error: OSError) -> UserError:
    return UserError(f"cannot {action} {path} ({error.strerror}): set SEQJAX_CACHE to a folder you can write to")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
