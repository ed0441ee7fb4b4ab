"""One run from its config to its result: train, evaluate, checkpoint, resume."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import runs
from seqjax.config import Config, run_id
from seqjax.errors import UserError
from seqjax.models.accounting import count_parameters, flops_per_token
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.evaluation import Evaluation, evaluate
from seqjax.training.hardware import describe_hardware, describe_versions, peak_flops
from seqjax.training.optimizer import learning_rates
from seqjax.training.progress import Progress
from seqjax.training.setup import Program, Text, batch_at, load_text, make_model, make_program
from seqjax.training.state import Hyper, TrainState
from seqjax.training.tracking import Mirror, open_mirror


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C); its state is saved, and the same command goes on from there."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.signal_number = signal_number
        self.step = step


def train(
    config: Config, folder: Path, *, devices: int | None = None, wandb_mode: str | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Train a run to its end, from where it stands, and return the contents of its ``result.json``.

    A finished run is not repeated; an interrupted one goes on from its last whole checkpoint and ends with the same
    parameters and metrics as if nothing had happened.

    Args:
        folder: the run folder; made if it is not there.
        devices: how many devices share each batch; None: all.
        wandb_mode: ``online``, ``offline``, ``disabled`` or None (see :mod:`seqjax.training.tracking`).
    Raises:
        UserError: another config in the folder, another process on it, damaged data, a full disk.
        Interrupted: asked to stop; the state is saved.
    """
    runs.open_run(folder, config)
    with ExitStack() as stack:
        if (result := runs.read_result(folder)) is not None:
            return result
        stack.enter_context(runs.lock(folder))
        if (result := runs.read_result(folder)) is not None:  # another process ended it while we came for the lock
            return result
        stack.enter_context(runs.storage_errors(folder))
        progress = Progress(folder / "log.txt", quiet)
        text = load_text(config, progress.bytes)
        run = _Run(config, folder, text, progress, devices)
        stack.callback(run.checkpoints.close)
        run.mirror = stack.enter_context(open_mirror(config, folder, wandb_mode, progress.say))
        stop = stack.enter_context(_stop_signals())
        return run.to_the_end(stop)


