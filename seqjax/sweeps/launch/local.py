"""Units of a sweep on this machine: worker processes, each with its own cores or accelerator.

If a worker dies, its runs resume from their checkpoints. A bundle that dies twice without progress is halved, since one
lane, or the memory of all, may be the cause. A single run is tried again a bounded number of times, then given up and
reported. The launcher waits for runs that another launcher trains.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqjax import runs
from seqjax.sweeps import folder as folders
from seqjax.sweeps.launch import NextUnits, process
from seqjax.sweeps.launch.process import Worker
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.programs import Unit, keep_plan

TICK = 0.5


@dataclass
class _Task:
    unit: Unit
    tries: int = 0
    began_at: dict[str, int] = field(default_factory=dict)  # run id -> its last checkpoint at the start of this try


class Pool:
    """Trains units until all have ended, are given up, or the launcher is asked to stop.

    Args:
        folder: the sweep folder; None: only `ask_all` is used.
        retries: number of further tries of a run that dies without progress.
        tick: called about twice a second with the units in training and the waiting units.
        stopping: not empty after Ctrl-C or SIGTERM.
    """

    def __init__(
        self,
        folder: Path | None,
        machine: Machine,
        *,
        wandb_mode: str | None = None,
        retries: int = 2,
        tick: Callable[[Sequence[Unit], Sequence[Unit]], None] = lambda busy, waiting: None,
        say: Callable[[str], None] = lambda text: None,
        stopping: Sequence[int] = (),
    ) -> None:
        self.folder, self.machine, self.wandb_mode, self.retries = folder, machine, wandb_mode, retries
        self.tick, self.say, self.stopping = tick, say, stopping
        self.next_units: NextUnits = lambda *_: []
        self.log = folder / "workers.txt" if folder else None
        self.selector = selectors.DefaultSelector()
        self.idle: list[Worker] = []
        self.busy: dict[Worker, _Task] = {}
        self.waiting: list[_Task] = []
        self.elsewhere: list[_Task] = []
        self.given_up: set[str] = set()
        self.look_for_more = True

    def run(self, next_units: NextUnits) -> None:
        """Train units in order until there are no more; return when all are done, or when all are saved and stopped.

        If the launcher itself fails, for example on a full disk, the workers save their state first.
        """
        self.next_units = next_units
        try:
            try:
                self._to_the_end()
            except Exception:
                self._stop_all()
                raise
            self._stop_all()
        except BaseException:  # such as a second Ctrl-C: end all workers at once
            for worker in [*self.busy, *self.idle]:
                worker.process.kill()
            raise
        finally:
            self._close(self.idle)

    def _to_the_end(self) -> None:
        while not self.stopping:
            if self.look_for_more and not self.waiting:
                self._look_for_more()
            if not (self.waiting or self.busy or self.elsewhere):
                return
            self._start_what_fits()
            for key, _ in self.selector.select(TICK):
                self._hear(key.data)
            self._look_elsewhere()
            self.tick([task.unit for task in self.busy.values()], [task.unit for task in self.waiting])

    def ask_all(
        self, requests: Sequence[dict[str, Any]], heard: Callable[[int, dict[str, Any]], None] = lambda *_: None
    ) -> list[dict[str, Any]]:
        """Answer requests in parallel, each on its ``threads`` cores or on one accelerator.

        Args:
            heard: called after each answer with the place of its request, and the answer.
        """
        answers: list[dict[str, Any]] = [{"outcome": "died", "reason": "stopped"} for _ in requests]
        waiting = list(enumerate(requests))
        at_work: dict[Worker, int] = {}
        while (waiting or at_work) and not self.stopping:
            while waiting and (worker := self._take(waiting[0][1].get("threads", 1))) is not None:
                at_work[worker], request = waiting.pop(0)
                self.selector.register(worker.answers, selectors.EVENT_READ, worker)
                self.busy[worker] = _Task(None)
                worker.send(request)
            for key, _ in self.selector.select(TICK):
                worker = key.data
                index = at_work.pop(worker)
                answers[index] = self._release(worker)
                heard(index, answers[index])
        for worker in list(at_work):
            worker.process.kill()
            self._release(worker)
        return answers

    def _look_for_more(self) -> None:
        """Take the units that can start now, such as branches whose trunk has ended."""
        self.look_for_more = False
        others = (run_id for task in [*self.busy.values(), *self.elsewhere] for run_id in task.unit.run_ids)
        self.waiting = [_Task(unit) for unit in self.next_units(self.given_up, set(others))]

    def _start_what_fits(self) -> None:
        for task in list(self.waiting):
            used = sum(other.unit.memory for other in self.busy.values())
            if self.busy and not self.machine.gpus and used + task.unit.memory > self.machine.memory:
                return
            worker = self._take(task.unit.threads)
            if worker is None:
                return
            self.waiting.remove(task)
            task.began_at = {run_id: folders.last_checkpoint(self.folder / run_id) for run_id in task.unit.run_ids}
            self.busy[worker] = task
            self.selector.register(worker.answers, selectors.EVENT_READ, worker)
            worker.send(
                {"train": [str(self.folder / run_id) for run_id in task.unit.run_ids], "wandb": self.wandb_mode}
            )

    def _take(self, threads: int) -> Worker | None:
        """An idle worker with ``threads`` cores; else a new one, if there is room; else None."""
        if self.machine.gpus:
            fitting = self.idle
        else:
            fitting = [worker for worker in self.idle if len(worker.cores) == threads]
        if fitting:
            self.idle.remove(worker := fitting[0])
            return worker
        if self.machine.gpus:
            free = Counter(self.machine.gpus) - Counter(worker.gpu for worker in self.busy)
            if not free:
                return None
            gpu = max(free, key=free.__getitem__)  # the card with the fewest workers
            return Worker((), gpu, self.log, self.machine.sharing)
        taken = {core for worker in self.busy for core in worker.cores}
        free = [core for core in self.machine.cores if core not in taken]
        if len(free) < min(threads, len(self.machine.cores)):
            return None
        cores = tuple(free[:threads])
        in_the_way = [worker for worker in self.idle if set(worker.cores) & set(cores)]
        self._close(in_the_way)
        return Worker(cores, None, self.log)

    def _release(self, worker: Worker) -> dict[str, Any]:
        """The answer of a busy worker. It becomes idle, or is closed if it has ended."""
        answer = worker.answer()
        self.selector.unregister(worker.answers)
        self.busy.pop(worker)
        if answer["outcome"] in ("died", "stopped"):
            worker.close()
        else:
            self.idle.append(worker)
        return answer

    def _hear(self, worker: Worker) -> None:
        task = self.busy[worker]
        answer = self._release(worker)
        match answer["outcome"]:
            case "done":
                self.look_for_more = True
            case "stopped":  # by somebody's SIGTERM
                self.waiting.insert(0, task)
            case "locked":
                self.elsewhere.append(task)
            case _:
                self._failed(task, answer["reason"], final=bool(answer.get("user")))

    def _failed(self, task: _Task, reason: str, final: bool) -> None:
        ids = [run_id for run_id in task.unit.run_ids if runs.read_result(self.folder / run_id) is None]
        moved = any(folders.last_checkpoint(self.folder / i) > task.began_at.get(i, 0) for i in ids)
        # the halves of a bundle are another program with other last digits: do not halve after a single kill
        halved = len(task.unit.runs) > 1 and not moved and (final or task.tries >= 1)
        alone = len(task.unit.runs) == 1
        give_up = alone and (final or (not moved and task.tries >= self.retries))
        for run_id in ids:
            folders.add_failure(self.folder / run_id, reason, give_up)
        if give_up:
            self.look_for_more = True
            self.given_up.update(ids)
            self.say(f"{task.unit.label}: given up after {task.tries + 1} tries: {reason}")
        elif halved:
            self.say(f"{task.unit.label}: {reason}; its runs continue in two halves")
            self._halve(task.unit)
        else:
            self.say(f"{task.unit.label}: {reason}; it resumes from its last checkpoint")
            self.waiting.insert(0, _Task(task.unit, 0 if moved else task.tries + 1))

    def _halve(self, unit: Unit) -> None:
        middle = len(unit.runs) // 2
        for lot in (unit.runs[:middle], unit.runs[middle:]):
            share = len(lot) / len(unit.runs)
            half = Unit(lot, unit.threads, unit.seconds and unit.seconds * share, unit.memory * share)
            keep_plan(half, self.folder, halved_from=len(unit.runs))
            self.waiting.insert(0, _Task(half))

    def _look_elsewhere(self) -> None:
        """Take over runs that another launcher had locked and that are free and not ended."""
        for task in list(self.elsewhere):
            places = [self.folder / run_id for run_id in task.unit.run_ids]
            if any(runs.is_locked(place) for place in places):
                continue
            self.elsewhere.remove(task)
            if any(runs.read_result(place) is None for place in places):
                self.waiting.append(task)
            else:
                self.look_for_more = True

    def _stop_all(self) -> None:
        if not self.busy:
            return
        for worker in self.busy:
            worker.stop()
        self.say(f"stopping: {len(self.busy)} worker(s) save their state")
        deadline = time.monotonic() + process.SAVE_SECONDS
        for worker in list(self.busy):
            with contextlib.suppress(KeyError):  # its answer may have been read already
                self.selector.unregister(worker.answers)
            worker.close(max(1.0, deadline - time.monotonic()))
        self.busy.clear()

    def _close(self, workers: list[Worker]) -> None:
        for worker in list(workers):
            self.idle.remove(worker)
            worker.close(10)

    def close(self) -> None:
        """End the idle workers."""
        self._close(self.idle)
