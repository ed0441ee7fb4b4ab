"""The sweep folder: run folders, and the state of each run.

    runs/<sweep>/<run id>/      a run folder (see seqjax.runs), and in it
        plan.json               label, axes, the lanes of its program, threads, trunk, pins (see seqjax.training.trunk)
        failures.jsonl          one line each time that a process with this run died
        output.txt              other output of the worker than log.txt
    runs/<sweep>/sweep.json     the sweep as it was read: base and overrides, points, search; before: earlier versions
    runs/<sweep>/search.json    the learning-rate curve of each model, and the chosen rates
    runs/<sweep>/launchers      a lock that launchers share

The state of a run is read only from its folder. So it is correct for any launcher on any machine that shares the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqjax import runs
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.streams import tell_note
from seqjax.runs import read_plan

if TYPE_CHECKING:
    from seqjax.config import Config
    from seqjax.sweeps.grid import Planned, Sweep

RUN_ID = re.compile(r".+-[0-9a-f]{10}")

STATES = ("finished", "diverged", "imported", "running", "stopped", "planned", "failed", "damaged")


@dataclass(frozen=True)
class State:
    """The state of a run.

    Attributes:
        run_id: name of the folder; label: readable name.
        name: ``finished``, ``diverged``, ``imported`` have ended; ``running`` is locked by a process; ``stopped`` has
            begun and can be resumed; ``planned`` has not begun; ``failed`` was given up after its process died several
            times, until the sweep is started again; ``damaged`` has a file that cannot be read.
        step, steps: steps taken, and in total.
        failures: number of times its process died; reason: of the last death.
    """

    run_id: str
    label: str
    name: str
    step: int
    steps: int
    failures: int = 0
    reason: str = ""


def make(folder: Path, sweep: Sweep, planned: Sequence[Planned]) -> None:
    """Make the folders of all runs, so that the run table has all of them, and write sweep.json.

    Raises:
        UserError: a folder that cannot be written, or holds something else.
    """
    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        records = runs.holds_records(folder)  # before the question for sweep.json, which another launcher may write now
        if records and not (folder / "sweep.json").is_file():
            raise UserError(f"{folder}: holds files but no sweep.json, so it is not a sweep folder; choose another one")
        disk.write_json(folder / "sweep.json", _with_those_before(folder / "sweep.json", _as_json(sweep)))
        for run in planned:
            runs.open_run(folder / run.run_id, run.config)


def refuse_others(folder: Path, sweep: Sweep, planned: Sequence[Planned]) -> None:
    """Refuse a folder with runs of another sweep: its table would mix two experiments.

    A sweep may get new points, seeds and rates. With a search, a run at any learning rate is of this sweep. So is a
    run that ``--only`` leaves out.

    Raises:
        UserError: a run of another sweep is in the folder.
    """
    if not folder.is_dir():
        return
    own = {_kind(run.config, sweep) for run in planned}
    own |= {_kind(run.config, sweep) for run in sweep.possible(sweep.left_out)}
    for path in runs.runs_in(folder, 1):
        if _kind(runs.read_config(path), sweep) not in own:
            raise UserError(
                f"{folder}: holds runs that are not of this sweep, such as {path.name}: it was another sweep, or had "
                "other options; choose another --runs or file name, or add to them with --extend"
            )


def _kind(config: Config, sweep: Sweep) -> str:
    """A text for the config of a run, without the rates and seeds that a search adds."""
    from seqjax.config import canonical, to_dict

    values = canonical(to_dict(config))
    if sweep.search is not None:
        values["optimizer"].pop("learning_rate")
        if values["train"]["seed"] in sweep.search.seeds:
            values["train"]["seed"] = sweep.plan(sweep.points[0]).config.train.seed
    return json.dumps(values, sort_keys=True)


def _as_json(sweep: Sweep) -> dict[str, Any]:
    search = dataclasses.asdict(sweep.search) if sweep.search else None
    found = {"name": sweep.name, "config": sweep.tree.values, "points": list(sweep.points), "search": search}
    return found | ({"horizons": list(sweep.horizons)} if sweep.horizons else {})


def _with_those_before(path: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The sweep, with earlier sweeps of the folder under ``before``."""
    then: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, UserError):  # a damaged file is replaced
        then = disk.read_json(path)
    before = then.pop("before", [])
    if then and then != json.loads(json.dumps(now)):
        before.append(then)
    return now | ({"before": before} if before else {})