class _NotFinite(Exception):
    """The validation loss is not finite, though the training loss was."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class _Run:
    """The host's side of one run: what to do at which step, and the metrics that wait for their line."""

    def __init__(self, config: Config, folder: Path, text: Text, progress: Progress, devices: int | None) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.train_shard, self.validation_shard = text.shard("train"), text.shard("validation")
        self._check_lengths()
        runs.bind_data(folder, text.corpus.sha256, text.tokenizer.sha256)
        vocab_size, context = text.tokenizer.vocab_size, config.train.context_length
        self.program: Program = make_program(config, make_model(config, vocab_size), devices)
        self.parameters = count_parameters(config.model, vocab_size, context)
        self.flops = flops_per_token(config.model, vocab_size, context)
        self.rates = learning_rates(config.optimizer, config.train.steps)
        self.checkpoints = Checkpoints(folder)
        self.mirror = Mirror()
        self.tokens_per_step = config.train.batch_size * context
        self.waiting: list[dict[str, float]] = []  # metrics of the steps since the last line of metrics.jsonl
        self.started = time.monotonic()  # moved back on resume by the seconds of earlier processes
        # seconds and steps of training, without compilation and evaluation: of earlier processes, and of all
        self._trained_before: tuple[float, int] = (0.0, 0)
        self.trained = self._trained_before
        self._rate_since: tuple[float, int] | None = None

    def _check_lengths(self) -> None:
        need = self.config.train.context_length + 1
        for split, shard in (("train", self.train_shard), ("validation", self.validation_shard)):
            if len(shard.tokens) < need:
                raise UserError(
                    f"train.context_length: {need - 1} needs {need:,} tokens; the {split} split of "
                    f"'{self.config.data.corpus}' has {len(shard.tokens):,}"
                )

    def to_the_end(self, stop: list[int]) -> dict[str, Any]:
        """Train from the last checkpoint on; the result of a finished or diverged run."""
        try:
            return self._train(stop)
        except _NotFinite as found:
            return self._diverged(found.step)

    def _train(self, stop: list[int]) -> dict[str, Any]:
        state, start = self._restore()
        steps = self.config.train.steps
        self._announce(start)
        unread: dict[str, jax.Array] | None = None
        for step in range(start, steps):
            batch, reset = batch_at(self.config, self.train_shard, step)
            if reset:
                state = state.replace(carry=self.program.zero_carry())
            state, metrics = self.program.step(state, self.program.put(batch), self._hyper(step))
            if unread is not None:
                self._read(step, unread)  # the metrics of the step before, while this one runs
            unread = metrics
            asked = stop[0] if stop else None
            if asked or self._is_due(step + 1):
                self._read(step + 1, unread)
                unread = None
            if not self._alive():
                return self._diverged(step + 1)
            if self._is_due(step + 1):
                self._pause(step + 1, state)
            if asked and step + 1 < steps:
                self._save(step + 1, state)
                raise Interrupted(asked, step + 1)
        return self._finished(state)

    def _restore(self) -> tuple[TrainState, int]:
        state = self.program.init()
        restored = self.checkpoints.restore(state, self.progress.say)
        if restored is None:
            runs.keep_metrics(self.folder, lambda _: False)
            return state, 0
        step, state, host = restored
        self.waiting = host["waiting"]
        self.started -= host["seconds"]
        self.trained = self._trained_before = tuple(host.get("trained", (0.0, 0)))
        runs.keep_metrics(self.folder, lambda record: record["step"] <= step)
        self.progress.say(f"resuming at step {step}")
        return state, step

    def _announce(self, start: int) -> None:
        if start == 0:
            n, steps = self.parameters, self.config.train.steps
            self.progress.say(
                f"{run_id(self.config)}: {n['total']:,} parameters ({n['non_embedding']:,} non-embedding), "
                f"{steps:,} steps of {self.tokens_per_step:,} tokens, {len(self.train_shard.tokens):,} training tokens"
            )

    def _hyper(self, step: int) -> Hyper:
        return Hyper(self.rates[step], np.float32(self.config.optimizer.weight_decay))

    def _is_due(self, step: int) -> bool:
        """Whether the device is waited for after this many steps: for an evaluation, a checkpoint or the end."""
        train = self.config.train
        return step % train.checkpoint_every == 0 or step == train.steps or self._evaluates(step)

    def _evaluates(self, step: int) -> bool:
        return step % self.config.evaluation.every == 0 and step < self.config.train.steps

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of one step off the device; every ``log_every`` steps write their mean."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.waiting.append(values)
        self._show(step, values["loss"])
        train = self.config.train
        if (step % train.log_every == 0 or step == train.steps) and values["alive"]:
            self._write(
                {
                    "step": step,
                    "tokens": step * self.tokens_per_step,
                    "loss": _mean(self.waiting, "loss"),
                    "grad_norm": _mean(self.waiting, "grad_norm"),
                    "learning_rate": values["learning_rate"],
                }
            )
            self.waiting = []

    def _alive(self) -> bool:
        return not self.waiting or bool(self.waiting[-1]["alive"])

    def _show(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if self._rate_since is None:
            self._rate_since = (now, step)  # the first step, which compiles, is not part of the rate
            return
        since, first = self._rate_since
        seconds, steps = self._trained_before
        self.trained = (seconds + now - since, steps + step - first)
        rate = (step - first) * self.tokens_per_step / max(now - since, 1e-9)
        left = (self.config.train.steps - step) * self.tokens_per_step / rate
        self.progress.step(
            step,
            self.config.train.steps,
            loss,
            rate,
            rate * self.flops["training"],
            peak_flops(self.program.devices),
            left,
        )

    def _write(self, record: dict[str, Any]) -> None:
        record = {**record, "seconds": round(time.monotonic() - self.started, 3)}
        runs.append_metrics(self.folder, record)
        self.mirror.log(record)

    def _pause(self, step: int, state: TrainState) -> None:
        """Evaluate and save, as far as they are due at this step."""
        if self._evaluates(step):
            self._evaluate(step, state)
        if step < self.config.train.steps:
            self._save(step, state)

    def _evaluate(self, step: int, state: TrainState) -> Evaluation:
        """One point of the validation curve, on the same windows at every step."""
        found = self._held_out(state, self.config.evaluation.windows)
        if not math.isfinite(found.loss):
            raise _NotFinite(step)
        self._write(
            {
                "step": step,
                "tokens": step * self.tokens_per_step,
                "validation_loss": found.loss,
                "validation_loss_se": found.loss_se,
                "validation_bits_per_byte": found.bits_per_byte,
            }
        )
        self.progress.say(f"step {step}: validation {found.summary()}")
        return found

    def _held_out(self, state: TrainState, windows: int) -> Evaluation:
        began = time.monotonic()
        carry = self.program.zero_carry()
        token_losses = self.program.token_losses
        found = evaluate(self.config, self.validation_shard, "validation", token_losses, state.params, carry, windows)
        if self._rate_since is not None:  # evaluation is not part of the training rate
            self._rate_since = (self._rate_since[0] + time.monotonic() - began, self._rate_since[1])
        return found

    def _save(self, step: int, state: TrainState) -> None:
        if step not in self.checkpoints.steps():
            runs.sync_metrics(self.folder)
            seconds = time.monotonic() - self.started
            self.checkpoints.save(step, state, {"waiting": self.waiting, "seconds": seconds, "trained": self.trained})

    def _diverged(self, step: int) -> dict[str, Any]:
        """Write the result of a run whose loss or gradient was not finite; the last good checkpoint stays."""
        good = next((r["step"] for r in reversed(runs.read_metrics(self.folder)) if "loss" in r), 0)
        first = next((good + 1 + i for i, m in enumerate(self.waiting) if not m["alive"]), step)
        self.progress.say(f"diverged: the loss or its gradient was not finite at step {first}")
        self.checkpoints.wait()
        return self._write_result(
            {
                "status": "diverged",
                "diverged_in_steps": [good + 1, first],
                "steps": first - 1,
            }
        )

    def _finished(self, state: TrainState) -> dict[str, Any]:
        steps = self.config.train.steps
        # a process killed after this line but before the result is written leaves the last evaluation behind
        runs.keep_metrics(self.folder, lambda record: not (record["step"] == steps and "validation_loss" in record))
        found = self._evaluate(steps, state)
        self._save(steps, state)
        evaluation = self.config.evaluation
        if found.protocol == "windows" and evaluation.final_windows != evaluation.windows:
            found = self._held_out(state, evaluation.final_windows)
            self.progress.say(f"held out: {found.summary()}")
        self.checkpoints.wait()
        scored = [(r["validation_loss"], r["step"]) for r in runs.read_metrics(self.folder) if "validation_loss" in r]
        best_loss, best_step = min(scored)
        return self._write_result(
            {
                "status": "finished",
                "steps": steps,
                "validation": dataclasses.asdict(found),
                "best": {"step": best_step, "validation_loss": best_loss},
            }
        )

    def _write_result(self, outcome: dict[str, Any]) -> dict[str, Any]:
        tokens = outcome["steps"] * self.tokens_per_step
        losses = [r["loss"] for r in runs.read_metrics(self.folder) if "loss" in r]
        result = {
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
            "seconds": round(time.monotonic() - self.started, 3),
            "tokens_per_second": self.trained[1] * self.tokens_per_step / self.trained[0] if self.trained[1] else None,
            "corpus_sha256": self.train_shard.header["corpus_sha256"],
            "tokenizer_sha256": self.train_shard.header["tokenizer_sha256"],
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        runs.write_json(self.folder / "result.json", result)
        self.mirror.finish(result)
        return result


def _mean(records: list[dict[str, float]], name: str) -> float:
    return math.fsum(record[name] for record in records) / len(records)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that SIGTERM and Ctrl-C fill; another Ctrl-C stops at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _frame: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def restore_params(config: Config, folder: Path, program: Program, say: Any, which: str = "last") -> tuple[int, Any]:
    """The parameters of the last or best checkpoint of a run: ``(step, params)``.

    Raises:
        UserError: the run has no checkpoint.
    """
    restored = None
    if (folder / "checkpoints").is_dir():
        checkpoints = Checkpoints(folder, writable=False)
        restored = checkpoints.restore(program.init(), say, checkpoints.best() if which == "best" else None)
    if restored is None:
        result = runs.read_result(folder)
        if result is None:
            raise UserError(f"{folder}: has no checkpoint yet; train it: seqjax train {folder}")
        raise UserError(f"{folder}: has no checkpoint; the run has {result['status']} at step {result['steps']}")
    step, state, _ = restored
    return step, jax.tree.map(jnp.asarray, state.params)
