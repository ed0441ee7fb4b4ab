"""The run folder: files that anyone can read without seqjax, and that are never half true.

    config.json      the complete, canonical config
    family.py        the text of the model's family, where that is a file of the user's own
    data.json        sha256 of the corpus and of the tokenizer the run began with, and its run id
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
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqjax import disk
from seqjax.config import Config, RunConfig, canonical, dotted, to_dict
from seqjax.errors import UserError
from seqjax.families import own
from seqjax.overlay import load_config

ENDED = ("finished", "diverged")
WRITTEN_UNDER_LOCK = ("metrics.jsonl", "result.json", "data.json")


def open_run(folder: Path, config: RunConfig) -> None:
    """Make the run folder, or check that the one that is there is of the same config.

    Raises:
        UserError: the folder holds a run of another config (the first key that differs is named), or is not a folder.
    """
    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        records = holds_records(folder)  # looked at first: another launcher may be writing config.json right now
        if path.exists():
            _compare(disk.read_json(path), json.loads(json.dumps(to_dict(config))), folder)
            keep_code(folder, config.model.family)
        elif records:
            raise UserError(f"{folder}: holds files but no config.json, so it is not a run folder; choose another one")
        else:
            keep_code(folder, config.model.family)
            disk.write_json(path, to_dict(config))


def keep_code(folder: Path, family: str) -> None:
    """Write ``family.py``, where the family is one of the user's own and its text is not there yet."""
    path, text = folder / "family.py", own.text_of(family)
    if text is not None and not (path.is_file() and path.read_bytes() == text.encode()):
        disk.write_atomically(path, text)


def load_code(folder: Path, family: str) -> None:
    """Run ``family.py`` of a run folder, so that its family is known in this process.

    Raises:
        UserError: it is absent or not the text that the family is named by, or it fails.
    """
    path = folder / "family.py"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    own.adopt(family, text, path)


def holds_records(folder: Path) -> bool:
    """Whether there are JSON files in a folder, apart from those that are just being written."""
    return any(file.suffix in (".json", ".jsonl") for file in folder.iterdir())


def read_config(folder: Path) -> RunConfig:
    """The config saved with a run; no code of a family is run."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not a run folder (it has no config.json)")
    saved = disk.read_json(path)  # says what to do where it is damaged
    model = saved.get("model") if isinstance(saved, dict) else None
    if isinstance(model, dict) and ":" in str(model.get("family")):
        raise UserError(f"{path}: model.family: {model['family']!r} names a file; a run names its family by its text")
    return load_config(path)


def bind_data(folder: Path, digests: Mapping[str, str], run_id: str) -> None:
    """Note the data and config that a run begins with, or check that they are still the same.

    Args:
        digests: name -> sha256, such as "corpus_sha256".
    Raises:
        UserError: the data or the config is not what the run began with.
    """
    path = folder / "data.json"
    if not path.is_file():
        disk.write_json(path, {**digests, "run_id": run_id})
        return
    check_data(folder, digests)
    then = disk.read_json(path).get("run_id", run_id)  # earlier versions did not note it
    if then != run_id:
        raise UserError(
            f"{folder}: config.json was edited after this run began ({then} then, {run_id} now); undo that, or train "
            "the edited config in a folder of its own"
        )


def check_data(folder: Path, digests: Mapping[str, str]) -> None:
    """Check, without writing, that the data is what a run began with.

    Raises:
        UserError: it is not.
    """
    path = folder / "data.json"
    then = disk.read_json(path) if path.is_file() else {}
    names = {"corpus_sha256": "data.corpus", "tokenizer_sha256": "data.tokenizer"}
    for key, now in digests.items():
        if then.get(key, now) != now:
            raise UserError(
                f"{folder}: {names.get(key, 'the data')} is not what this run began with (sha256 "
                f"{str(then.get(key))[:12]} then, {now[:12]} now); restore it, or train another run on the new one"
            )


def _compare(there: dict[str, Any], here: dict[str, Any], folder: Path) -> None:
    """Both are trees of configs, as JSON has them."""
    there, here = canonical(there), canonical(here)
    if there == here:
        return
    saved, asked = dict(dotted(there)), dict(dotted(here))
    for key in asked:
        if key in saved and saved[key] != asked[key]:
            raise UserError(
                f"{folder}: holds a run of another config: {key} is {saved[key]!r} there and {asked[key]!r} here; "
                "choose another run folder, or resume that run by naming its folder"
            )
    raise UserError(f"{folder}: holds a run of another kind of model; choose another run folder")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run folder; the lock goes with the process, however it ends. What a killed one left half-written goes.

    Raises:
        Locked: another process is training this run.
    """
    with disk.storage_errors(folder), open(folder / "lock", "a+", encoding="utf-8") as file:
        for attempt in range(10):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # perhaps only `is_locked`, which looks for a moment
                if attempt == 9:
                    raise Locked(f"{folder}: another process is training this run") from None
                time.sleep(0.02)
        for name in WRITTEN_UNDER_LOCK:
            for path in folder.glob(f".{name}.*"):
                path.unlink(missing_ok=True)
        yield


