"""Units of a sweep as Slurm jobs: submit units that are not in the queue, watch the jobs, report lost ones.

``slurm/arrays.json`` in the sweep folder maps the name of an array to its runs. It is written before the array is
submitted, so no job is unknown. The state of a run is read from its folder, the state of a job from squeue. So a
launcher can be stopped and started on any login node.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from seqjax import runs
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.sweeps import folder as folders
from seqjax.sweeps.launch import Launch, NextUnits, slurm, slurm_client
from seqjax.sweeps.launch.process import code_for_workers
from seqjax.sweeps.launch.worker_command import worker_command
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.programs import Unit
from seqjax.sweeps.view import View

POLL_SECONDS = 5.0
ASKED_AGAIN = 6  # consecutive polls that may fail before it is an error


def slurm_machine(options: slurm.SlurmOptions) -> Machine:
    """The cluster as a machine with `max_parallel` workers, each with the resources of one job."""
    width = tuple(range(options.max_parallel))
    memory = (options.memory_gb or 4.0) * 2**30 * 0.7
    gpus = tuple(map(str, width)) if options.gpus_per_run else ()
    return Machine(width, gpus, memory if gpus else memory * len(width), threads=options.cpus_per_run)


def slurm_launch(
    folder: Path, options: slurm.SlurmOptions, *, wandb_mode: str | None, retries: int, detach: bool = False
) -> Launch:
    """Train units as jobs of arrays, round by round. After Ctrl-C the jobs continue without the launcher."""

    def launch(next_units: NextUnits, view: View, stopping: Sequence[int]) -> tuple[str, ...] | None:
        given_up: list[str] = []
        while not stopping and (units := next_units(given_up, ())):
            jobs = _Jobs(folder, options, wandb_mode, retries, view.say)
            with folders.planning(folder):  # another launcher waits until these jobs are in arrays.json
                jobs.take(units)
            if detach:
                return None
            while (jobs.open or jobs.elsewhere) and not stopping:
                jobs.look()
                view.show(jobs.training(), jobs.queued(), jobs.given_up)
                _sleep(POLL_SECONDS, stopping)
            given_up += jobs.given_up
        if stopping:
            view.say("the jobs continue in Slurm; the same command watches them again, `scancel` ends them")
        return tuple(given_up)

    return launch


class _Jobs:
    """The jobs of units."""

    def __init__(
        self,
        folder: Path,
        options: slurm.SlurmOptions,
        wandb_mode: str | None,
        retries: int,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.options, self.wandb_mode, self.retries, self.say = folder, options, wandb_mode, retries, say
        self.open: dict[str, Unit] = {}  # job id -> what it trains
        self.elsewhere: list[Unit] = []  # locked by others
        self.states: dict[str, str] = {}
        self.given_up: list[str] = []
        self._tries: dict[tuple[str, ...], int] = {}
        self._checkpoints: dict[tuple[str, ...], int] = {}
        self._silent = 0

    def take(self, units: Sequence[Unit]) -> None:
        """Watch units that have a job; submit the others as one array."""
        known = {tuple(run_ids): job for job, run_ids in queued_jobs(self.folder).items()}
        self.states = slurm_client.queue()
        waiting = []
        for unit in units:
            job = known.get(unit.run_ids)
            if job in self.states:
                self.open[job] = unit
            else:
                waiting.append(unit)
        if self.open:
            self.say(f"{len(self.open)} job(s) of this sweep are in the queue already")
        if waiting:
            self._submit(waiting)

    def _submit(self, units: Sequence[Unit]) -> None:
        command = worker_command("--once", "--threads", str(self.options.cpus_per_run))
        requests = [
            json.dumps(
                {
                    "train": [str((self.folder / run_id).resolve()) for run_id in unit.run_ids],
                    "wandb": self.wandb_mode,
                    "devices": self.options.gpus_per_run or 1,
                    **code_for_workers(),
                }
            )
            for unit in units
        ]
        name = f"seqjax-{self.folder.name}-{secrets.token_hex(4)}"
        (self.folder / "slurm").mkdir(mode=0o700, exist_ok=True)
        arrays = read_arrays(self.folder) | {name: [list(unit.run_ids) for unit in units]}
        disk.write_json(self.folder / "slurm" / "arrays.json", arrays)
        job_ids = slurm.submit([command] * len(units), requests, self.folder / "slurm", self.options, name)
        for job, unit in zip(job_ids, units, strict=True):
            self.open[job] = unit
            self._checkpoints[unit.run_ids] = self._progress(unit)
        self.say(f"submitted {len(units)} job(s): {job_ids[0]}" + (f" to {job_ids[-1]}" if len(job_ids) > 1 else ""))

    def _progress(self, unit: Unit) -> int:
        return sum(folders.last_checkpoint(self.folder / run_id) for run_id in unit.run_ids)

    def look(self) -> None:
        """Poll the queue. A job that has left it has ended its runs, or is submitted again, or is given up.

        If another process trains a run of it, the job could do nothing, which is no failure: it waits for that process.
        """
        try:
            self.states, self._silent = slurm_client.queue(), 0
        except UserError:  # the controller may be restarting
            self._silent += 1
            if self._silent > ASKED_AGAIN:
                raise
            return
        free = [unit for unit in self.elsewhere if not self._is_locked(unit)]
        self.elsewhere = [unit for unit in self.elsewhere if unit not in free]
        lost = [unit for unit in free if self._missing(unit)]
        for job, unit in list(self.open.items()):
            if job in self.states:
                continue
            del self.open[job]
            if not (missing := self._missing(unit)):
                continue
            if self._is_locked(unit):
                self.elsewhere.append(unit)
            elif not self._give_up(job, unit, missing):
                lost.append(unit)
        if lost:
            self._submit(lost)

    def _missing(self, unit: Unit) -> list[str]:
        return [run_id for run_id in unit.run_ids if runs.read_result(self.folder / run_id) is None]

    def _is_locked(self, unit: Unit) -> bool:
        return any(runs.is_locked(self.folder / run_id) for run_id in unit.run_ids)

    def _give_up(self, job: str, unit: Unit, missing: Sequence[str]) -> bool:
        """Record that a job ended without results; True if it is not tried again."""
        moved = self._progress(unit) > self._checkpoints.get(unit.run_ids, 0)
        tries = self._tries[unit.run_ids] = 0 if moved else self._tries.get(unit.run_ids, 0) + 1
        final = tries > self.retries
        reason = f"Slurm job {job} ended without a result; see slurm/{job}_0_log.err"
        for run_id in missing:
            folders.add_failure(self.folder / run_id, reason, final)
        self.say(f"{unit.label}: {reason}" + ("; given up" if final else "; submitted again"))
        if final:
            self.given_up.extend(missing)
        return final

    def training(self) -> list[Unit]:
        """Units whose job runs."""
        return [unit for job, unit in self.open.items() if self.states.get(job) in ("RUNNING", "COMPLETING")]

    def queued(self) -> list[Unit]:
        """Units whose job waits."""
        return [unit for job, unit in self.open.items() if self.states.get(job) not in ("RUNNING", "COMPLETING")]


def read_arrays(folder: Path) -> dict[str, list[list[str]]]:
    """Name of an array -> run ids of each of its jobs, for all arrays ever submitted for a sweep."""
    path = folder / "slurm" / "arrays.json"
    return disk.read_json(path) if path.is_file() else {}


def queued_jobs(folder: Path) -> dict[str, list[str]]:
    """Job id -> run ids, of the jobs of a sweep that are in Slurm's queue now."""
    arrays = read_arrays(folder)
    found = {}
    for job, name in slurm_client.names().items() if arrays else ():
        if name in arrays:
            index = job.partition("_")[2]  # a single job is not an array and has no index
            found[job] = arrays[name][int(index or 0)]
    return found


def in_queue(folder: Path) -> dict[str, str]:
    """Run id -> ``<job id> <state>`` of the jobs that are in Slurm's queue now; empty without Slurm."""
    if not read_arrays(folder):
        return {}
    try:
        jobs, states = queued_jobs(folder), slurm_client.queue()
    except UserError:
        return {}
    return {run_id: f"{job} {states[job]}" for job, run_ids in jobs.items() if job in states for run_id in run_ids}


def _sleep(seconds: float, stopping: Sequence[int]) -> None:
    end = time.monotonic() + seconds
    while not stopping and time.monotonic() < end:
        time.sleep(0.1)
