"""Checkpoints: written in the background, complete or absent, with digests. The last two and the best are kept.

    checkpoints/20/                 Orbax's files, and ``seqjax.json``
    checkpoints/20/seqjax.json      values of the host's loop, and the sha256 of each file
    checkpoints/20.writing/         an incomplete save; renamed to ``20`` when complete
    checkpoints/20.damaged/         a checkpoint with a wrong digest; kept until the next one is found

A checkpoint is damaged if a digest is wrong. Any other failure to read it is an error with its own reason, and moves
nothing. Checkpoints of earlier versions hold one digest of their arrays and can still be read.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization
from orbax.checkpoint import v1 as ocp

from seqjax.errors import UserError, printable
from seqjax.host.disk import storage_errors
from seqjax.runs import read_metrics, steps_of

Tree = Any
KEPT = 2
RECORD = "seqjax.json"
ONE_AT_A_TIME = threading.Lock()  # two saves of Orbax in one process wait for each other's signals
UNFINISHED = ("*.orbax-checkpoint-tmp*", "*.writing", "*.unwanted")
OF_THE_MACHINE = re.compile(  # errors of Orbax and TensorStore that do not mean a damaged file
    r"No space left|File too large|quota exceeded|Permission denied|Read-only file system|Too many open files|"
    r"Input/output error|Stale file handle|Cannot allocate|RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|"
    r"DEADLINE_EXCEEDED",
    re.IGNORECASE,
)


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        run_folder: its ``checkpoints/`` holds them; its ``metrics.jsonl`` tells the best.
        writable: False: only read, and ignore the files that a running process is writing.
        pinned: steps whose checkpoints are kept too.
    """

    def __init__(self, run_folder: Path, writable: bool = True, pinned: Sequence[int] = ()) -> None:
        self._run_folder, self._pinned = run_folder, pinned
        self._folder = run_folder / "checkpoints"
        self._saving: Future[None] | None = None
        self._worker = ThreadPoolExecutor(1, "checkpoints")
        self._writable = writable
        self._descriptor: int | None = None
        for name in ("absl", "asyncio", "orbax"):  # they log tracebacks of errors that we report in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with storage_errors(self._folder):
            if writable:
                self._folder.mkdir(parents=True, exist_ok=True)
                for pattern in UNFINISHED:  # left by processes that have ended: this one holds the lock of the run
                    for path in self._folder.glob(pattern):
                        _remove(path)
                self._name("")  # refuses an impossible path before training

    def save(self, step: int, state: Tree, host: dict[str, Any]) -> None:
        """Copy the state to the host and write it in the background.

        Args:
            step: the name of the checkpoint.
            host: JSON values of the host's loop.
        """
        self._settle()
        # copies, since the next step reuses the buffers and the caller changes its values
        arrays = jax.tree.map(np.array, serialization.to_state_dict(state))
        record = {"host": copy.deepcopy(host), "arrays": digest(arrays)}
        with storage_errors(self._folder):
            _check_room(self._folder, sum(array.nbytes for array in jax.tree.leaves(arrays)))
        self._saving = self._worker.submit(self._write, step, arrays, record)

    def _write(self, step: int, arrays: Tree, record: dict[str, Any]) -> None:
        unfinished = self._folder / f"{step}.writing"
        _remove(unfinished)
        with ONE_AT_A_TIME:
            ocp.save(self._name(unfinished.name), arrays)
        body = json.dumps({**record, "files": _digests(unfinished)})
        with open(unfinished / RECORD, "w", encoding="utf-8") as file:
            file.write(f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n")
            file.flush()
            os.fsync(file.fileno())
        _remove(self._folder / str(step))  # there may be a file of that name
        unfinished.rename(self._folder / str(step))
        _sync(self._folder)
        self._prune()

    def _prune(self) -> None:
        steps = self.steps()
        for step in sorted(set(steps) - {*steps[-KEPT:], self.best(steps), *self._pinned}):
            _remove(self._folder / str(step))

    def discard(self, step: int) -> None:
        """Delete a checkpoint whose evaluation was not finite."""
        self.wait()
        _remove(self._folder / str(step))

    def steps(self) -> list[int]:
        """The steps of all checkpoints, oldest first; other names in the folder are ignored."""
        return steps_of(self._run_folder)

    def last(self) -> int | None:
        """The newest step that is there, once what is being written is."""
        self._settle()
        return max(self.steps(), default=None)

    def best(self, steps: Sequence[int] | None = None) -> int | None:
        """The step of ``steps`` (None: all) with the lowest validation loss; None if none was measured."""
        losses = {r["step"]: r["validation_loss"] for r in read_metrics(self._run_folder) if "validation_loss" in r}
        measured = [step for step in (self.steps() if steps is None else steps) if step in losses]
        return min(measured, key=losses.__getitem__, default=None)

    def restore(
        self, like: Tree, say: Callable[[str], None], step: int | None = None
    ) -> tuple[int, Tree, dict[str, Any]] | None:
        """The newest whole checkpoint not after ``step``; None if there is none.

        Args:
            like: a state of the same structure, shapes and shardings.
            say: called with a line for each damaged checkpoint that is skipped.
        Returns:
            Step, state, and the values of the host's loop.
        Raises:
            UserError: all are damaged; one that is not damaged cannot be read; one is of another config.
        """
        damaged: list[int] = []
        while candidates := [s for s in self.steps() if (step is None or s <= step) and s not in damaged]:
            candidate = candidates[-1]
            path = self._folder / str(candidate)
            try:
                state, host = self._load(candidate, like)
            except Exception as error:
                if not path.is_dir():
                    continue  # the process that trains this run has deleted it
                if not isinstance(error, _Damaged):
                    raise
                say(f"checkpoint {candidate} in {self._folder} is corrupt ({error}); taking the one before")
                damaged.append(candidate)
                continue
            if damaged and self._writable:
                self._set_aside(damaged)
            return candidate, state, host
        if damaged:
            raise UserError(
                f"{self._folder}: every checkpoint is corrupt; move that folder away to train from the start"
            )
        return None

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Rename damaged checkpoints to ``*.damaged``; delete those of an earlier start."""
        with storage_errors(self._folder):
            for path in self._folder.glob("*.damaged"):
                _remove(path)
            _remove(self._run_folder / "set-aside")  # where earlier versions put them
            for step in steps:
                (self._folder / str(step)).rename(self._folder / f"{step}.damaged")

    def _load(self, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        """State and host values.

        Raises:
            _Damaged: a digest is wrong.
            UserError: it is of another config, or cannot be read here.
        """
        path = self._folder / str(step)
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), serialization.to_state_dict(like)
        )
        record = _read_record(path) or _read_old_record(path, self._name(step))
        try:
            _compare_shapes(path, ocp.metadata(self._name(step)).metadata, wanted)
            arrays = ocp.load(self._name(step), wanted)
        except (MemoryError, UserError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax raises many kinds
            raise _unreadable(path, error) from error
        if record["arrays"] != digest(jax.device_get(arrays)):
            raise _Damaged("its digest does not fit")
        return serialization.from_state_dict(like, arrays), record["host"]

    def _name(self, name: str | int) -> str:
        """A path for Orbax, by a file descriptor of the folder if possible. In other paths Orbax takes ``[1]`` for a
        pattern, a backslash for a slash and ``gs:`` for a bucket, and it fails on bytes that are not UTF-8."""
        if self._descriptor is None:
            self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            weakref.finalize(self, os.close, self._descriptor)
        by_descriptor = f"/proc/self/fd/{self._descriptor}"
        if os.path.isdir(by_descriptor):
            return f"{by_descriptor}/{name}"
        path = str(self._folder.absolute() / str(name))
        if re.search(r"[\[\\\udc80-\udcff]|/gs:|^/gcs/", path):
            raise UserError(
                f"{printable(path)}: checkpoints cannot be kept under a path with '[', a backslash, 'gs:' or "
                "bytes that are not UTF-8; choose another folder"
            )
        return path

    def wait(self) -> None:
        """Wait until everything is on disk; delete checkpoints that are not kept."""
        self._settle()
        if self._writable:
            with storage_errors(self._folder):
                self._prune()

    def _settle(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            with storage_errors(self._folder), _storage_failures(self._folder):
                saving.result()

    def close(self) -> None:
        """Wait for the save in progress and stop the worker."""
        try:
            self._settle()
        finally:
            self._worker.shutdown()


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
        _remove(unfinished)
    try:
        shutil.copytree(source / "checkpoints" / str(step), unfinished)
    except (shutil.Error, FileNotFoundError):
        record = None
    else:
        try:
            record = _read_record(unfinished)
        except _Damaged:
            record = None
    with storage_errors(folder):
        if record is None or record["host"].get("metrics") is None:
            _remove(unfinished)
            return False
        for path in unfinished.rglob("*"):
            _sync(path)
        before(record["host"])
        _sync(target)
        unfinished.rename(folder / str(step))
        _sync(folder)
    return True


class _Damaged(Exception):
    """A file has a wrong digest or is missing; the message names it."""


def _read_record(path: Path) -> dict[str, Any] | None:
    """The contents of ``seqjax.json``, after checking the digest of every file; None if it does not exist.

    Raises:
        _Damaged: the record or a file is missing or has another digest.
        UserError: a file cannot be read, perhaps for lack of permission.
    """
    try:
        if not os.path.lexists(path / RECORD):
            return None
        written = (path / RECORD).read_bytes().split(b"\n")
        if len(written) != 3 or hashlib.sha256(written[1]).hexdigest().encode() != written[0]:
            raise _Damaged(f"{RECORD} is not as it was written")
        record = json.loads(written[1])
        for name, sha256 in record["files"].items():
            if _sha256(path / name) != sha256:
                raise _Damaged(f"{name} is not as it was written")
        return record
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise _Damaged(f"{Path(error.filename).relative_to(path)} is not there") from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_old_record(path: Path, name: str) -> dict[str, Any]:
    """The record of a checkpoint of earlier versions, which kept it in Orbax's metadata. The digest of its arrays is
    checked."""
    try:
        found = ocp.metadata(name).custom_metadata or {}
        if found.get("sha256") == digest(jax.device_get(ocp.load(name))):
            return {"arrays": found["sha256"], "host": found["host"]}
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if OF_THE_MACHINE.search(f"{error} {error.__cause__ or ''}"):
            raise _unreadable(path, error) from error
        raise _Damaged(type(error.__cause__ or error).__name__) from error
    raise _Damaged("its digest does not fit")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error} {error.__cause__ or ''}".split())[:200]
    return UserError(f"{path}: this checkpoint cannot be read here ({reason}); it may be undamaged and is kept")


def _compare_shapes(path: Path, saved: Tree, wanted: Tree) -> None:
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


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # file systems without it
        pass
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
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


def _check_room(folder: Path, n_bytes: int) -> None:
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
def _storage_failures(folder: Path) -> Iterator[None]:
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
