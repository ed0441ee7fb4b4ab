"""The files of one checkpoint: written and copied whole, read with their digests. See `seqjax.training.checkpoints`."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from seqjax.data.sources import file_digest
from seqjax.errors import UserError
from seqjax.host.disk import storage_errors

Tree = Any
RECORD = "seqjax.json"
OF_THE_MACHINE = re.compile(  # errors of Orbax and TensorStore that do not mean a damaged file
    r"No space left|File too large|quota exceeded|Permission denied|Read-only file system|Too many open files|"
    r"Input/output error|Stale file handle|Cannot allocate|RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|"
    r"DEADLINE_EXCEEDED",
    re.IGNORECASE,
)


def copy_checkpoint(source: Path, target: Path, step: int, before: Callable[[dict[str, Any]], None]) -> bool:
    """Copy the checkpoint of this step from one run folder to another; it appears there whole, or not at all.

    Args:
        before: called with the values of the host's loop when the copy is whole, just before it appears.
    Returns:
        False: it is damaged, or was deleted meanwhile.
    """
    folder = target / "checkpoints"
    unfinished = folder / f"{step}.writing"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove(unfinished)
    record = None
    with contextlib.suppress(shutil.Error, FileNotFoundError, Damaged):
        shutil.copytree(source / "checkpoints" / str(step), unfinished)
        record = read_record(unfinished)
    with storage_errors(folder):
        if record is None or record["host"].get("metrics") is None:
            remove(unfinished)
            return False
        for path in unfinished.rglob("*"):
            sync(path)
        before(record["host"])
        sync(target)
        unfinished.rename(folder / str(step))
        sync(folder)
    return True


class Damaged(Exception):
    """A file has a wrong digest or is missing; the message names it."""


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write ``seqjax.json``, with the sha256 of every other file."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    body = json.dumps({**record, "files": {str(file.relative_to(path)): file_digest(file) for file in files}})
    with open(path / RECORD, "w", encoding="utf-8") as file:
        file.write(f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n")
        file.flush()
        os.fsync(file.fileno())


def read_record(path: Path) -> dict[str, Any] | None:
    """The contents of ``seqjax.json``, after checking the digest of every file; None if it does not exist.

    Raises:
        Damaged: the record or a file is missing or has another digest.
        UserError: a file cannot be read, perhaps for lack of permission.
    """
    try:
        if not os.path.lexists(path / RECORD):
            return None
        written = (path / RECORD).read_bytes().split(b"\n")
        if len(written) != 3 or hashlib.sha256(written[1]).hexdigest().encode() != written[0]:
            raise Damaged(f"{RECORD} is not as it was written")
        record = json.loads(written[1])
        for name, sha256 in record["files"].items():
            if file_digest(path / name) != sha256:
                raise Damaged(f"{name} is not as it was written")
        return record
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Damaged(f"{Path(error.filename).relative_to(path)} is not there") from None
    except OSError as error:
        raise unreadable(path, error) from error


def by_this_process() -> contextlib.AbstractContextManager[Any]:
    """Let Orbax read and write in this process alone: of several, only process 0 has the run folder."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    from orbax.checkpoint.experimental.v1._src.saving import execution

    # Orbax 0.12 compares the paths of all processes, also of those that take no part: they would wait for ever
    execution._check_directory_consistency = lambda directory: None
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
    )
    return ocp.Context(multiprocessing_options=alone)


def form_on_disk(like: Any) -> Any:
    """What Orbax reads an array as: with its sharding, or as numpy if that spans processes."""
    if like.sharding.is_fully_addressable:
        return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=like.sharding)
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)


def read_old_record(path: Path, name: str) -> dict[str, Any]:
    """The record of a checkpoint of earlier versions, which kept it in Orbax's metadata. The digest of its arrays is
    checked."""
    try:
        with by_this_process():
            found, sha256 = ocp.metadata(name).custom_metadata or {}, digest(jax.device_get(ocp.load(name)))
        if found.get("sha256") == sha256:
            return {"arrays": found["sha256"], "host": found["host"]}
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if OF_THE_MACHINE.search(f"{error} {error.__cause__ or ''}"):
            raise unreadable(path, error) from error
        raise Damaged(type(error.__cause__ or error).__name__) from error
    raise Damaged("its digest does not fit")


def unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error} {error.__cause__ or ''}".split())[:200]
    return UserError(f"{path}: this checkpoint cannot be read here ({reason}); it may be undamaged and is kept")


def compare_shapes(path: Path, saved: Tree, wanted: Tree) -> None:
    """Raise a UserError with the first array whose shape or dtype differs in the checkpoint."""
    there, here = (
        {jax.tree_util.keystr(key): f"{leaf.dtype}{list(leaf.shape)}" for key, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (saved, wanted)
    )
    for key in sorted({**there, **here}):
        if there.get(key) != here.get(key):
            raise UserError(
                f"{path}: has another config or setting of JAX: {key} is {there.get(key, 'absent')} in it and "
                f"{here.get(key, 'absent')} here; use the ones that the run began with"
            )


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # file systems without it
        pass
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or folder. A folder is renamed first, so that a reader never sees half a checkpoint."""
    if path.is_dir() and not path.is_symlink():
        unwanted = path.with_name(path.name + ".unwanted")
        if path.suffix != ".unwanted":
            shutil.rmtree(unwanted, ignore_errors=True)
            path.rename(unwanted)
            path = unwanted
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_room(folder: Path, n_bytes: int) -> None:
    """Raise OSError if ``n_bytes`` cannot be written: Orbax would fail only later, in its background threads.

    Reserving them in a temporary file detects full disks, quotas and limits.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, n_bytes))
        except (AttributeError, OSError) as error:  # systems and file systems that cannot reserve
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def digest(arrays: Tree) -> str:
    """sha256 over names, dtypes, shapes and bytes of the leaves of a tree of host arrays."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(arrays):
        value = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        total.update(value.tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def storage_failures(folder: Path) -> Iterator[None]:
    """Turn Orbax's and TensorStore's errors of a full disk and the like into a UserError."""
    try:
        yield
    except (UserError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:
        text = f"{error} {error.__cause__ or ''}"
        if (found := OF_THE_MACHINE.search(text)) is None:
            raise
        raise UserError(
            f"{folder}: cannot write a checkpoint ({found[0]}); what is on disk is intact: fix this "
            "and start the same command again"
        ) from error
