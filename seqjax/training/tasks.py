"""Training for any task: the one train step, batches as a function of the step, checkpoints, a result that is kept.

The loop of language models (:mod:`seqjax.training.loop`) knows of tokens and bundles; this one knows nothing of what it
trains. Its run folder has the same files: see :mod:`seqjax.runs`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import disk, runs
from seqjax.config import OptimizerConfig
from seqjax.errors import UserError
from seqjax.families import Family
from seqjax.numerics import noted_environment, pinned
from seqjax.stopping import Interrupted, stop_signals
from seqjax.task_config import TaskTrain, canonical
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.hardware import describe_hardware, describe_versions, present_devices
from seqjax.training.optimizer import learning_rates, make_optimizer
from seqjax.training.progress import Progress
from seqjax.training.state import Hyper, TrainState, first_state
from seqjax.training.step import Loss, train_step
from seqjax.units import duration

Tree = Any


class Task(NamedTuple):
    """What training must know of a task.

    Attributes:
        init: key -> params.
        loss: see `seqjax.training.step.Loss`; its carry is None.
        batch: step (from 0) -> numpy batch, leading axis B; pure. Every new shape compiles the step once more.
        evaluate: params -> held-out numbers; "validation_loss" is among them, and its lowest value marks the best.
        final: params of the best evaluation -> numbers for the result, the test set's say.
    """

    init: Callable[[jax.Array], Tree]
    loss: Loss
    batch: Callable[[int], Tree]
    evaluate: Callable[[Tree], dict[str, Any]]
    final: Callable[[Tree], dict[str, Any]] = lambda params: {}


class Fitted(NamedTuple):
    """The parameters of the best evaluation, and the contents of result.json."""

    params: Tree
    result: dict[str, Any]


@pinned()
def fit(
    task: Task, config: Any, optimizer: OptimizerConfig, train: TaskTrain, folder: Path, quiet: bool = False
) -> Fitted:
    """Train in a run folder to the end, or go on where it was stopped; a finished run is read, never repeated.

    Args:
        config: the dataclass that decides the numbers of the run; the folder is bound to it.
    Returns:
        Best parameters and result: "status" (finished, diverged), "validation" (of the best evaluation), "best_step",
        what `task.final` found, "seconds", "parameters", hardware, versions and date.
    Raises:
        UserError: the folder holds another run, or is locked by one, or cannot be written.
        Interrupted: asked to stop; the state is saved.
    """
    present_devices()
    _open(folder, config)
    with runs.lock(folder), disk.storage_errors(folder), stop_signals() as asked, closing(Checkpoints(folder)) as kept:
        return _Fit(task, optimizer, train, folder, kept, Progress(folder / "log.txt", quiet)).run(asked)


def _open(folder: Path, config: Any) -> None:
    """Make the run folder, or check that it is of this config."""
    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path, now = folder / "config.json", json.loads(json.dumps(dataclasses.asdict(config)))
        records = runs.holds_records(folder)  # looked at first: another process may be writing config.json right now
        if not path.is_file():
            if records:
                raise UserError(f"{folder}: holds files but no config.json, so it is not a run folder")
            if isinstance(model := getattr(config, "model", None), Family):
                runs.keep_code(folder, model.family)
            disk.write_json(path, now)
        elif canonical(disk.read_json(path)) != canonical(now):
            raise UserError(f"{folder}: holds a run of another config; choose another run folder")


class _Fit:
    """One call of `fit`: what the host remembers between steps."""

    def __init__(
        self,
        task: Task,
        optimizer: OptimizerConfig,
        train: TaskTrain,
        folder: Path,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> None:
        self.task, self.train, self.folder, self.progress = task, train, folder, progress
        direction = make_optimizer(optimizer)
        self.rates = learning_rates(optimizer, train.steps)
        self.decay = np.float32(optimizer.weight_decay)
        self.step = _compiled_step(task.loss, dataclasses.replace(optimizer, learning_rate=1.0))  # rates are traced
        self.init = jax.jit(lambda seed: _fresh(task, direction, seed))
        self.checkpoints = checkpoints
        self.seconds_before = 0.0
        self.began = time.monotonic()
        self.waiting: list[dict[str, jax.Array]] = []  # metrics of the steps since the last line of metrics.jsonl

    def run(self, asked: list[int]) -> Fitted:
        state, steps = self.init(np.int32(self.train.seed)), self.train.steps
        if (result := runs.read_result(self.folder)) is not None:
            return Fitted(self._recorded(state, result["best_step"]).params, result)
        state, first = self._restore(state)
        self._count(state)
        behind = first and self._evaluates(first) and not self._is_evaluated(first)  # stopped before its evaluation
        if behind and not self._evaluate(first, state):
            return self._end(state, "diverged")
        self.first, self.began_step = first, time.monotonic()
        for step in range(first, steps):
            hyper = Hyper(self.rates[step], self.decay)
            state, metrics = self.step(state, self.task.batch(step), hyper)
            self.waiting.append({"loss": metrics["loss"], "grad_norm": metrics["grad_norm"], "alive": metrics["alive"]})
            last = step + 1 == steps
            if (step + 1) % self.train.log_every == 0 or last:
                if not self._write(step + 1):
                    return self._end(state, "diverged")
            stopping = bool(asked) and not last
            evaluates = self._evaluates(step + 1)
            if evaluates or stopping:
                self._save(step + 1, state)
            if evaluates and not self._evaluate(step + 1, state):  # after the save: if it fails, no training is lost
                return self._end(state, "diverged")
            if stopping:
                self.checkpoints.wait()
                raise Interrupted(asked[0], step + 1)
        return self._end(state, "finished")

    def _restore(self, state: TrainState) -> tuple[TrainState, int]:
        restored = self.checkpoints.restore(state, self.progress.say)
        if restored is None:
            runs.keep_metrics(self.folder, lambda _: False)
            return state, 0
        step, state, host = restored
        self.seconds_before = host["seconds"]
        self.waiting = [{name: np.asarray(value) for name, value in metrics.items()} for metrics in host["waiting"]]
        if lost := runs.restore_metrics(self.folder, step, host.get("metrics")):
            self.progress.say(f"metrics.jsonl had lost or altered lines ({lost}); the checkpoint's copy is taken")
        self.progress.say(f"resuming at step {step}")
        return jax.tree.map(jnp.asarray, state), step

    def _count(self, state: TrainState) -> None:
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        self.progress.say(f"{self.folder.name}: {self.parameters:,} parameters, {self.train.steps:,} steps")

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _write(self, step: int) -> bool:
        """One line of metrics.jsonl; False if the run is dead."""
        metrics = jax.device_get(self.waiting)
        self.waiting = []
        if not all(m["alive"] for m in metrics):
            return False
        means = {name: math.fsum(float(m[name]) for m in metrics) / len(metrics) for name in ("loss", "grad_norm")}
        record = {"step": step, **means, "learning_rate": float(self.rates[step - 1])}
        runs.append_metrics(self.folder, record | {"seconds": round(self._seconds(), 3)})
        if self.progress.is_due(step == self.train.steps):
            per_step = (time.monotonic() - self.began_step) / max(step - self.first, 1)
            left = duration(per_step * (self.train.steps - step))
            self.progress.show(
                f"step {step:>{len(str(self.train.steps))}}/{self.train.steps}  loss {means['loss']:.4f}  {left} left"
            )
        return True

    def _evaluates(self, step: int) -> bool:
        return step % self.train.evaluate_every == 0 or step == self.train.steps

    def _is_evaluated(self, step: int) -> bool:
        return any(r["step"] == step and "validation_loss" in r for r in runs.read_metrics(self.folder))

    def _evaluate(self, step: int, state: TrainState) -> bool:
        """One point of the held-out curve; False if its loss is not finite."""
        found = self.task.evaluate(state.params)
        if not math.isfinite(found["validation_loss"]):
            self.progress.say(f"step {step}: the held-out loss is not finite")
            return False
        found = _finite(found)
        runs.append_metrics(self.folder, {"step": step, **found, "seconds": round(self._seconds(), 3)})
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items() if value is not None)
        self.progress.say(f"step {step}: {shown}")
        return True

    def _save(self, step: int, state: TrainState) -> None:
        if step in self.checkpoints.steps():
            return
        runs.sync_metrics(self.folder)
        waiting = [{name: float(value) for name, value in m.items()} for m in jax.device_get(self.waiting)]
        host = {"seconds": self._seconds(), "waiting": waiting, "metrics": runs.read_metrics(self.folder)}
        self.checkpoints.save(step, jax.device_get(state), host)

    def _best(self, like: TrainState) -> TrainState:
        restored = self.checkpoints.restore(like, self.progress.say, self.checkpoints.best())
        return like if restored is None else jax.tree.map(jnp.asarray, restored[1])

    def _recorded(self, like: TrainState, best: int | None) -> TrainState:
        """The parameters that the result of a finished run tells of.

        Raises:
            UserError: their checkpoint is not there any more, or damaged.
        """
        restored = self.checkpoints.restore(like, self.progress.say, best)
        if best is None and restored is None:
            return like  # it diverged before its first checkpoint
        if restored is None or best not in (None, restored[0]):
            raise UserError(
                f"{self.folder}: has a result, but the checkpoint it tells of (step {best}) is gone or damaged; "
                "bring it back, or remove result.json to train the run again"
            )
        return jax.tree.map(jnp.asarray, restored[1])

    def _end(self, state: TrainState, status: str) -> Fitted:
        self.checkpoints.wait()
        evaluations = [r for r in runs.read_metrics(self.folder) if "validation_loss" in r]
        best = min(evaluations, key=lambda r: r["validation_loss"], default=None)
        steps = int(state.step)  # a dead run's state stands still
        state = self._best(state)
        result = {
            "status": status,
            "steps": steps,
            "best_step": best["step"] if best else None,
            "validation": {k: v for k, v in best.items() if k not in ("step", "seconds")} if best else None,
            **(_finite(self.task.final(state.params)) if status == "finished" else {}),
            "parameters": self.parameters,
            "seconds": round(self._seconds(), 3),
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            "environment": noted_environment(),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        disk.write_json(self.folder / "result.json", result)
        self.progress.say(f"{status} after {duration(result['seconds'])}")
        return Fitted(state.params, result)


def _finite(found: Any) -> Any:
    """The same values with None in the place of floats that are not finite, which JSON does not have."""
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


@lru_cache(maxsize=1)
def _compiled_step(loss: Loss, optimizer: OptimizerConfig) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The train step. Runs one after the other with an equal loss, those of another seed say, trace it once."""
    step = partial(train_step, loss=loss, optimizer=make_optimizer(optimizer), clip_norm=optimizer.clip_norm)
    return jax.jit(step, donate_argnums=0)


def _fresh(task: Task, direction: Any, seed: jax.Array) -> TrainState:
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    return first_state(task.init(init_key), direction, dropout_key)