def run_folders(folder: Path) -> list[Path]:
    """The run folders of a sweep folder (or the folder itself, if it is a run), sorted, one per run.

    Of copies of a run the ended one is taken; a note on standard error names the others.

    Raises:
        UserError: no such folder, no run in it, or two copies of a run with different outcomes.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {'is not a folder' if folder.exists() else 'there is no such folder'}")
    found = runs.runs_in(folder, 1)
    if not found:
        raise UserError(f"{folder}: has no run folders in it")
    copies: dict[str, list[Path]] = {}
    for path in found:
        copies.setdefault(identity(path), []).append(path)
    return sorted(_the_one(name, paths) for name, paths in copies.items())


def identity(path: Path) -> str:
    """The run id of a folder, as it was recorded when it began; its path if a file in it is damaged, so that it is no
    copy of another."""
    try:
        read_plan(path)
        result, data = runs.read_result(path), path / "data.json"
        runs.read_facts(path)
        recorded = (result or {}).get("run_id") or (disk.read_json(data).get("run_id") if data.is_file() else None)
        if recorded or (RUN_ID.fullmatch(path.name) and not runs.has_begun(path)):
            return str(recorded or path.name)
        from seqjax.config import run_id

        return run_id(runs.read_config(path))
    except (UserError, OSError):
        return str(path)


def folders_by_id(place: Path) -> dict[str, Path]:
    """Run id -> folder, which may have another name. If config.json is damaged, the id is the name of the folder."""
    from seqjax.config import run_id

    found = {}
    for path in run_folders(place):
        try:
            found[run_id(runs.read_config(path))] = path
        except UserError:
            found.setdefault(path.name, path)
    return found


def _the_one(name: str, copies: Sequence[Path]) -> Path:
    """Of copies of one run: an ended one, then one named by the run id, then the one with most steps."""
    if len(copies) == 1:
        return copies[0]
    outcomes = {path: outcome(result) for path in copies if (result := runs.read_result(path)) is not None}
    refuse_two_outcomes(name, {str(path): ended for path, ended in outcomes.items()})
    kept = min(outcomes or copies, key=lambda path: (path.name != name, -last_step(path), path.name))
    for path in copies:
        if path != kept:
            tell_note(f"{path}: left out, it is a copy of the run in {kept}")
    return kept


def outcome(result: Mapping[str, Any]) -> tuple[str, float | None]:
    """Status and final held-out loss of a run that has ended."""
    return result["status"], (result.get("validation") or {}).get("loss")


def refuse_two_outcomes(name: str, outcomes: Mapping[str, tuple[str, float | None]]) -> None:
    """Raise UserError if the copies of a run (place -> outcome) have different outcomes."""
    (first, one), *others = list(outcomes.items()) or [("", None)]
    for place, other in others:
        if other != one:
            said = ", ".join(f"{at} {status}" + (f" at {loss}" if loss is not None else "") for at, (status, loss) in
                             ((first, one), (place, other)))  # fmt: skip
            raise UserError(f"the run {name} has ended twice and not alike: {said}; move one of them away")


@disk.reading_errors()
def state(run_folder: Path) -> State:
    """The state of a run."""
    _, steps = runs.read_facts(run_folder)
    label = read_plan(run_folder).get("label", run_folder.name)
    failures = read_failures(run_folder)
    reason = failures[-1]["reason"] if failures else ""
    result = runs.read_result(run_folder)
    step = last_step(run_folder) if result is None else result["steps"]
    if result is not None:
        name = result["status"]
    elif runs.is_locked(run_folder):
        name = "running"
    elif failures and failures[-1]["given_up"]:
        name = "failed"
    else:
        name = "stopped" if runs.has_begun(run_folder) else "planned"
    return State(run_folder.name, label, name, step, steps, len(failures), reason)


def state_to_show(run_folder: Path) -> State:
    """The state of a run; ``damaged`` if a file cannot be read."""
    try:
        return state(run_folder)
    except UserError as error:
        return State(run_folder.name, run_folder.name, "damaged", 0, 0, reason=str(error))


def last_step(run_folder: Path) -> int:
    """The step of the last whole line of metrics.jsonl, read from its end."""
    path = run_folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
            return int(json.loads(line)["step"])
    return 0


def last_checkpoint(run_folder: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    return max(runs.steps_of(run_folder), default=0)


def read_failures(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of failures.jsonl."""
    path = run_folder / "failures.jsonl"
    return disk.read_json_lines(path, lambda failure: failure.keys() >= {"reason", "given_up"})


def add_failure(run_folder: Path, reason: str, given_up: bool) -> None:
    """Write to failures.jsonl that a process with this run died."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "reason": reason, "given_up": given_up}
    with open(run_folder / "failures.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def launcher(folder: Path) -> Iterator[Any]:
    """Hold the shared lock of launchers of a sweep while the block runs."""
    with disk.storage_errors(folder), open(folder / "launchers", "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file


def is_alone(launchers: Any) -> bool:
    """Whether this is the only launcher (others wait during the check)."""
    try:
        fcntl.flock(launchers, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        fcntl.flock(launchers, fcntl.LOCK_SH)
    return True


@contextlib.contextmanager
def planning(folder: Path) -> Iterator[None]:
    """A lock: one launcher at a time forms units."""
    with open(folder / "planning", "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
