"""The host's side of one run: its metrics, its checkpoints, its result.

The loop in :mod:`seqjax.training.loop` calls it at each event, for one run or for each lane of a bundle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import runs
from seqjax.config import RunConfig, run_id
from seqjax.errors import UserError
from seqjax.families.own import look_of
from seqjax.host import disk
from seqjax.host.cores import Waiting
from seqjax.host.numerics import noted_environment
from seqjax.layers import native
from seqjax.tasks.task import Found, Task
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.hardware import describe_hardware, describe_versions, made_by, peak_flops
from seqjax.training.optimizer import learning_rates
from seqjax.training.processes import peers
from seqjax.training.progress import Progress
from seqjax.training.state import TrainState
from seqjax.training.tracking import Mirror
from seqjax.training.trunk import pins_of, taken_over, without_last

CHECKPOINTS = 3  # kept: the last two and the best
STATE_BYTES = 12  # bytes of a parameter and its two moments in float32


class Run:
    """One run on the host, without its state on the device.

    Attributes:
        rates: learning rate of every step, float32 [steps].
        result: the contents of ``result.json`` once the run has ended, else None.
        pins: steps with a checkpoint that is kept for branches, see `seqjax.training.trunk`.
        start: the step at which this run enters the program: 0, or the step of ``saved``.
        saved: the state of the last checkpoint until the run enters, or None.
    """

    def __init__(self, config: RunConfig, folder: Path, task: Task, progress: Progress, lanes: int) -> None:
        self.config, self.folder, self.task, self.progress = config, folder, task, progress
        runs.bind_data(folder, task.digests, run_id(config))
        task.keep(folder)
        self.rates = learning_rates(config.optimizer, config.train.steps)
        self.pins = tuple(peers().first(pins_of(folder)))
        self.checkpoints = Checkpoints(folder, pinned=self.pins)
        self.mirror = Mirror()
        self.result: dict[str, Any] | None = peers().first(runs.read_result(folder))
        self.start, self.saved = 0, None
        self._lanes = lanes
        self._waiting: list[dict[str, float]] = []  # metrics of the steps since the last line of metrics.jsonl
        self._started = time.monotonic()  # moved back on resume by the seconds of earlier processes
        # seconds and steps of training, without compilation and evaluation: of earlier processes, and in total
        self._trained_before: tuple[float, int] = (0.0, 0)
        self._trained = self._trained_before
        self._rate_since: tuple[float, int] | None = None
        # seconds that its threads waited for a core, and of how many: of earlier processes; here from the first step on
        self._waited_before: tuple[float, float] = (0.0, 0.0)
        self._waits_since: tuple[Waiting, float] | None = None
        # by which versions and device the steps were taken, from which on
        self._makers: list[dict[str, Any]] = [{"from_step": 0, **made_by()}]
        self._mirrored: set[tuple[int, bool]] = set()  # lines that the mirror has of a process that was killed

    def restore(self, like: TrainState) -> None:
        """Restore the last whole checkpoint, with the metrics and times of that step."""
        restored = self.checkpoints.restore(like, self.progress.say)
        self._find_mirrored(0 if restored is None else restored[0])
        if restored is None:
            runs.keep_metrics(self.folder, lambda _: False)
            self._announce()
            return
        self.start, self.saved, host = restored
        self._waiting = host["waiting"]
        self._started -= host["seconds"]
        self._trained = self._trained_before = tuple(host.get("trained", (0.0, 0)))
        self._waited_before = tuple(host.get("waited", (0.0, 0.0)))
        self._take_over(host.get("makers") or [])
        metrics = without_last(self.config, self.start, host)
        if lost := runs.restore_metrics(self.folder, self.start, metrics):
            self.progress.say(f"metrics.jsonl had lost or altered lines ({lost}); the checkpoint's copy is taken")
        self.progress.say(f"resuming at step {self.start}")
        if (then := host.get("form")) is not None:
            native.in_use()
            if then != (now := native.form()):
                self.progress.say(f"note: {then} computed until here, {now} from here on: last digits of losses differ")

    def _take_over(self, makers: Sequence[dict[str, Any]]) -> None:
        """Go on from steps that these versions and devices took (of an earlier seqjax: unknown ones), and say what
        has changed."""
        if not makers:
            return
        now, then = made_by(), makers[-1]
        self._makers = list(makers)
        if changed := [name for name in now if then.get(name) != now[name]]:
            self._makers.append({"from_step": self.start, **now})
            told = ", ".join(f"{name} {then.get(name, 'unknown')} until here and {now[name]} now" for name in changed)
            self.progress.say(f"note: {told}: last digits of losses may differ")

    def _find_mirrored(self, step: int) -> None:
        """Lines after the checkpoint are written once more, and were mirrored already: a mirror has no way back."""
        if type(self.mirror) is not Mirror:
            self._mirrored = {_place(r) for r in runs.read_metrics(self.folder) if r["step"] > step}

    def is_evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl has a validation loss at this step."""
        return any(r["step"] == step and "validation_loss" in r for r in runs.read_metrics(self.folder))

    def _announce(self) -> None:
        n, task = self.task.parameters, self.task
        kept = CHECKPOINTS + len(self.pins)
        disk.need_room(self.folder, kept * STATE_BYTES * n["total"], f"{kept} checkpoints")
        others = f", one of {self._lanes} runs in one program" if self._lanes > 1 else ""
        others += f", in {peers().count} processes" if peers().count > 1 else ""
        available = "" if task.available is None else f", {task.available:,} training {task.unit}"
        self.progress.say(
            f"{run_id(self.config)}: {n['total']:,} parameters ({n['non_embedding']:,} non-embedding), "
            f"{self.config.train.steps:,} steps of {task.per_step:,} {task.unit}{available}{others}"
        )

    def _seen(self, step: int) -> dict[str, int]:
        return {"step": step, self.task.unit: step * self.task.per_step}

    def read(self, first: int, records: Sequence[dict[str, float]], devices: int) -> None:
        """Take the metrics of the steps that end at ``first``, ``first`` + 1, ...; write their mean every
        ``log_every`` steps, and at the end that of the last ones, which wait on for a longer run."""
        train = self.config.train
        for step, values in enumerate(records, first):
            self._waiting.append(values)
            whole = step % train.log_every == 0
            if (whole or step == train.steps) and values["alive"]:
                self._write_mean(step)
                self._waiting = [] if whole else self._waiting
        self._show(first + len(records) - 1, records[-1]["loss"], devices)

    def write_last(self) -> None:
        """Write the mean over the last steps if a longer run took them all, which had no line there."""
        steps = self.config.train.steps
        written = any("loss" in r and r["step"] == steps for r in runs.read_metrics(self.folder))
        if self._waiting and not written:
            self._write_mean(steps)

    def _write_mean(self, step: int) -> None:
        means = {name: _mean(self._waiting, name) for name in ("loss", "grad_norm")}
        self._write({**self._seen(step), **means, "learning_rate": float(self.rates[step - 1])})

    def is_alive(self) -> bool:
        """Whether all metrics read so far were finite."""
        return not self._waiting or bool(self._waiting[-1]["alive"])

    def _show(self, step: int, loss: float, devices: int) -> None:
        now = time.monotonic()
        if self._rate_since is None:
            self._rate_since = (now, step)  # the first step compiles, so it does not count
            self._waits_since = (Waiting(), now)
            return
        since, first = self._rate_since
        seconds, steps = self._trained_before
        self._trained = (seconds + now - since, steps + step - first)
        if not self.progress.is_due(step == self.config.train.steps):
            return
        rate = (step - first) / max(now - since, 1e-9)
        units, steps = rate * self.task.per_step, self.config.train.steps
        flops = units * self.task.flops["training"] if self.task.flops else None
        self.progress.step(step, steps, loss, units, self.task.unit, flops, peak_flops(devices), (steps - step) / rate)

    def not_training(self, seconds: float) -> None:
        """Exclude ``seconds`` of evaluation from the training rate."""
        if self._rate_since is not None:
            self._rate_since = (self._rate_since[0] + seconds, self._rate_since[1])

    def _waited(self) -> tuple[float, float]:
        """Seconds that threads waited for a core, and of how many, with those of earlier processes."""
        waited, of = self._waited_before
        if self._waits_since is None or (here := self._waits_since[0].seconds()) is None:
            return waited, of
        return waited + here, of + time.monotonic() - self._waits_since[1]

    def _write(self, record: dict[str, Any]) -> None:
        record = {**record, "seconds": round(time.monotonic() - self._started, 3)}
        runs.append_metrics(self.folder, record)
        if _place(record) in self._mirrored:
            self._mirrored.discard(_place(record))
        else:
            self.mirror.log(record)

    def evaluated(self, step: int, found: Found) -> None:
        """Write a point of the validation curve. A loss that is not finite ends the run and deletes its checkpoint."""
        if not math.isfinite(found.loss):
            self.not_evaluated(step)
            return
        if step == self.config.train.steps:
            # a process that was killed between this line and the result has left its last evaluation
            runs.keep_metrics(self.folder, lambda r: not (r["step"] == step and "validation_loss" in r))
        self._write({**self._seen(step), "validation_loss": found.loss, **found.curve})
        self.progress.say(f"step {step}: validation {found.text}")

    def not_evaluated(self, step: int) -> None:
        """Write the result of a run whose held-out loss was not finite after this step, and delete its checkpoint."""
        self.checkpoints.discard(step)
        self.progress.say(f"diverged: the held-out loss was not finite at step {step}")
        self._end({"status": "diverged", "diverged_in_steps": [step, step], "steps": step})

    def save(self, step: int, state: TrainState) -> None:
        """Write a checkpoint of the state (a copy on the host), in the background."""
        if step not in self.checkpoints.steps():
            runs.sync_metrics(self.folder)
            seconds = time.monotonic() - self._started
            host = {"waiting": self._waiting, "seconds": seconds, "trained": self._trained, "form": native.form()}
            host |= {"makers": self._makers, "waited": self._waited()}
            self.checkpoints.save(step, state, {**host, "metrics": runs.read_metrics(self.folder)})

    def diverged(self, step: int) -> None:
        """Write the result of a run whose loss or gradient was not finite. The last good checkpoint is kept."""
        good = next((r["step"] for r in reversed(runs.read_metrics(self.folder)) if "loss" in r), 0)
        first = next((good + 1 + i for i, m in enumerate(self._waiting) if not m["alive"]), step)
        self.progress.say(f"diverged: the loss or its gradient was not finite at step {first}")
        self._end({"status": "diverged", "diverged_in_steps": [good + 1, first], "steps": first - 1})

    def finished(self, final: Found | None, like: TrainState) -> None:
        """Write the result of a run that took all its steps.

        Args:
            final: the evaluation of the last parameters; None: the result is for the best parameters.
            like: shapes of the state of one run.
        """
        scored = [r for r in runs.read_metrics(self.folder) if "validation_loss" in r]
        best = min(scored, key=lambda r: (r["validation_loss"], r["step"]))
        if final is not None:
            validation, further = final.record, {}
        else:
            numbers = {name: value for name, value in best.items() if name not in ("step", "seconds", self.task.unit)}
            validation = {"loss": numbers.pop("validation_loss"), **numbers}
            self.checkpoints.wait()
            further = self.task.final(self.params_at(best["step"], like))
        self._end(
            {
                "status": "finished",
                "steps": self.config.train.steps,
                "validation": validation,
                "best": {"step": best["step"], "validation_loss": best["validation_loss"]},
                **disk.finite(further),
            }
        )

    def params_at(self, step: int, like: TrainState) -> Any:
        """The parameters of a checkpoint.

        Raises:
            UserError: it is missing or damaged.
        """
        restored = self.checkpoints.restore(like, self.progress.say, step)
        if restored is None or restored[0] != step:
            raise UserError(
                f"{self.folder}: the checkpoint of the best evaluation (step {step}) is gone or damaged; bring it "
                "back, or remove checkpoints/ to train the run again from the start"
            )
        return jax.tree.map(jnp.asarray, restored[1].params)

    def _end(self, outcome: dict[str, Any]) -> None:
        self.checkpoints.wait()
        task = self.task
        seen = outcome["steps"] * task.per_step
        losses = [r["loss"] for r in runs.read_metrics(self.folder) if "loss" in r]
        counted = {task.unit: seen}
        if task.available is not None:
            counted |= {f"unique_{task.unit}": task.available, "epochs": seen / task.available}
        if task.flops is not None:
            flops = {"kaplan_6nd": task.flops["kaplan_6n"] * seen, "exact": task.flops["training"] * seen}
            counted |= {"flops_per_token": task.flops, "training_flops": flops}
        (seconds, steps), (waited, of) = self._trained, self._waited()
        self.result = {
            "run_id": run_id(self.config),
            **outcome,
            "train_loss": losses[-1] if losses else None,
            **counted,
            "parameters": task.parameters,
            "seconds": round(time.monotonic() - self._started, 3),
            f"{task.unit}_per_second": steps * task.per_step / seconds if steps else None,
            "waited_share": round(waited / of, 4) if of else None,
            "runs_in_program": self._lanes,
            **task.digests,
            **({"look": look} if (look := look_of(self.config.model.family)) else {}),
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            **({"made_by": self._makers} if len(self._makers) > 1 else {}),
            **({"taken_over": shared} if (shared := taken_over(self.folder)) else {}),
            "environment": noted_environment(),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        disk.write_json(self.folder / "result.json", self.result)
        self.mirror.finish(self.result)


def _place(record: dict[str, Any]) -> tuple[int, bool]:
    return record["step"], "validation_loss" in record


def _mean(records: list[dict[str, float]], name: str) -> float:
    return math.fsum(record[name] for record in records) / len(records)
