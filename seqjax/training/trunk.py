"""Branches: runs that start from a checkpoint of another run, their trunk, instead of repeating its steps.

Two runs whose configs differ only in ``train.steps`` take the same steps as long as their learning rates are equal:
with the schedule wsd until the first of their decays begins, with a constant rate to the end. So the branch may start
from any checkpoint of the trunk up to that step. Its result is the same as if it had taken all steps itself. Metrics,
seconds, tokens and FLOPs count the whole run.

    plan.json               of a branch: "trunk", the run id of its trunk, in the folder beside it; or "continues", the
                            folder of a run that it makes longer, perhaps with another program or other threads
                            of a trunk: "pins", the steps at which it makes and keeps checkpoints for its branches
    taken-over.json         of a branch: its trunk, and the steps and seconds taken over from it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import runs
from seqjax.config import RunConfig, text_without
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.wording import quoted
from seqjax.training.checkpoint_files import copy_checkpoint
from seqjax.training.optimizer import learning_rates

TAKEN_OVER = "taken-over.json"
STEPS = ("train.steps",)


def pins_of(folder: Path) -> tuple[int, ...]:
    """The steps at which a run makes and keeps checkpoints for its branches."""
    pins = runs.read_plan(folder).get("pins", ())
    return tuple(sorted(step for step in pins if runs.is_count(step)))


def taken_over(folder: Path) -> dict[str, Any] | None:
    """The trunk of a branch, with the step and seconds taken over from it; None: it took all its steps itself."""
    path = folder / TAKEN_OVER
    return disk.read_json(path) if path.is_file() else None


def take_over(config: RunConfig, folder: Path, digests: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Copy the newest usable checkpoint of the trunk into the folder of a branch that has no checkpoint.

    The folder is locked. If the trunk has none, the branch takes all steps itself, with the same numbers. The
    checkpoint appears last, by a rename. Files that a kill leaves without it are ignored or written again.

    Args:
        digests: of the run's data, see `runs.bind_data`.
    """
    if (folder / "result.json").exists() or runs.steps_of(folder):
        return
    (folder / TAKEN_OVER).unlink(missing_ok=True)
    trunk = _fitting_trunk(config, folder, digests)
    for step in usable_steps(config, trunk) if trunk is not None else ():

        def note(host: Mapping[str, Any], step: int = step) -> None:
            disk.write_json(folder / TAKEN_OVER, {"trunk": trunk.name, "step": step, "seconds": host["seconds"]})
            runs.write_metrics(folder, without_last(config, step, host))

        if copy_checkpoint(trunk, folder, step, note):
            say(f"takes over {step:,} steps of its trunk {trunk.name}")
            return
        (folder / TAKEN_OVER).unlink(missing_ok=True)
    if longer := runs.read_plan(folder).get("continues"):
        raise UserError(f"{folder}: cannot go on from {longer}: that run is gone, or its data is another")


def without_last(config: RunConfig, step: int, host: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The metrics in a checkpoint, for a run of this config that goes on from its step.

    A run that ended there wrote the mean over its last steps, though they are no whole ``log_every``. One that goes on
    does not write that line: the steps still wait for theirs.
    """
    metrics, train = host.get("metrics"), config.train
    if metrics is None or not host.get("waiting") or step == train.steps:
        return metrics
    return [r for r in metrics if not ("loss" in r and r["step"] == step and step % train.log_every)]


def _fitting_trunk(config: RunConfig, folder: Path, digests: Mapping[str, str]) -> Path | None:
    """The folder of the trunk in the plan, if its steps equal this run's to the last bit; else None.

    For that, config, data, threads and the number of lanes of the program must be the same.
    """
    own = runs.read_plan(folder)
    name, longer = own.get("trunk"), own.get("continues")
    if longer is None and (not name or name == folder.name):
        return None
    trunk = Path(longer) if longer is not None else folder.parent / name
    try:
        theirs, plan = runs.read_config(trunk), runs.read_plan(trunk)
        data = disk.read_json(trunk / "data.json") if (trunk / "data.json").is_file() else {}
    except UserError:  # a damaged trunk: the branch does not need it
        return None
    alike = longer is not None or (
        len(plan.get("lanes", ())) == len(own.get("lanes", ())) and (plan.get("threads") == own.get("threads"))
    )
    same_data = all(data.get(key) == value for key, value in digests.items())
    return trunk if alike and same_data and text_without(theirs, STEPS) == text_without(config, STEPS) else None


def usable_steps(config: RunConfig, trunk: Path) -> list[int]:
    """The steps of a run's checkpoints, newest first, up to which a run of this config has the same learning rates."""
    theirs = runs.read_config(trunk)
    steps = (step for step in reversed(runs.steps_of(trunk)) if 0 < step <= config.train.steps)
    return [step for step in steps if _same_rates(config, theirs, step)]


def plan_longer(trunk: Path, config: RunConfig, folder: Path) -> int:
    """Plan that a new run begins with the state of another one; return the step from which it goes on.

    Args:
        config: of the run in `trunk`, with other ``train.steps``.
        folder: of the new run.
    Raises:
        UserError: the learning rates differ before the first checkpoint that is kept.
    """
    kept, shown = runs.steps_of(trunk), config.optimizer.schedule
    usable = usable_steps(config, trunk)
    if not usable:
        why = f"its checkpoints are of steps {', '.join(map(str, kept))}" if kept else "it has no checkpoint"
        raise UserError(
            f"{trunk}: a run of {config.train.steps} steps cannot go on from its state: with the schedule {shown} the "
            f"learning rates differ before ({why}). From its parameters, with a schedule of its own: "
            f"seqjax train {quoted(trunk / 'config.json')} --from {quoted(trunk)} --train.steps {config.train.steps}"
        )
    runs.open_run(folder, config)
    if not (folder / "plan.json").is_file():
        disk.write_json(folder / "plan.json", {"continues": str(trunk.resolve())})
    return usable[0]


def _same_rates(config: RunConfig, trunk: RunConfig, step: int) -> bool:
    ours, theirs = (learning_rates(c.optimizer, c.train.steps)[:step] for c in (config, trunk))
    return np.array_equal(ours, theirs)
