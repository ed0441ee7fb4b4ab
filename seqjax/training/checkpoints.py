"""Checkpoints through Orbax: asynchronous, atomic, the last two and the best kept, each with a digest.

Orbax finds a truncated file but loads a flipped bit without a word, so every checkpoint carries the sha256 of its
arrays, and one whose digest does not fit counts as corrupt: the one before is taken, and that is said.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization
from orbax.checkpoint import v1 as ocp

from seqjax.errors import UserError
from seqjax.runs import read_metrics, storage_errors

Tree = Any
KEPT = 2


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        run_folder: its ``checkpoints/`` holds them, its ``metrics.jsonl`` says which is the best.
        writable: False only reads, and leaves what a running process is writing alone.
    """

    def __init__(self, run_folder: Path, writable: bool = True) -> None:
        self._run_folder = run_folder
        self._folder = run_folder / "checkpoints"
        self._writable = writable
        self._open(unwanted=list(self._folder.glob("*.orbax-checkpoint-tmp*")))

    def _open(self, unwanted: Sequence[Path]) -> None:
        """(Re)open the folder; if we may write, the half-written and the corrupt are first moved to ``set-aside/``."""
        with storage_errors(self._folder), _quiet():
            for path in unwanted if self._writable else ():
                _set_aside(path, self._run_folder / "set-aside")
            self._orbax = ocp.training.Checkpointer(
                self._folder.absolute(), preservation_policy=_LastAndBest(self.best)
            )

    def save(self, step: int, state: Tree, host: dict[str, Any]) -> None:
        """Copy the state to the host and write it in the background.

        Args:
            step: the name of the checkpoint.
            host: what the loop itself must remember, JSON.
        """
        # copies, for the next step is donated the buffers, and the caller's host values move on
        arrays = jax.tree.map(np.array, serialization.to_state_dict(state))
        host = copy.deepcopy(host)
        with storage_errors(self._folder), _storage_failures(self._folder):
            _check_room(self._folder, sum(array.nbytes for array in jax.tree.leaves(arrays)))
            self._orbax.save_async(step, arrays, force=True, custom_metadata={"host": host, "sha256": digest(arrays)})

    def steps(self) -> list[int]:
        """The steps that are there, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def best(self, steps: Sequence[int] | None = None) -> int | None:
        """Of ``steps`` (all that are there), the one of the lowest validation loss; None when none was measured."""
        losses = {r["step"]: r["validation_loss"] for r in read_metrics(self._run_folder) if "validation_loss" in r}
        measured = [step for step in (self.steps() if steps is None else steps) if step in losses]
        return min(measured, key=losses.__getitem__, default=None)

    def restore(
        self, like: Tree, say: Callable[[str], None], step: int | None = None
    ) -> tuple[int, Tree, dict[str, Any]] | None:
        """The newest whole checkpoint not after ``step``, or None when there is none.

        Args:
            like: a state of the same structure, shapes and shardings.
            say: told of each checkpoint that is corrupt and passed over.
        Raises:
            UserError: checkpoints are there but all of them are corrupt.
        """
        candidates = [s for s in reversed(self.steps()) if step is None or s <= step]
        corrupt: list[Path] = []
        for candidate in candidates:
            try:
                state, host = self._load(candidate, like)
            except _Corrupt as error:
                say(f"checkpoint {candidate} in {self._folder} is corrupt ({error}); taking the one before")
                corrupt.append(self._folder / str(candidate))
                continue
            if corrupt:
                self._open(unwanted=corrupt)
            return candidate, state, host
        if candidates:
            raise UserError(
                f"{self._folder}: every checkpoint is corrupt; move that folder away to train from the start"
            )
        return None

    def _load(self, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        shape_tree = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), serialization.to_state_dict(like)
        )
        with _quiet():
            try:
                arrays = self._orbax.load(step, shape_tree)
                metadata = self._orbax.metadata(step).custom_metadata
            except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
                raise  # the machine's fault, not the file's
            except Exception as error:  # Orbax raises many kinds, and hides the reason in __cause__
                raise _Corrupt(f"{type(error.__cause__ or error).__name__}") from error
        if not metadata or metadata.get("sha256") != digest(jax.device_get(arrays)):
            raise _Corrupt("its digest does not fit")
        return serialization.from_state_dict(like, arrays), metadata["host"]

    def wait(self) -> None:
        """Return when everything is on disk."""
        with storage_errors(self._folder), _storage_failures(self._folder):
            self._orbax.wait()

    def close(self) -> None:
        """Wait, and let go of the folder."""
        with storage_errors(self._folder), _storage_failures(self._folder):
            self._orbax.close()


def _check_room(folder: Path, n_bytes: int) -> None:
    """Raise OSError now if so many bytes cannot be written: Orbax would find out in its background threads.

    Reserving them in a file that is thrown away sees full disks, quotas and limits alike.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, n_bytes))
        except (AttributeError, OSError) as error:  # systems and file systems that cannot reserve
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _set_aside(path: Path, folder: Path) -> None:
    """Move a damaged or half-written checkpoint out of the way; nothing is deleted but an older one of that name."""
    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / path.name, ignore_errors=True)
    path.rename(folder / path.name)


class _Corrupt(Exception):
    pass


class _LastAndBest(ocp.training.preservation_policies.PreservationPolicy):
    """Keep the last checkpoints and the best one, by our own record of losses."""

    def __init__(self, best: Callable[[Sequence[int]], int | None]) -> None:
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-KEPT:], self._best(steps)}
        return [step in kept for step in steps]


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
    """Orbax's background threads report a full disk as errors of their own kinds: say it in our words."""
    try:
        yield
    except (UserError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:
        text = f"{error} {error.__cause__ or ''}"
        for phrase in (
            "No space left on device",
            "File too large",
            "Disk quota exceeded",
            "Permission denied",
            "Read-only file system",
        ):
            if phrase in text:
                raise UserError(
                    f"{folder}: cannot write a checkpoint ({phrase}); what is on disk is intact: mend this "
                    "and start the same command again"
                ) from error
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracebacks that Orbax logs for a corrupt checkpoint off the screen: we say it in one line."""
    names = ("absl", "asyncio", "orbax")
    levels = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)
