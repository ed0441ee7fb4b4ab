"""The run folder: files that anyone can read without seqjax, and that are never half true.

    config.json      the complete, canonical config
    data.json        sha256 of the corpus and of the tokenizer the run began with
    metrics.jsonl    one object a line, the source of truth for curves
    result.json      written once, when the run has ended: losses, counts, versions, hardware, status
    checkpoints/     see seqjax.training.checkpoints; a damaged one is renamed, not deleted
    log.txt          what was printed
    lock             held by the process that trains

Small files are replaced atomically. A line of metrics.jsonl that a killed process left torn is dropped on resume.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqjax.config import Config, canonical_json, dotted, to_dict
from seqjax.errors import UserError
from seqjax.overlay import load_config


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: a reader, or a crash, sees the old file or the new one, nothing between."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """As :func:`write_atomically`, for bytes."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` atomically by indented JSON; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


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
        else:
            raise
        raise UserError(
            f"{error.filename or folder}: {reason} ({os.strerror(error.errno or 0)}); what is in {folder} is intact: "
            "mend this and start the same command again"
        ) from error


def open_run(folder: Path, config: Config) -> None:
    """Make the run folder, or check that the one that is there is of the same config.

    Raises:
        UserError: the folder holds a run of another config (the first key that differs is named), or is not a folder.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        records = holds_records(folder)  # looked at first: another launcher may be writing config.json right now
        if path.exists():
            _compare(read_config(folder), config, folder)
        elif records:
            raise UserError(f"{folder}: holds files but no config.json, so it is not a run folder; choose another one")
        else:
            write_json(path, to_dict(config))


def holds_records(folder: Path) -> bool:
    """Whether there are JSON files in a folder, apart from those that are just being written."""
    return any(file.suffix in (".json", ".jsonl") for file in folder.iterdir())


def read_config(folder: Path) -> Config:
    """The config saved with a run."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not a run folder (it has no config.json)")
    return load_config(path)


def bind_data(folder: Path, corpus_sha256: str, tokenizer_sha256: str) -> None:
    """Note the text and tokenizer that a run begins with, or check that they are still the same.

    Raises:
        UserError: the corpus or the tokenizer is not the one that the run began with.
    """
    path = folder / "data.json"
    now = {"corpus_sha256": corpus_sha256, "tokenizer_sha256": tokenizer_sha256}
    if not path.is_file():
        write_json(path, now)
        return
    then = json.loads(path.read_text(encoding="utf-8"))
    for key, name in (("corpus_sha256", "data.corpus"), ("tokenizer_sha256", "data.tokenizer")):
        if then.get(key) != now[key]:
            raise UserError(
                f"{folder}: {name} is not what this run began with (sha256 {str(then.get(key))[:12]} then, "
                f"{now[key][:12]} now); restore the text, or train another run on the new one"
            )


def corpus_sha256(folder: Path) -> str | None:
    """That of the text that a run began with; None where it has not begun."""
    path = folder / "data.json"
    return json.loads(path.read_text(encoding="utf-8")).get("corpus_sha256") if path.is_file() else None


def _compare(saved: Config, asked: Config, folder: Path) -> None:
    if canonical_json(saved) == canonical_json(asked):
        return
    for (key, there), (_, here) in zip(dotted(to_dict(saved)), dotted(to_dict(asked)), strict=False):
        if there != here:
            raise UserError(
                f"{folder}: holds a run of another config: {key} is {there!r} there and {here!r} here; "
                "choose another run folder, or resume that run by naming its folder"
            )
    raise UserError(f"{folder}: holds a run of another kind of model; choose another run folder")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run folder; the lock goes with the process, however it ends.

    Raises:
        Locked: another process is training this run.
    """
    with storage_errors(folder), open(folder / "lock", "a+", encoding="utf-8") as file:
        for attempt in range(10):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # perhaps only `is_locked`, which looks for a moment
                if attempt == 9:
                    raise Locked(f"{folder}: another process is training this run") from None
                time.sleep(0.02)
        yield


class Locked(UserError):
    """Another process is training the run."""


def is_locked(folder: Path) -> bool:
    """Whether a process is training this run now."""
    try:
        with open(folder / "lock", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, oldest first; a torn last line is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def keep_metrics(folder: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines for which ``keep`` is false (and a torn one), so that a resumed run writes them once more."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        kept = [json.dumps(record) for record in read_metrics(folder) if keep(record)]
        write_atomically(path, "".join(line + "\n" for line in kept))


def append_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to metrics.jsonl and hand it to the operating system at once."""
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def sync_metrics(folder: Path) -> None:
    """Return when metrics.jsonl is on disk, so that no checkpoint is ever newer than the lines before it."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def read_result(folder: Path) -> dict[str, Any] | None:
    """The contents of result.json, or None while the run has not ended."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
