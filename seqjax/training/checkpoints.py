"""Checkpoints: written in the background, complete or absent, with digests. The last two and the best are kept.

    checkpoints/20/                 Orbax's files, and ``seqjax.json``
    checkpoints/20/seqjax.json      values of the host's loop, and the sha256 of each file
    checkpoints/20.writing/         an incomplete save; renamed to ``20`` when complete
    checkpoints/20.damaged/         a checkpoint with a wrong digest; kept until the next one is found

A checkpoint is damaged if a digest is wrong. Any other failure to read it is an error with its own reason, and moves
nothing. Checkpoints of earlier versions hold one digest of their arrays and can still be read.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Sequence
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
from seqjax.training.checkpoint_files import (
    Damaged,
    by_this_process,
    check_room,
    compare_shapes,
    digest,
    form_on_disk,
    read_old_record,
    read_record,
    remove,
    storage_failures,
    sync,
    unreadable,
    write_record,
)

Tree = Any
KEPT = 2
SAVE_SECONDS = 300.0  # that a process which has to end gives to a save in progress
ONE_AT_A_TIME = threading.Lock()  # two saves of Orbax in one process wait for each other's signals
UNFINISHED = ("*.orbax-checkpoint-tmp*", "*.writing", "*.unwanted")


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
                        remove(path)
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
            check_room(self._folder, sum(array.nbytes for array in jax.tree.leaves(arrays)))
        self._saving = self._worker.submit(self._write, step, arrays, record)

    def _write(self, step: int, arrays: Tree, record: dict[str, Any]) -> None:
        unfinished = self._folder / f"{step}.writing"
        remove(unfinished)
        with ONE_AT_A_TIME, by_this_process():
            ocp.save(self._name(unfinished.name), arrays)
        write_record(unfinished, record)
        remove(self._folder / str(step))  # there may be a file of that name
        unfinished.rename(self._folder / str(step))
        sync(self._folder)
        self._prune()

    def _prune(self) -> None:
        steps = self.steps()
        for step in sorted(set(steps) - {*steps[-KEPT:], self.best(steps), *self._pinned}):
            remove(self._folder / str(step))

    def discard(self, step: int) -> None:
        """Delete a checkpoint whose evaluation was not finite."""
        self.wait()
        remove(self._folder / str(step))

    def steps(self) -> list[int]:
        """The steps of all checkpoints, oldest first; other names in the folder are ignored."""
        return steps_of(self._run_folder)

    def last(self) -> int | None:
        """The newest step on disk, after a pending write has ended."""
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
                if not isinstance(error, Damaged):
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
        """Rename damaged checkpoints to ``*.damaged``; delete checkpoints of an earlier start."""
        with storage_errors(self._folder):
            for path in self._folder.glob("*.damaged"):
                remove(path)
            remove(self._run_folder / "set-aside")  # where earlier versions put them
            for step in steps:
                (self._folder / str(step)).rename(self._folder / f"{step}.damaged")

    def _load(self, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        """State and host values.

        Raises:
            Damaged: a digest is wrong.
            UserError: it is of another config, or cannot be read here.
        """
        path = self._folder / str(step)
        wanted = jax.tree.map(form_on_disk, serialization.to_state_dict(like))
        record = read_record(path) or read_old_record(path, self._name(step))
        try:
            with by_this_process():
                compare_shapes(path, ocp.metadata(self._name(step)).metadata, wanted)
                arrays = ocp.load(self._name(step), wanted)
        except (MemoryError, UserError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax raises many kinds
            raise unreadable(path, error) from error
        if record["arrays"] != digest(jax.device_get(arrays)):
            raise Damaged("its digest does not fit")
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

    def finish(self) -> None:
        """Wait for the save in progress, `SAVE_SECONDS` at most. Another thread may call it."""
        if (saving := self._saving) is not None:
            saving.result(SAVE_SECONDS)

    def wait(self) -> None:
        """Wait until everything is on disk; delete checkpoints that are not kept."""
        self._settle()
        if self._writable:
            with storage_errors(self._folder):
                self._prune()

    def _settle(self) -> None:
        if self._saving is not None:
            try:
                with storage_errors(self._folder), storage_failures(self._folder):
                    self._saving.result()
            finally:
                self._saving = None

    def close(self) -> None:
        """Wait for the save in progress and stop the worker."""
        try:
            self._settle()
        finally:
            self._worker.shutdown()
