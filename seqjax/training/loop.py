"""THE loop: train one run, or a bundle of runs in one program, of any task: step, evaluate, checkpoint, resume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seqjax import disk, runs
from seqjax.config import RunConfig, task_name
from seqjax.errors import UserError
from seqjax.families.family import Impossible
from seqjax.numerics import pinned
from seqjax.overlay import check
from seqjax.stopping import Interrupted, stop_signals
from seqjax.tasks import task_module
from seqjax.tasks.task import Found, Task, Where
from seqjax.training.hardware import present_devices
from seqjax.training.lanes import make_bundle
from seqjax.training.progress import Progress
from seqjax.training.run import Run
from seqjax.training.state import Hyper, TrainState
from seqjax.training.tracking import open_mirror

Tree = Any
READ = ("loss", "grad_norm", "alive")  # metrics taken from the device; the host knows the learning rate
CALL_SECONDS = 0.1, 0.4  # shorter calls of the program take more steps at once, longer calls fewer


def train(
    config: RunConfig,
    folder: Path,
    *,
    task: Task | None = None,
    devices: int | None = None,
    wandb_mode: str | None = None,
    quiet: bool = False,
    corpus: str | None = None,
) -> dict[str, Any]:
    """Train a run to its end and return the contents of its ``result.json``.

    A finished run is not repeated. An interrupted run resumes from its last whole checkpoint and ends with the same
    parameters and metrics as an uninterrupted one.

    Args:
        folder: the run folder; created if missing.
        task: the task with its data; None: loaded as the config says.
        devices: number of devices that share each batch; None: all, or 1 on a CPU.
        wandb_mode: ``online``, ``offline``, ``disabled`` or None (see :mod:`seqjax.training.tracking`).
        corpus: new place of the data of a run that has begun; None: the place in the config.
    Raises:
        UserError: another config in the folder, another process on it, damaged data, a full disk.
        Interrupted: asked to stop; the state is saved.
    """
    tasks = None if task is None else [task]
    lanes = [(config, folder)]
    return train_bundle(lanes, tasks=tasks, devices=devices, wandb_mode=wandb_mode, quiet=quiet, corpus=corpus)[0]


@pinned()
def train_bundle(
    lanes: Sequence[tuple[RunConfig, Path]],
    *,
    tasks: Sequence[Task] | None = None,
    names: Sequence[str] | None = None,
    devices: int | None = None,
    wandb_mode: str | None = None,
    quiet: bool = False,
    corpus: str | None = None,
) -> list[dict[str, Any]]:
    """Train runs that differ only in their `lane_keys` in one program, each as by :func:`train`.

    Every run has its own folder, checkpoints and result. A diverged run keeps its last finite state. A lane that has
    ended, or whose last checkpoint is of a later step than the others', keeps its place in the program and waits. So
    the numbers of the other lanes do not depend on it.

    Args:
        names: names of the runs in wandb; None: their run ids.
    Returns:
        The contents of each ``result.json``, in the order of the lanes.
    Raises:
        UserError, Interrupted: as :func:`train`.
    """
    for config, folder in lanes:
        _check(config)
        runs.open_run(folder, config)
    if (results := _all_results(lanes)) is not None:
        for _, folder in lanes:
            runs.restore_ended(folder, Progress(folder / "log.txt", quiet).say)
        return results
    present_devices()
    with ExitStack() as stack:
        for _, folder in lanes:
            stack.enter_context(runs.lock(folder))
        if (results := _all_results(lanes)) is not None:  # another process ended them before this one had the locks
            return results
        stack.enter_context(disk.storage_errors(lanes[0][1]))
        shown = [Progress(folder / "log.txt", quiet or lane > 0) for lane, (_, folder) in enumerate(lanes)]
        if tasks is None:
            tasks = _load(lanes, Where(lanes[0][1], corpus, shown[0].bytes))
        for note in tasks[0].notes:
            shown[0].say(f"note: {note}")
        members = []
        for (config, folder), task, progress in zip(lanes, tasks, shown, strict=True):
            run = Run(config, folder, task, progress, len(lanes))
            stack.callback(run.checkpoints.close)
            members.append(run)
        for run, name in zip(members, names or [None] * len(members), strict=True):
            if run.result is None:
                say = run.progress.say
                run.mirror = stack.enter_context(open_mirror(run.config, run.folder, wandb_mode, say, name))
        stop = stack.enter_context(stop_signals())
        return _Bundle(members, devices).to_the_end(stop)


def _check(config: RunConfig) -> None:
    """Check a config made in Python as one from a file."""
    try:
        check(config)
    except Impossible as error:
        raise UserError(f"{error.key}: {error}") from None


def _load(lanes: Sequence[tuple[RunConfig, Path]], where: Where) -> list[Task]:
    """The tasks of the lanes, on the same data."""
    first = lanes[0][0]
    module = task_module(task_name(first))
    data = module.load(first, where)
    return [module.make_task(config, data) for config, _ in lanes]


def _all_results(lanes: Sequence[tuple[RunConfig, Path]]) -> list[dict[str, Any]] | None:
    results = [runs.read_result(folder) for _, folder in lanes]
    return None if None in results else results


class _Bundle:
    """The loop over steps: R runs move together through one program, and all pause at the same steps."""

    def __init__(self, members: Sequence[Run], devices: int | None) -> None:
        self.members = members
        self.config, self.task = members[0].config, members[0].task  # values that may differ are read from each run
        self.program = make_bundle([run.config for run in members], self.task.objective, devices)
        self.checkpoint_every = self.config.train.checkpoint_every or self.task.evaluate_every
        self.rates_RxS = np.stack([run.rates for run in members])
        self.decay_R = np.array([run.config.optimizer.weight_decay for run in members], np.float32)
        self.steps_at_once = 1
        self.last_read = time.monotonic()
        self.stop: Sequence[int] = ()

    def to_the_end(self, stop: Sequence[int]) -> list[dict[str, Any]]:
        """Train from the last checkpoints; return the results of all runs, finished or diverged."""
        self.stop = stop
        state, step = self._restore()
        steps = self.config.train.steps
        unread: tuple[int, int, dict[str, jax.Array]] | None = None
        while step < steps:
            state = self._enter(step, state)
            self._catch_up(step, state)
            if not any(run.result is None for run in self.members):
                break
            batches, count = self._batches(step, min(self.steps_at_once, self._next_event(step) - step))
            state, metrics = self.program.steps(state, batches, *self._schedule(step, count), count)
            if unread is not None:
                self._read(*unread)  # the metrics of the previous call, while this one runs
            unread = (step, count, metrics)
            step += count
            asked = stop[0] if stop else None
            if asked or self._is_due(step):
                self._read(*unread)
                unread = None
            for run in self._active(step - 1):
                if not run.is_alive():
                    run.diverged(step)
            if not any(run.result is None for run in self.members):
                break
            if self._is_due(step) and step < steps:
                self._pause(step, state)
            if asked and step < steps:
                self._save(step, state)
                raise Interrupted(asked, step)
        self._finish(self._enter(steps, state))
        return [run.result for run in self.members]

    def _restore(self) -> tuple[TrainState, int]:
        """Fresh states, and the first step of the least advanced run; each other run enters at its own step."""
        state = self.program.init()
        waiting = [run for run in self.members if run.result is None]
        for run in waiting:
            run.restore(_of_one(state))
        return state, min(run.start for run in waiting)

    def _enter(self, step: int, state: TrainState) -> TrainState:
        for lane, run in enumerate(self.members):
            if run.saved is not None and run.start == step:
                state = _place(state, run.saved, lane)
                run.saved = None
        return state

    def _catch_up(self, step: int, state: TrainState) -> None:
        """Evaluate runs that resume here and were stopped between the checkpoint and the evaluation of this step."""
        if step > 0 and self._evaluates(step):
            behind = [r for r in self.members if r.result is None and r.start == step and not r.is_evaluated(step)]
            if behind:
                self._evaluate(step, state, behind)

    def _active(self, step: int) -> list[Run]:
        """The runs that take this step: not ended and not waiting for the others."""
        return [run for run in self.members if run.result is None and run.start <= step]

    def _batches(self, first: int, most: int) -> tuple[Tree, int]:
        """The batches of the steps from ``first`` on, leaves [R, K, B, ...], and their number, at most ``most``.

        Lanes with the same seed have the same data.
        """
        lanes_of_seed: dict[int, list[int]] = {}
        for lane, run in enumerate(self.members):
            lanes_of_seed.setdefault(run.config.train.seed, []).append(lane)
        filled, count, shapes = None, 0, None
        for k in range(most):
            batches = [(lanes, self.members[lanes[0]].task.batch(first + k)) for lanes in lanes_of_seed.values()]
            found = [_shapes(batch) for _, batch in batches]
            if shapes is None:
                shapes, lead = found[0], (len(self.members), self.program.steps_at_once)
                filled = jax.tree.map(lambda x, lead=lead: np.zeros((*lead, *x.shape), x.dtype), batches[0][1])
            if any(shape != shapes for shape in found):
                if k == 0:
                    raise UserError("the runs of this bundle have batches of different shapes; train them one by one")
                break
            for lanes, batch in batches:
                for all_RxK, x in zip(jax.tree.leaves(filled), jax.tree.leaves(batch), strict=True):
                    all_RxK[lanes, k] = x
            count += 1
        return self.program.put(filled), count

    def _schedule(self, first: int, count: int) -> tuple[Hyper, np.ndarray]:
        """Learning rates [R, K], weight decays [R], and whether to zero the carry before each step, bool [K]."""
        capacity = self.program.steps_at_once
        resets_K, rates_RxK = np.zeros(capacity, bool), np.zeros((len(self.members), capacity), np.float32)
        rates_RxK[:, :count] = self.rates_RxS[:, first : first + count]
        resets_K[:count] = [self.task.resets(first + k) for k in range(count)]
        return Hyper(rates_RxK, self.decay_R), resets_K

    def _next_event(self, step: int) -> int:
        """The next step with a checkpoint, an evaluation, the end, or a run that enters."""
        due = [step - step % every + every for every in (self.checkpoint_every, self.task.evaluate_every)]
        return min(self.config.train.steps, *due, *(run.start for run in self.members if run.start > step))

    def _is_due(self, step: int) -> bool:
        """Whether this step has an evaluation, a checkpoint or the end: then the host waits for the device."""
        return step % self.checkpoint_every == 0 or step == self.config.train.steps or self._evaluates(step)

    def _evaluates(self, step: int) -> bool:
        return step % self.task.evaluate_every == 0 and step < self.config.train.steps

    def _read(self, first: int, count: int, metrics: dict[str, jax.Array]) -> None:
        """Fetch the metrics of ``count`` steps from ``first`` on; adapt ``steps_at_once`` to the time they took."""
        columns_RxK = jax.device_get([metrics[name] for name in READ])
        for lane, run in enumerate(self.members):
            if run.result is None and run.start <= first:
                of_lane = [column[lane, :count].astype(float).tolist() for column in columns_RxK]
                records = [dict(zip(READ, values, strict=True)) for values in zip(*of_lane, strict=True)]
                run.read(first + 1, records, self.program.devices)
        since, self.last_read = self.last_read, time.monotonic()
        if self.last_read - since < CALL_SECONDS[0]:
            self.steps_at_once = min(2 * self.steps_at_once, self.program.steps_at_once)
        elif self.last_read - since > CALL_SECONDS[1]:
            self.steps_at_once = max(self.steps_at_once // 2, 1)

    def _pause(self, step: int, state: TrainState) -> None:
        """Save first, then evaluate if it is due: a failed evaluation loses no training."""
        self._save(step, state)
        if self._evaluates(step):
            self._evaluate(step, state, self._active(step - 1))
        self.last_read = time.monotonic()  # so that only training counts between two reads

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
        for batch in self.task.held_out(final):
            if self.stop:
                raise Interrupted(self.stop[0], step)
            score_R, carry = self.program.score(state.params, batch, carry)
            scores.append(jax.device_get(score_R))
        found = [
            run.task.summary([jax.tree.map(lambda x, lane=lane: x[lane], score) for score in scores], final)
            for lane, run in enumerate(self.members)
        ]
        for run in self.members:
            run.not_training(time.monotonic() - began)
        return found

    def _save(self, step: int, state: TrainState) -> None:
        host = jax.device_get(state)
        for lane, run in enumerate(self.members):
            if run.result is None and run.start < step:
                run.save(step, jax.tree.map(lambda x, lane=lane: x[lane], host))

    def _finish(self, state: TrainState) -> None:
        steps = self.config.train.steps
        if not any(run.result is None for run in self.members):
            return
        self._save(steps, state)
        found = self._evaluate(steps, state, [run for run in self.members if run.result is None])
        if self.task.more_at_end:
            found = self._held_out(steps, state, final=True)
        for run, final in zip(self.members, found, strict=True):
            if run.result is None:
                if run.task.keeps == "last":
                    run.progress.say(f"held out: {final.text}")
                run.finished(final if run.task.keeps == "last" else None, _of_one(state))


def _of_one(state_R: TrainState) -> TrainState:
    """Shapes and shardings of the state of one run."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=NamedSharding(x.sharding.mesh, P())), state_R
    )


def _shapes(batch: Tree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(batch)]


@partial(jax.jit, donate_argnums=0)
def _place(state_R: TrainState, state: TrainState, lane: int) -> TrainState:
    """The stacked states with ``state`` as lane number ``lane``."""
    return jax.tree.map(lambda xs, x: jax.lax.dynamic_update_index_in_dim(xs, jnp.asarray(x), lane, 0), state_R, state)
