"""The host's side of one run: the lines it writes, the checkpoints it keeps, the result it ends with.

The loop in :mod:`seqjax.training.loop` drives one such run, or the lanes of a bundle, and calls it at each event.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import disk, runs
from seqjax.config import Config, run_id
from seqjax.errors import UserError
from seqjax.layers import native
from seqjax.models.accounting import count_parameters, flops_per_token
from seqjax.numerics import noted_environment, pinned
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.evaluation import Evaluation
from seqjax.training.hardware import describe_hardware, describe_versions, peak_flops
from seqjax.training.optimizer import learning_rates
from seqjax.training.progress import Progress
from seqjax.training.setup import Program, Text, check_lengths
from seqjax.training.state import TrainState
from seqjax.training.tracking import Mirror


class Run:
    """What one run remembers between its steps, beside the state on the device.

    Attributes:
        rates: learning rate of every step, float32 [steps].
        result: the contents of ``result.json`` once the run has ended, else None.
        start: the step that the loop gives this run its state at; 0, or that of ``saved``.
        saved: the state of the last checkpoint, or None.
    """

    def __init__(self, config: Config, folder: Path, text: Text, progress: Progress, lanes: int) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.train_shard, self.validation_shard = text.shard("train"), text.shard("validation")
        check_lengths(config, text)
        runs.bind_data(folder, text.corpus.sha256, text.tokenizer.sha256, run_id(config))
        vocab_size, context = text.tokenizer.vocab_size, config.train.context_length
        self.parameters = count_parameters(config.model, vocab_size, context)
        self.flops = flops_per_token(config.model, vocab_size, context)
        self.rates = learning_rates(config.optimizer, config.train.steps)
        self.checkpoints = Checkpoints(folder)
        self.mirror = Mirror()
        self.result: dict[str, Any] | None = runs.read_result(folder)
        self.start, self.saved = 0, None
        self._lanes = lanes
        self._tokens_per_step = config.train.batch_size * context
        self._waiting: list[dict[str, float]] = []  # metrics of the steps since the last line of metrics.jsonl
        self._started = time.monotonic()  # moved back on resume by the seconds of earlier processes
        # seconds and steps of training, without compilation and evaluation: of earlier processes, and of all
        self._trained_before: tuple[float, int] = (0.0, 0)
        self._trained = self._trained_before
        self._rate_since: tuple[float, int] | None = None

    def restore(self, like: TrainState) -> None:
        """Find the last whole checkpoint and go back to what was known then."""
        restored = self.checkpoints.restore(like, self.progress.say)
        if restored is None:
            runs.keep_metrics(self.folder, lambda _: False)
            self._announce()
            return
        self.start, self.saved, host = restored
        self._waiting = host["waiting"]
        self._started -= host["seconds"]
        self._trained = self._trained_before = tuple(host.get("trained", (0.0, 0)))
        if lost := runs.restore_metrics(self.folder, self.start, host.get("metrics")):
            self.progress.say(f"metrics.jsonl had lost or altered lines ({lost}); the checkpoint's copy is taken")
        self.progress.say(f"resuming at step {self.start}")
        if (then := host.get("form")) is not None:
            native.compiled()
            if then != (now := native.form()):
                self.progress.say(f"note: {then} computed until here, {now} from here on: last digits of losses differ")

    def is_evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl has a validation loss at this step."""
        return any(r["step"] == step and "validation_loss" in r for r in runs.read_metrics(self.folder))

    def _announce(self) -> None:
        n, steps = self.parameters, self.config.train.steps
        others = f", one of {self._lanes} runs in one program" if self._lanes > 1 else ""
        self.progress.say(
            f"{run_id(self.config)}: {n['total']:,} parameters ({n['non_embedding']:,} non-embedding), "
            f"{steps:,} steps of {self._tokens_per_step:,} tokens, {len(self.train_shard.tokens):,} training tokens"
            f"{others}"
        )

    def read(self, first: int, records: Sequence[dict[str, float]], devices: int) -> None:
        """Take the metrics of the steps that led to ``first``, ``first`` + 1, ...; every ``log_every`` steps write
        their mean."""
        train = self.config.train
        for step, values in enumerate(records, first):
            self._waiting.append(values)
            if (step % train.log_every == 0 or step == train.steps) and values["alive"]:
                self._write(
                    {
                        "step": step,
                        "tokens": step * self._tokens_per_step,
                        "loss": _mean(self._waiting, "loss"),
                        "grad_norm": _mean(self._waiting, "grad_norm"),
                        "learning_rate": float(self.rates[step - 1]),
                    }
                )
                self._waiting = []
        self._show(first + len(records) - 1, records[-1]["loss"], devices)

    def is_alive(self) -> bool:
        """Whether everything read so far was finite."""
        return not self._waiting or bool(self._waiting[-1]["alive"])

    def _show(self, step: int, loss: float, devices: int) -> None:
        now = time.monotonic()
        if self._rate_since is None:
            self._rate_since = (now, step)  # the first step, which compiles, is not part of the rate
            return
        since, first = self._rate_since
        seconds, steps = self._trained_before
        self._trained = (seconds + now - since, steps + step - first)
        if not self.progress.is_due(step == self.config.train.steps):
            return
        rate = (step - first) * self._tokens_per_step / max(now - since, 1e-9)
        left = (self.config.train.steps - step) * self._tokens_per_step / rate
        flops = rate * self.flops["training"]
        self.progress.step(step, self.config.train.steps, loss, rate, flops, peak_flops(devices), left)

    def not_training(self, seconds: float) -> None:
        """So many seconds went into evaluation, and are no part of the training rate."""
        if self._rate_since is not None:
            self._rate_since = (self._rate_since[0] + seconds, self._rate_since[1])

    def _write(self, record: dict[str, Any]) -> None:
        record = {**record, "seconds": round(time.monotonic() - self._started, 3)}
        runs.append_metrics(self.folder, record)
        self.mirror.log(record)

    def evaluated(self, step: int, found: Evaluation) -> None:
        """Write one point of the validation curve; a loss that is not finite ends the run, without its checkpoint."""
        if not math.isfinite(found.loss):
            self.checkpoints.discard(step)
            self.diverged(step)
            return
        if step == self.config.train.steps:
            # a process killed after this line but before the result is written left the last evaluation behind
            runs.keep_metrics(self.folder, lambda r: not (r["step"] == step and "validation_loss" in r))
        self._write(
            {
                "step": step,
                "tokens": step * self._tokens_per_step,
                "validation_loss": found.loss,
                "validation_loss_se": found.loss_se,
                "validation_bits_per_byte": found.bits_per_byte,
            }
        )
        self.progress.say(f"step {step}: validation {found.summary()}")

    def save(self, step: int, state: TrainState) -> None:
        """Write a checkpoint of the host's copy of the state, in the background."""
        if step not in self.checkpoints.steps():
            runs.sync_metrics(self.folder)
            seconds = time.monotonic() - self._started
            host = {"waiting": self._waiting, "seconds": seconds, "trained": self._trained, "form": native.form()}
            self.checkpoints.save(step, state, {**host, "metrics": runs.read_metrics(self.folder)})

    def diverged(self, step: int) -> None:
        """Write the result of a run whose loss or gradient was not finite; the last good checkpoint stays."""
        good = next((r["step"] for r in reversed(runs.read_metrics(self.folder)) if "loss" in r), 0)
        first = next((good + 1 + i for i, m in enumerate(self._waiting) if not m["alive"]), step)
        self.progress.say(f"diverged: the loss or its gradient was not finite at step {first}")
        self._end({"status": "diverged", "diverged_in_steps": [good + 1, first], "steps": first - 1})

    def finished(self, final: Evaluation) -> None:
        """Write the result of a run that took all its steps."""
        scored = [(r["validation_loss"], r["step"]) for r in runs.read_metrics(self.folder) if "validation_loss" in r]
        best_loss, best_step = min(scored)
        self._end(
            {
                "status": "finished",
                "steps": self.config.train.steps,
                "validation": dataclasses.asdict(final),
                "best": {"step": best_step, "validation_loss": best_loss},
            }
        )

    def _end(self, outcome: dict[str, Any]) -> None:
        self.checkpoints.wait()
        tokens = outcome["steps"] * self._tokens_per_step
        losses = [r["loss"] for r in runs.read_metrics(self.folder) if "loss" in r]
        self.result = {
            "run_id": run_id(self.config),
            **outcome,
            "train_loss": losses[-1] if losses else None,
            "tokens": tokens,
            "unique_tokens": len(self.train_shard.tokens),
            "epochs": tokens / len(self.train_shard.tokens),
            "parameters": self.parameters,
            "flops_per_token": self.flops,
            "training_flops": {
                "kaplan_6nd": self.flops["kaplan_6n"] * tokens,
                "exact": self.flops["training"] * tokens,
            },
            "seconds": round(time.monotonic() - self._started, 3),
            "tokens_per_second": self._trained[1] * self._tokens_per_step / self._trained[0]
            if self._trained[1]
            else None,
            "runs_in_program": self._lanes,
            "corpus_sha256": self.train_shard.header["corpus_sha256"],
            "tokenizer_sha256": self.train_shard.header["tokenizer_sha256"],
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            "environment": noted_environment(),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        disk.write_json(self.folder / "result.json", self.result)
        self.mirror.finish(self.result)


def _mean(records: list[dict[str, float]], name: str) -> float:
    return math.fsum(record[name] for record in records) / len(records)


@pinned()
def restore_params(
    config: Config, folder: Path, program: Program, say: Callable[[str], None], which: str = "last"
) -> tuple[int, Any]:
    """The parameters of the last or best checkpoint of a run: ``(step, params)``.

    Raises:
        UserError: the run has no checkpoint.
    """
    restored = None
    if (folder / "checkpoints").is_dir():
        checkpoints = Checkpoints(folder, writable=False)
        if which == "best":
            runs.read_curve(folder)  # says so where it is missing
        if which == "best" and checkpoints.steps() and checkpoints.best() is None:
            raise UserError(f"{folder}: no checkpoint that is there was evaluated, so none is the best; take the last")
        restored = checkpoints.restore(program.init(), say, checkpoints.best() if which == "best" else None)
    if restored is None:
        result = runs.read_result(folder)
        if result is None:
            raise UserError(f"{folder}: has no checkpoint yet; train it: seqjax train {folder}")
        raise UserError(f"{folder}: has no checkpoint; the run has {result['status']} at step {result['steps']}")
    step, state, _ = restored
    return step, jax.tree.map(jnp.asarray, state.params)
