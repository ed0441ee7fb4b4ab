"""metrics.jsonl of a run folder: one JSON object a line, appended while a run trains, whole after any stop."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.wording import quoted
from seqjax.runs.folder import is_count, is_number, lock, read_config, read_result, steps_of

if TYPE_CHECKING:
    from seqjax.config import RunConfig


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl, oldest first; incomplete or damaged lines are left out."""
    return disk.read_json_lines(folder / "metrics.jsonl", _is_whole)


def _is_whole(record: dict[str, Any]) -> bool:
    numbers = (record[key] for key in ("tokens", "loss", "validation_loss") if key in record)
    return is_count(record.get("step")) and all(map(is_number, numbers))


def keep_metrics(folder: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines for which ``keep`` is false, and incomplete ones, so that a resumed run writes them again."""
    if (folder / "metrics.jsonl").is_file():
        write_metrics(folder, filter(keep, read_metrics(folder)))


def restore_metrics(folder: Path, step: int, saved: list[dict[str, Any]] | None) -> int:
    """Restore metrics.jsonl to its contents at a checkpoint; return the number of lost or altered lines.

    Args:
        step: of the checkpoint; an evaluation at this step, written after the checkpoint, is kept.
        saved: the lines in the checkpoint; None: it is of an earlier version and has none.
    """
    there = [record for record in read_metrics(folder) if record["step"] <= step]
    if saved is None or there[: len(saved)] == saved:
        write_metrics(folder, there)
        return 0
    write_metrics(folder, saved)
    return sum(record not in there for record in saved) or 1


def restore_ended(folder: Path, say: Callable[[str], None]) -> None:
    """Restore lost lines of metrics.jsonl of an ended run from its last whole checkpoint.

    The checkpoint is older than the last evaluation. The line of that evaluation is made from the result, if possible.

    Args:
        say: called with a line about restored lines.
    Raises:
        UserError: the folder cannot be written.
        Locked: another process holds the folder.
    """
    result = read_result(folder)
    saved = _saved_metrics(folder)
    if result is None or not saved or read_metrics(folder)[: len(saved)] == saved:
        return
    with lock(folder):
        there = read_metrics(folder)
        known = {_place(record) for record in saved}
        later = [r for r in there if _place(r) not in known and r["step"] >= saved[-1]["step"]]
        if not any("validation_loss" in record for record in later):
            later += _last_evaluation(read_config(folder), result, saved[-1]["step"])
        write_metrics(folder, [*saved, *later])
        whole = set(map(json.dumps, there))
        lost = sum(json.dumps(record) not in whole for record in saved) or 1
        say(f"metrics.jsonl had lost or altered lines ({lost}); the last checkpoint's copy is taken")


def _place(record: Mapping[str, Any]) -> tuple[int, bool]:
    return record["step"], "validation_loss" in record


def _saved_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in the newest checkpoint with an undamaged record; [] for earlier versions."""
    for step in reversed(steps_of(folder)):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            digest, body, _ = (folder / "checkpoints" / str(step) / "seqjax.json").read_bytes().split(b"\n")
            if hashlib.sha256(body).hexdigest().encode() == digest:
                return list(filter(_is_whole, json.loads(body)["host"]["metrics"]))
    return []


def _last_evaluation(config: RunConfig, result: Mapping[str, Any], step: int) -> list[dict[str, Any]]:
    """The line of the evaluation at the last step; [] if the result was measured on other windows."""
    from seqjax.config import Config

    if result["status"] != "finished" or step != result["steps"]:
        return []
    final, best = result.get("validation") or {}, result.get("best") or {}
    line = {key: result.get(key) for key in ("tokens", "seconds")}
    if not isinstance(config, Config):  # a task whose result is of the best evaluation
        numbers = {key: value for key, value in final.items() if key != "loss"}
        line = {**numbers, "validation_loss": final.get("loss")} if best.get("step") == step else {}
    elif config.data.batching == "streams" or config.evaluation.windows == config.evaluation.final_windows:
        line |= {f"validation_{name}": final.get(name) for name in ("loss", "loss_se", "bits_per_byte")}
    elif best.get("step") == step:
        line |= {"validation_loss": best.get("validation_loss")}
    return list(filter(_is_whole, [{"step": step, **line}])) if "validation_loss" in line else []


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl with a held-out loss.

    Raises:
        UserError: the run has ended, and the file is missing.
    """
    if not (folder / "metrics.jsonl").is_file() and read_result(folder) is not None:
        raise UserError(
            f"{folder}: metrics.jsonl is missing; `seqjax train {quoted(folder)}` brings it back from the last "
            "checkpoint"
        )
    return [record for record in read_metrics(folder) if "validation_loss" in record]


def write_metrics(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace metrics.jsonl by these lines, at once."""
    disk.write_atomically(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def append_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Append one line to metrics.jsonl and flush it to the operating system."""
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def sync_metrics(folder: Path) -> None:
    """Flush metrics.jsonl to disk, so that no checkpoint is newer than the lines before it."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
