"""Runs that train side by side in one program: what the host does between two calls of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seqjax.config import dotted, to_dict
from seqjax.errors import UserError
from seqjax.host.out_of_memory import EVALUATION, SHARED, memory_errors
from seqjax.host.stopping import Interrupted
from seqjax.tasks.task import Found
from seqjax.training import start
from seqjax.training.lanes import make_bundle
from seqjax.training.processes import peers
from seqjax.training.record import Run
from seqjax.training.spanning import from_first, to_first, to_host
from seqjax.training.state import Hyper, TrainState

Tree = Any
READ = ("loss", "grad_norm", "alive")  # metrics taken from the device; the host knows the learning rate
CALL_SECONDS = 0.1, 0.4  # shorter calls of the program take more steps at once, longer calls fewer


class Bundle:
    """R runs that move together through one program, and all pause at the same steps.

    Attributes:
        members: the runs.
        program: the steps that are compiled.
        last_step: the number of optimizer steps of every run.
    """

    def __init__(self, members: Sequence[Run], devices: int | None, stop: Sequence[int]) -> None:
        self.members = members
        self.config, self.task = members[0].config, members[0].task  # values that may differ are read from each run
        self.program = make_bundle([run.config for run in members], self.task.objective, devices)
        self._checkpoint_every = self.config.train.checkpoint_every or self.task.evaluate_every
        self._pins = sorted({step for run in members for step in run.pins})
        self._rates_RxS = np.stack([run.rates for run in members])
        self._decay_R = np.array([run.config.optimizer.weight_decay for run in members], np.float32)
        self._steps_at_once = 1
        self._last_read = time.monotonic()
        self.last_step = self.config.train.steps
        self._stop = stop  # the signals that asked to end
        self._unread: tuple[int, int, dict[str, jax.Array]] | None = None

    def has_work(self) -> bool:
        """Whether a run has not ended."""
        return any(run.result is None for run in self.members)

    def memory_errors(self, keys: Mapping[str, str]) -> AbstractContextManager[None]:
        """Memory that runs out within is told in one line, with the keys that make the run fit."""
        lead = self.members[0]
        values = dict(dotted(to_dict(self.config)))
        if self.program.devices > self.config.train.mesh.fsdp:
            keys = {**keys, **SHARED}
        return memory_errors(lead.folder, values, keys, len(self.members), lead.checkpoints.last)

    def restore(self) -> tuple[TrainState, int]:
        """Fresh states, and the first step of the least advanced run; each other run enters at its own step."""
        state = self.program.init()
        waiting = [run for run in self.members if run.result is None]
        for run in waiting:
            if peers().index == 0:
                run.restore(_of_one(state))
            run.start = peers().first(run.start)
            if run.start:
                run.saved = from_first(run.saved, _of_one(state))
        return state, min(run.start for run in waiting)

    def enter(self, step: int, state: TrainState) -> TrainState:
        """The state, with the runs whose last checkpoint is of this step in their lanes, evaluated if that is due."""
        if step == 0:
            state = self._started(state)
        for lane, run in enumerate(self.members):
            if run.saved is not None and run.start == step:
                state = _place(state, run.saved, lane)
                run.saved = None
        self._catch_up(step, state)
        return state

    def _started(self, state: TrainState) -> TrainState:
        """Fresh states with the parameters that runs start from, see `seqjax.training.start`."""
        for lane, run in enumerate(self.members):
            if run.result is None and run.config.train.start is not None:
                like = _of_one(state).params
                params = start.read_start(run.folder, run.config, like) if peers().index == 0 else None
                state = state.replace(params=_place(state.params, from_first(params, like), lane))
        return state

    def reached(self, step: int, count: int, state: TrainState, metrics: dict[str, jax.Array]) -> None:
        """Do everything due after ``count`` steps up to this one: metrics, divergence, checkpoint, evaluation.

        The metrics of a call are read while the next one runs, unless something is due.

        Raises:
            Interrupted: asked to stop; the state is saved.
        """
        asked, due = self._asked(), self._is_due(step)
        if self._unread is not None:
            self._read(*self._unread)
        self._unread = (step - count, count, metrics)
        if asked is not None or due:
            self._read(*self._unread)
            self._unread = None
        for run in self._active(step - 1):
            if not run.is_alive():
                run.diverged(step)
        if step == self.last_step or not self.has_work():
            return
        if due:
            self._pause(step, state)
        if asked is not None:
            self._save(step, state)
            raise Interrupted(asked, step)

    def _asked(self) -> int | None:
        """The signal that has asked a process to stop."""
        return next((number for number in peers().gather(next(iter(self._stop), None)) if number is not None), None)

    def _catch_up(self, step: int, state: TrainState) -> None:
        """Evaluate runs that resume here and were stopped between the checkpoint and the evaluation of this step."""
        if step > 0 and self._evaluates(step):
            here = [run for run in self.members if run.result is None and run.start == step]
            told = peers().first([run.is_evaluated(step) for run in here])
            if behind := [run for run, is_told in zip(here, told, strict=True) if not is_told]:
                self._evaluate(step, state, behind)

    def _active(self, step: int) -> list[Run]:
        """The runs that take this step: not ended and not waiting for the others."""
        return [run for run in self.members if run.result is None and run.start <= step]

    def batches(self, first: int) -> tuple[Tree, int]:
        """The batches of the steps from ``first`` on, leaves [R, K, B, ...], and their number, at most K.

        Lanes with the same seed and the same section `task` have the same data. A process reads its own rows.
        """
        draw, rows, size = [run.task.batch for run in self.members], slice(None), None
        if peers().count > 1 and self.task.batch_rows is not None:
            size = self.config.train.batch_size
            rows = self.program.own_rows(size)
            draw = [partial(run.task.batch_rows, rows=rows) for run in self.members]
        alike: dict[Any, list[int]] = {}
        for lane, run in enumerate(self.members):
            alike.setdefault((run.config.train.seed, getattr(run.config, "task", None)), []).append(lane)
        filled, count, shapes = None, 0, None
        for k in range(min(peers().first(self._steps_at_once), self._next_event(first) - first)):
            batches = [(lanes, draw[lanes[0]](first + k)) for lanes in alike.values()]
            found = [_shapes(batch) for _, batch in batches]
            if shapes is None:
                shapes, lead = found[0], (len(self.members), self.program.steps_at_once)
                filled = jax.tree.map(lambda x, lead=lead: _room(x, lead, size), batches[0][1])
            if any(shape != shapes for shape in found):
                if k == 0:
                    raise UserError("the runs of this bundle have batches of different shapes; train them one by one")
                break
            for lanes, batch in batches:
                for all_RxK, x in zip(jax.tree.leaves(filled), jax.tree.leaves(batch), strict=True):
                    all_RxK[lanes, k, rows] = x
            count += 1
        return self.program.put(filled), count

    def schedule(self, first: int, count: int) -> tuple[Hyper, np.ndarray]:
        """Learning rates [R, K], weight decays [R], and whether to zero the carry before each step, bool [K]."""
        capacity = self.program.steps_at_once
        resets_K, rates_RxK = np.zeros(capacity, bool), np.zeros((len(self.members), capacity), np.float32)
        rates_RxK[:, :count] = self._rates_RxS[:, first : first + count]
        resets_K[:count] = [self.task.resets(first + k) for k in range(count)]
        return Hyper(rates_RxK, self._decay_R), resets_K

    def _next_event(self, step: int) -> int:
        """The next step with a checkpoint, an evaluation, the end, or a run that enters."""
        due = [step - step % every + every for every in (self._checkpoint_every, self.task.evaluate_every)]
        due += [pin for pin in self._pins if pin > step][:1]
        return min(self.last_step, *due, *(run.start for run in self.members if run.start > step))

    def _is_due(self, step: int) -> bool:
        """Whether this step has an evaluation, a checkpoint or the end: then the host waits for the device."""
        saves = step % self._checkpoint_every == 0 or step in self._pins
        return saves or step == self.last_step or self._evaluates(step)

    def _evaluates(self, step: int) -> bool:
        return step % self.task.evaluate_every == 0 and step < self.last_step

    def _read(self, first: int, count: int, metrics: dict[str, jax.Array]) -> None:
        """Fetch the metrics of ``count`` steps from ``first`` on; adapt ``steps_at_once`` to the time they took."""
        columns_RxK = jax.device_get([metrics[name] for name in READ])
        for lane, run in enumerate(self.members):
            if run.result is None and run.start <= first:
                of_lane = [column[lane, :count].astype(float).tolist() for column in columns_RxK]
                records = [dict(zip(READ, values, strict=True)) for values in zip(*of_lane, strict=True)]
                run.read(first + 1, records, self.program.devices)
        since, self._last_read = self._last_read, time.monotonic()
        if self._last_read - since < CALL_SECONDS[0]:
            self._steps_at_once = min(2 * self._steps_at_once, self.program.steps_at_once)
        elif self._last_read - since > CALL_SECONDS[1]:
            self._steps_at_once = max(self._steps_at_once // 2, 1)

    def _pause(self, step: int, state: TrainState) -> None:
        """Save first, then evaluate if it is due: a failed evaluation loses no training."""
        self._save(step, state)
        if self._evaluates(step):
            self._evaluate(step, state, self._active(step - 1))
        self._last_read = time.monotonic()  # so that only training counts between two reads

    def _evaluate(self, step: int, state: TrainState, members: Sequence[Run]) -> list[Found]:
        """Add a point to the validation curve of each of these runs, on the same data at every step."""
        found = self._held_out(step, state, final=False)
        for run, of_run in zip(self.members, found, strict=True):
            if run in members:
                run.evaluated(step, of_run)
        return found

    def _held_out(self, step: int, state: TrainState, final: bool) -> list[Found]:
        """Evaluate every run on the held-out data.

        Raises:
            Interrupted: asked to stop between two batches. The state is saved; a resumed run evaluates it.
        """
        began, carry, scores = time.monotonic(), self.program.zero_carry(), []
        with self.memory_errors(EVALUATION):
            for batch in self.task.held_out(final):
                if (asked := self._asked()) is not None:
                    raise Interrupted(asked, step)
                score_R, carry = self.program.score(state.params, batch, carry)
                scores.append(to_host(score_R))
        found = [
            run.task.summary([jax.tree.map(lambda x, lane=lane: x[lane], score) for score in scores], final)
            for lane, run in enumerate(self.members)
        ]
        for run in self.members:
            run.not_training(time.monotonic() - began)
        return found

    def _save(self, step: int, state: TrainState) -> None:
        host = to_first(state)
        for lane, run in enumerate(self.members if host is not None else ()):
            if run.result is None and run.start < step:
                run.save(step, jax.tree.map(lambda x, lane=lane: x[lane], host))

    def finish(self, state: TrainState) -> list[dict[str, Any]]:
        """The results of all runs, finished or diverged; those that have not ended are saved, evaluated and end."""
        steps, state = self.last_step, self.enter(self.last_step, state)
        waiting = [run for run in self.members if run.result is None]
        for run in waiting:
            run.write_last()
        if waiting:
            self._save(steps, state)
            found = self._evaluate(steps, state, waiting)
            waiting = [run for run in waiting if run.result is None]  # without those that have diverged here
        if waiting and self.task.more_at_end:
            found = self._held_out(steps, state, final=True)
        for run in waiting:
            final = found[self.members.index(run)] if run.task.keeps == "last" else None
            if final is not None and not math.isfinite(final.loss):
                run.not_evaluated(steps)
                continue
            if final is not None:
                run.progress.note(f"held out: {final.text}")  # the command prints it
            if peers().index == 0:
                run.finished(final, _of_one(state))
        return peers().first([run.result for run in self.members])


def _of_one(state_R: TrainState) -> TrainState:
    """Shapes and shardings of the state of one run."""

    def of_one(x: jax.Array) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(x.sharding.mesh, P(*x.sharding.spec[1:]))
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=sharding)

    return jax.tree.map(of_one, state_R)


def _room(x: np.ndarray, lead: tuple[int, ...], size: int | None) -> np.ndarray:
    """Zeros for batches like ``x``, of ``size`` rows; None: as many as ``x`` has."""
    return np.zeros((*lead, size or len(x), *x.shape[1:]), x.dtype)


def _shapes(batch: Tree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(batch)]


def _place(state_R: Tree, state: Tree, lane: int) -> Tree:
    """The stacked states, or a part of them, with ``state`` as lane number ``lane``, on the devices as before."""
    shardings = jax.tree.map(lambda x: x.sharding, state_R)
    return jax.device_put(_replace(state_R, state, lane), shardings)


@partial(jax.jit, donate_argnums=0)
def _replace(state_R: Tree, state: Tree, lane: int) -> Tree:
    return jax.tree.map(lambda xs, x: jax.lax.dynamic_update_index_in_dim(xs, jnp.asarray(x), lane, 0), state_R, state)
