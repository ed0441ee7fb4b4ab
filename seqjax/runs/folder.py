"""The run folder: files that can be read without seqjax.

    config.json      the complete, canonical config
    family.py        the source text of the model's family, if it is a user's own file
    task.py          the source text of the run's task, likewise
    data.json        sha256 of the run's corpus and tokenizer, and its run id
    tokenizer.json   of a run on text: its tokenizer (see seqjax.data.kept)
    metrics.jsonl    one object per line, the source of truth for curves
    result.json      written once, when the run has ended: losses, counts, versions, hardware, status
    start.safetensors    the parameters it starts from, if these are another run's (see seqjax.training.start)
    taken-over.json  of a branch: the steps and seconds that its trunk took for it (see seqjax.training.trunk)
    checkpoints/     see seqjax.training.checkpoints; a damaged one is renamed, not deleted
    log.txt          the printed lines
    lock             held by the process that trains

Small files are replaced atomically. A resumed run drops an incomplete last line of metrics.jsonl.
What reads states imports no JAX: configs, which do, are imported by the functions that need them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.own_code import Shelf, is_own
from seqjax.runs.places import is_run, other_than_run

if TYPE_CHECKING:
    from seqjax.config import RunConfig

ENDED = ("finished", "diverged", "imported")
OF_A_PLAN = {"label": str, "axes": dict, "lanes": list, "threads": int, "trunk": str, "pins": list, "halved_from": int}
WRITTEN_UNDER_LOCK = ("metrics.jsonl", "result.json", "data.json")


def open_run(folder: Path, config: RunConfig) -> None:
    """Make the run folder, or check that an existing one has the same config.

    Where and in how much memory a run is computed may change until it has ended: config.json has what was asked last.

    Raises:
        UserError: the folder holds a run of another config (with the first different key), or is not a folder.
    """
    from seqjax.config import placed, to_dict

    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        records = holds_records(folder)  # before the next line: another launcher may be writing config.json now
        if is_run(folder):
            there, here = disk.read_json(path), json.loads(json.dumps(to_dict(config)))
            _compare(there, here, folder)
            keep_code(folder, config)
            if placed(there) != placed(here) and read_result(folder) is None:
                disk.write_json(path, here)
        elif records:
            raise UserError(f"{folder}: holds files but no config.json, so it is not a run folder; choose another one")
        else:
            keep_code(folder, config)
            disk.write_json(path, to_dict(config))


def own_code_of(config: RunConfig) -> list[tuple[Shelf[Any], str]]:
    """The user's own code that a run needs: its kind and its name."""
    from seqjax.config import task_name
    from seqjax.runs.tree import OWN

    names = {"task.name": task_name(config), "model.family": config.model.family}
    return [(shelf, names[key]) for key, shelf in OWN.items() if is_own(names[key])]


def keep_code(folder: Path, config: RunConfig) -> None:
    """Write ``family.py`` and ``task.py`` if these are the user's own and the files do not have their texts yet."""
    for shelf, name in own_code_of(config):
        path, text = folder / shelf.file, shelf.text_of(name)
        if text is not None and not (path.is_file() and path.read_bytes() == text.encode()):
            disk.write_atomically(path, text)


def load_code(folder: Path, config: RunConfig) -> RunConfig:
    """Run the code in a run folder that is not loaded yet; return the run's config as the code reads it.

    Raises:
        UserError: a file is missing, its digest is not the one in the config, or it fails.
    """
    for shelf, name in own_code_of(config):
        if shelf.known(name) is None:
            shelf.adopt_file(name, folder / shelf.file)
    return read_config(folder)


def holds_records(folder: Path) -> bool:
    """Whether there are complete JSON files in a folder."""
    return any(file.suffix in (".json", ".jsonl") for file in folder.iterdir())