class Locked(UserError):
    """Another process is training the run."""


def is_locked(folder: Path) -> bool:
    """Whether a process is seen to train this run now; where the lock cannot be looked at, none is."""
    try:
        with open(folder / "lock", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, *disk.NO_LOCKS):
            raise
    return False


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, oldest first."""
    return disk.read_json_lines(folder / "metrics.jsonl", _is_whole)


def _is_whole(record: dict[str, Any]) -> bool:
    numbers = (record[key] for key in ("tokens", "loss", "validation_loss") if key in record)
    return is_count(record.get("step")) and all(map(is_number, numbers))


def keep_metrics(folder: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines for which ``keep`` is false (and torn ones), so that a resumed run writes them once more."""
    if (folder / "metrics.jsonl").is_file():
        _write_metrics(folder, filter(keep, read_metrics(folder)))


def restore_metrics(folder: Path, step: int, saved: list[dict[str, Any]] | None) -> int:
    """Bring metrics.jsonl back to how it was at a checkpoint; return how many lines had been lost or altered.

    Args:
        step: of the checkpoint; an evaluation at this step, written after the checkpoint, is kept.
        saved: the lines that the checkpoint holds; None: it is of an earlier version and holds none.
    """
    there = [record for record in read_metrics(folder) if record["step"] <= step]
    if saved is None or there[: len(saved)] == saved:
        _write_metrics(folder, there)
        return 0
    _write_metrics(folder, saved)
    return sum(record not in there for record in saved) or 1


def restore_ended(folder: Path, say: Callable[[str], None]) -> None:
    """Bring back lines of metrics.jsonl that a run which has ended has lost, from its last whole checkpoint.

    That checkpoint is older than the last evaluation. Its line is made from the result, as far as that tells it.

    Args:
        say: told what was brought back.
    Raises:
        UserError: the folder cannot be written.
        Locked: another process is in it.
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
        _write_metrics(folder, [*saved, *later])
        whole = set(map(json.dumps, there))
        lost = sum(json.dumps(record) not in whole for record in saved) or 1
        say(f"metrics.jsonl had lost or altered lines ({lost}); the last checkpoint's copy is taken")


def _place(record: Mapping[str, Any]) -> tuple[int, bool]:
    return record["step"], "validation_loss" in record


def _saved_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that the newest checkpoint holds whose record is whole; none in earlier versions."""
    for path in sorted(folder.glob("checkpoints/*/seqjax.json"), key=_step_of, reverse=True):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            digest, body, _ = path.read_bytes().split(b"\n")
            if _step_of(path) >= 0 and hashlib.sha256(body).hexdigest().encode() == digest:
                return list(filter(_is_whole, json.loads(body)["host"]["metrics"]))
    return []


def _step_of(record: Path) -> int:
    name = record.parent.name
    return int(name) if name.isascii() and name.isdigit() else -1  # else it is not complete, or damaged


def _last_evaluation(config: RunConfig, result: Mapping[str, Any], step: int) -> list[dict[str, Any]]:
    """The line of the evaluation at the last step; none where the result was measured on other windows."""
    if result["status"] != "finished" or step != result["steps"]:
        return []
    final, best = result.get("validation") or {}, result.get("best") or {}
    line = {key: result.get(key) for key in ("tokens", "seconds")}
    if not isinstance(config, Config):  # a task whose result is about the best evaluation
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
        UserError: the run has ended, and the file is not there.
    """
    if not (folder / "metrics.jsonl").is_file() and read_result(folder) is not None:
        raise UserError(
            f"{folder}: metrics.jsonl is missing; `seqjax train {folder}` brings it back from the last checkpoint"
        )
    return [record for record in read_metrics(folder) if "validation_loss" in record]


def _write_metrics(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    disk.write_atomically(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))


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
    """The contents of result.json, or None while the run has not ended.

    Raises:
        UserError: it is damaged: no JSON, no status or step, or a value of another type.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = disk.read_json(path)
    if result.get("status") not in ENDED:
        raise disk.damaged(path, f"its 'status' is not one of {', '.join(ENDED)}")
    if not is_count(result.get("steps")):
        raise disk.damaged(path, "its 'steps' is not a whole number")
    for key in ("validation", "best", "training_flops", "hardware", "versions"):
        if not isinstance(result.get(key), dict | None):
            raise disk.damaged(path, f"its '{key}' is not an object")
    return _of_today(result) if "best_step" in result else result


def _of_today(result: dict[str, Any]) -> dict[str, Any]:
    """A result of a task as it was written before tasks had the loop of text, in today's form."""
    step, validation = result.pop("best_step"), result.get("validation")
    if validation is not None:
        result["best"] = {"step": step, "validation_loss": validation["validation_loss"]}
        result["validation"] = {"loss": validation.pop("validation_loss"), **validation}
    return {**result, "parameters": {"total": result["parameters"]}}


def is_count(value: Any) -> bool:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number."""
    return isinstance(value, float) or is_count(value)
