"""THE loop: train one run, or a bundle of runs in one program, of any task: step, evaluate, checkpoint, resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from seqjax import runs
from seqjax.config import RunConfig, placed_as, run_id, task_name
from seqjax.data import kept
from seqjax.errors import UserError
from seqjax.families.family import Impossible
from seqjax.host import disk
from seqjax.host.numerics import pinned
from seqjax.host.out_of_memory import TRAINING
from seqjax.host.stopping import stop_signals
from seqjax.runs.config_file import check
from seqjax.tasks import task_module
from seqjax.tasks.task import Task, Where
from seqjax.training.bundle import Bundle
from seqjax.training.hardware import present_devices, refuse_share
from seqjax.training.processes import check_same, own_folders, peers, share_file
from seqjax.training.progress import Progress
from seqjax.training.record import Run
from seqjax.training.tracking import open_mirror
from seqjax.training.trunk import take_over


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

    In several processes (see :mod:`seqjax.training.processes`) all call this with the same runs.

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
    for config, _ in lanes:
        _check(config)
    check_same("the runs", ", ".join(run_id(config) for config, _ in lanes))
    with ExitStack() as stack:
        lanes = stack.enter_context(own_folders(lanes))
        quiet = quiet or peers().index > 0
        for config, folder in lanes:
            runs.open_run(folder, config)
        lanes = _placed_alike(lanes)
        share_file(lanes[0][1] / kept.FILE)
        if (results := _all_results(lanes)) is not None:
            for _, folder in lanes:
                runs.restore_ended(folder, Progress(folder / "log.txt", quiet).say)
            return results
        _check_devices(lanes[0][0].train.compute_dtype)
        for _, folder in lanes:
            stack.enter_context(runs.lock(folder))
        if (results := _all_results(lanes)) is not None:  # another process ended them before this one had the locks
            return results
        stack.enter_context(disk.storage_errors(lanes[0][1]))
        shown = [Progress(folder / "log.txt", quiet or lane > 0) for lane, (_, folder) in enumerate(lanes)]
        if tasks is None:
            tasks = _load(lanes, Where(lanes[0][1], corpus, shown[0].bytes))
        _check_data(tasks[0].digests)
        for note in tasks[0].notes:
            shown[0].say(f"note: {note}")
        members = []
        for (config, folder), task, progress in zip(lanes, tasks, shown, strict=True):
            take_over(config, folder, task.digests, progress.say)
            run = Run(config, folder, task, progress, len(lanes))
            stack.callback(run.checkpoints.close)
            if peers().count > 1:
                peers().last.append(run.checkpoints.finish)
            members.append(run)
        for run, name in zip(members, names or [None] * len(members), strict=True):
            if run.result is None:
                say = run.progress.say
                run.mirror = stack.enter_context(open_mirror(run.config, run.folder, wandb_mode, say, name))
        bundle = Bundle(members, devices, stack.enter_context(stop_signals()))
        _check_rows(lanes[0][0].train, tasks[0], bundle.program.devices)
        stack.enter_context(bundle.memory_errors(TRAINING))
        state, step = bundle.restore()
        while step < bundle.last_step:
            state = bundle.enter(step, state)
            if not bundle.has_work():
                break
            batches, count = bundle.batches(step)
            state, metrics = bundle.program.steps(state, batches, *bundle.schedule(step, count), count)
            step += count
            bundle.reached(step, count, state, metrics)
        return bundle.finish(state)


def _placed_alike(lanes: Sequence[tuple[RunConfig, Path]]) -> list[tuple[RunConfig, Path]]:
    """The lanes, all placed as the first that has not ended: one that has may have begun in another way."""
    lead = peers().first(next((i for i, (_, folder) in enumerate(lanes) if runs.read_result(folder) is None), 0))
    return [(placed_as(config, lanes[lead][0]), folder) for config, folder in lanes]


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
    results = peers().first([runs.read_result(folder) for _, folder in lanes])
    return None if None in results else results


def _check_devices(dtype: str) -> None:
    """Raise UserError if there is none, if it computes wrongly, or if there are processes that have not joined."""
    refuse_share(present_devices()[0], dtype)
    if jax.process_count() != peers().count:
        raise UserError(
            f"JAX has {jax.process_count()} processes that do not know of each other here: let "
            "`with seqjax.training.processes.joined(...)` start it, not jax.distributed.initialize"
        )


def _check_rows(train: Any, task: Task, devices: int) -> None:
    """Raise UserError if there are fewer rows than asked for, and they cannot be shared equally."""
    if task.rows is None or task.rows % (share := devices * train.accumulation) == 0:
        return
    among = f"{devices} device{'s' * (devices > 1)} and train.accumulation {train.accumulation}"
    most = task.rows - task.rows % share
    multiples = f"{share}" if most == share else f"multiples of {share} up to {most}"
    raise UserError(
        f"train.batch_size: {train.batch_size} is more than the {task.rows} training {task.unit}, and {task.rows} "
        f"cannot be shared by {among}; allowed: {multiples if most else f'none; {among} need at least {share}'}"
    )


def _check_data(digests: Mapping[str, str]) -> None:
    """Raise UserError if a process has read other data."""
    for name, digest in sorted(digests.items()):
        check_same(name, digest)