@disk.reading_errors()
def read_config(folder: Path) -> RunConfig:
    """The config saved with a run. It runs no code."""
    from seqjax.runs.config_file import load_config
    from seqjax.runs.tree import OWN

    path = folder / "config.json"
    if not is_run(folder):
        raise UserError(f"{folder}: {other_than_run(folder)}")
    saved = disk.read_json(path)  # raises with what to do if it is damaged or lost
    for key, shelf in OWN.items():
        section, _, field = key.partition(".")
        part = saved.get(section) if isinstance(saved, dict) else None
        if isinstance(part, dict) and shelf.names_file(part.get(field)):
            raise UserError(
                f"{path}: {key}: {part[field]!r} names a file; a run names its {shelf.kind} by the text of its file"
            )
    return load_config(path)


def bind_data(folder: Path, digests: Mapping[str, str], run_id: str) -> None:
    """Record the data and config of a run at its start; later check that they are the same.

    Args:
        digests: name -> sha256, such as "corpus_sha256".
    Raises:
        UserError: the data or the config has changed.
    """
    path = folder / "data.json"
    if not path.is_file():
        disk.write_json(path, {**digests, "run_id": run_id})
        return
    check_data(folder, digests)
    then = disk.read_json(path).get("run_id", run_id)  # earlier versions did not record it
    if then != run_id:
        raise UserError(
            f"{folder}: config.json was edited after this run began ({then} then, {run_id} now); undo that, or train "
            "the edited config in a folder of its own"
        )


def check_data(folder: Path, digests: Mapping[str, str]) -> None:
    """Check, without writing, that the data is the same as at the start of a run.

    Raises:
        UserError: it has changed.
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
    """Raise UserError if two configs, as trees of JSON, differ."""
    from seqjax.config import canonical, dotted

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
    """Hold the lock of the run folder, until the process ends at the latest; delete incomplete files of a killed one.

    Raises:
        Locked: another process is training this run.
    """
    with disk.storage_errors(folder), open(folder / "lock", "a+", encoding="utf-8") as file:
        for attempt in range(10):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # perhaps only `is_locked`, which takes the lock for a moment
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
    """Whether a process is training this run; False if the lock cannot be read."""
    try:
        with open(folder / "lock", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, *disk.NO_LOCKS):
            raise
    return False


def read_facts(run_folder: Path) -> tuple[str, int]:
    """The family and the number of steps of a run, without its config's classes.

    Raises:
        UserError: config.json is damaged.
    """
    path = run_folder / "config.json"
    saved = disk.read_json(path)
    model, train = (saved.get(name) if isinstance(saved.get(name), dict) else {} for name in ("model", "train"))
    family, steps = model.get("family"), train.get("steps")
    if not isinstance(family, str) or not is_count(steps):
        raise disk.damaged(path, "it has no family, or no number of steps")
    return family, steps


def read_plan(run_folder: Path) -> dict[str, Any]:
    """The contents of plan.json; empty for a run outside of a sweep.

    Raises:
        UserError: the file is damaged: no JSON, or a value of another type.
    """
    path = run_folder / "plan.json"
    plan = disk.read_json(path) if path.is_file() else {}
    for key, kind in OF_A_PLAN.items():
        if not isinstance(plan.get(key), kind | None):
            raise disk.damaged(path, f"its '{key}' is a {type(plan[key]).__name__} where a {kind.__name__} belongs")
    return plan


def steps_of(run_folder: Path) -> list[int]:
    """The steps of all checkpoints of a run, oldest first; other names in the folder are ignored."""
    folder = run_folder / "checkpoints"
    with disk.storage_errors(folder):
        names = os.listdir(folder) if folder.is_dir() else []
    found = (name for name in names if re.fullmatch("0|[1-9][0-9]*", name, re.ASCII))
    return sorted(int(name) for name in found if (folder / name).is_dir())


def read_result(folder: Path) -> dict[str, Any] | None:
    """The contents of result.json; None if the run has not ended.

    Raises:
        UserError: the file is damaged: no JSON, no status or step, a value of another type, or it has
            finished without a loss.
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
    result = _of_today(result) if "best_step" in result else result
    if result["status"] == "finished" and not is_number((result.get("validation") or {}).get("loss")):
        raise disk.damaged(path, "it has finished, but has no loss")
    return result


def _of_today(result: dict[str, Any]) -> dict[str, Any]:
    """Convert a result of a task, written before tasks had the loop of text, to the current form."""
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
