"""Predicted time of a run on this machine. Text: measured for a few shapes, interpolated over the FLOPs of a step.
Other tasks: measured for every shape."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqjax.config import Config, MeshConfig, RunConfig, program_key, run_id, task_name, to_dict
from seqjax.errors import UserError
from seqjax.host.cores import SHARED, Waiting
from seqjax.host.disk import write_json
from seqjax.host.numerics import pinned
from seqjax.runs.config_file import validate
from seqjax.runs.targets import training_flops_per_token, vocabulary_size
from seqjax.runs.tree import Tree
from seqjax.tasks import task_module
from seqjax.tasks.task import Objective

TIMED_SECONDS = 0.6  # of steps per measurement
BATCHES = 12  # of a task: their time and their shapes
LARGE_STEP = 5e10  # FLOPs of a step from which one worker with several threads is faster than several with one
LARGE_THREADS = 4
NUMBERS = ("lanes", "flops", "compile_seconds", "step_seconds")
ENTRY = {"family", *NUMBERS}  # of one measurement in the file


@dataclass(frozen=True)
class Shape:
    """The properties of a program that determine the time of a step; ``key`` is a text of them."""

    key: str
    config: RunConfig
    flops_per_step: float
    family: str


def shape_of(config: RunConfig) -> Shape:
    """The shape of a run's program. Among tasks other than text each shape is a family of its own, of 1 FLOP."""
    if not isinstance(config, Config):
        alike = {"steps": 1, "evaluate_every": 1, "log_every": 1, "checkpoint_every": None, "seed": 0}
        key = program_key(dataclasses.replace(config, train=dataclasses.replace(config.train, **alike)))
        return Shape(key, config, 1.0, key)
    vocabulary, train = vocabulary_size(config), config.train
    tokens = train.batch_size * train.context_length
    flops = training_flops_per_token(config, vocabulary) * tokens
    parts = (
        dataclasses.asdict(config.model),
        vocabulary,
        config.data.batching,
        config.optimizer.name,
        (train.batch_size, train.context_length, train.accumulation, train.compute_dtype),
    )
    return Shape(json.dumps(parts, sort_keys=True), config, flops, config.model.family)


def threads_for(config: RunConfig, cores: int) -> int:
    """Threads of a worker for this run, if there are enough runs for all cores.

    Measured on two cores at B = 16, T = 128: steps per second of two workers with one thread over one worker with two.
    LSTM 1 x 64 1.8, 1 x 512 1.2; Transformer 2 x 64 1.3, 2 x 256 1.2, 2 x 512 (8e10 FLOPs per step) 0.9.
    """
    if not isinstance(config, Config):
        return 1
    return min(cores, LARGE_THREADS) if shape_of(config).flops_per_step >= LARGE_STEP else 1


@pinned()
def measure(config_tree: dict[str, Any], vocabulary: int | None, lanes: int) -> dict[str, float]:
    """Compile the step of a bundle and time it, in this process: seconds, and the share of waiting for a core.

    A step on text is timed on random tokens. For another task the data is read: its step has a
    batch of middle size and includes making the batch; the evaluation is timed too.

    Args:
        vocabulary: V, for text.
    """
    from seqjax.training.lanes import make_bundle
    from seqjax.training.state import Hyper
    from seqjax.training.timing import step_times

    config = validate(Tree(config_tree))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, mesh=MeshConfig()))  # on one device
    objective, batch, shapes, making, held_out = _of_text(config, vocabulary) if vocabulary else _of_task(config)
    configs = [dataclasses.replace(config, train=dataclasses.replace(config.train, seed=lane)) for lane in range(lanes)]
    began = time.perf_counter()
    program = make_bundle(configs if vocabulary else [config] * lanes, objective, devices=1)
    state = program.init()
    lead = (lanes, program.steps_at_once)
    batches = jax.tree.map(lambda x: np.broadcast_to(x, (*lead, *x.shape)), batch)
    hyper = Hyper(np.full(lead, 1e-4, np.float32), np.zeros(lanes, np.float32))
    resets_K = np.zeros(program.steps_at_once, bool)

    def call(state: Any, count: int) -> Any:
        nonlocal params
        state, metrics = program.steps(state, program.put(batches), hyper, resets_K, count)
        jax.device_get(metrics)
        params = state.params
        return state

    params = state.params
    times = step_times(call, state, program.steps_at_once)
    next(times)
    found = {"compile_seconds": shapes * (time.perf_counter() - began)}
    next(times)
    waiting, since = Waiting(), time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < 4 or time.perf_counter() - since < TIMED_SECONDS:
        seconds.append(next(times))
    found["step_seconds"] = float(np.median(seconds)) + lanes * making
    if (share := waiting.share()) is not None:
        found["waited_share"] = share
    for _ in range(2 if held_out else 0):  # the first time compiles
        since, carry = time.perf_counter(), program.zero_carry()
        for held in held_out:
            scores, carry = program.score(params, held, carry)
            jax.device_get(scores)
        found["evaluation_seconds"] = time.perf_counter() - since
    return found


def _of_text(config: Config, vocabulary: int) -> tuple[Objective, Any, int, float, Sequence[Any]]:
    """What is timed: the objective, a batch, how many shapes batches have, seconds to make one, held-out batches."""
    from seqjax.tasks.text import make_objective

    shape = (config.train.batch_size, config.train.context_length + 1)
    tokens_BxT1 = np.random.default_rng(0).integers(0, vocabulary, shape, np.int32)
    return make_objective(config, vocabulary), tokens_BxT1, 1, 0.0, ()


def _of_task(config: RunConfig) -> tuple[Objective, Any, int, float, Sequence[Any]]:
    """The same of another task."""
    module = task_module(task_name(config))
    task = module.make_task(config, module.load(config))
    began = time.perf_counter()
    batches = [task.batch(step) for step in range(BATCHES)]
    making = (time.perf_counter() - began) / BATCHES
    sizes = [[leaf.shape for leaf in jax.tree.leaves(batch)] for batch in batches]
    middle = sorted(range(BATCHES), key=lambda step: sizes[step])[BATCHES // 2]
    return task.objective, batches[middle], len({str(size) for size in sizes}), making, list(task.held_out(False))


class Speeds:
    """Measured times of steps on one kind of machine, kept in a file between sweeps.

    A time that was measured while other work ran beside is used once: the next sweep measures it again.

    Args:
        file: the file of measurements. An unreadable file is ignored: they are measured again.
        machine: a name for the kind of machine, software and workers.
    """

    def __init__(self, file: Path, machine: str) -> None:
        self._file, self._machine = file, machine
        self._measured: dict[str, dict[str, Any]] = {
            key: entry
            for key, entry in self._read().get(machine, {}).items()
            if isinstance(entry, dict) and entry.keys() >= ENTRY and all(_is_positive(entry[name]) for name in NUMBERS)
            if not _is_shared(entry)
        }
        self._between: set[str] = set()  # keys of the measurements used for interpolation

    def missing(self, programs: Iterable[tuple[RunConfig, int]]) -> list[tuple[RunConfig, int]]:
        """The (config, lanes) to measure for these programs: per family the cheapest and the most expensive step, each
        in its bundle and alone."""
        families: dict[str, dict[str, tuple[Shape, int]]] = {}
        for config, lanes in programs:
            shape = shape_of(config)
            family = families.setdefault(shape.family, {})
            family[shape.key] = (shape, max(lanes, family.get(shape.key, (shape, 1))[1]))
        wanted = []
        for family in families.values():
            ordered = sorted(family.values(), key=lambda entry: (entry[0].flops_per_step, entry[0].key))
            for shape, lanes in {entry[0].key: entry for entry in (ordered[0], ordered[-1])}.values():
                for count in dict.fromkeys((1, lanes)):
                    self._between.add(_key(shape, count))
                    if _key(shape, count) not in self._measured:
                        wanted.append((shape.config, count))
        return wanted

    def add(self, config: RunConfig, lanes: int, found: dict[str, float]) -> None:
        """Store one measurement in memory and in the file."""
        shape = shape_of(config)
        entry: dict[str, Any] = {"family": shape.family, "lanes": lanes, "flops": shape.flops_per_step, **found}
        self._measured[_key(shape, lanes)] = entry
        with contextlib.suppress(OSError):
            whole = self._read()
            whole.setdefault(self._machine, {}).update(self._measured)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, whole)

    def shared(self) -> int:
        """The number of measurements for this sweep that other work ran beside."""
        return sum(key in self._measured and _is_shared(self._measured[key]) for key in self._between)

    def _read(self) -> dict[str, dict[str, dict[str, Any]]]:
        with contextlib.suppress(OSError, ValueError):
            whole = json.loads(self._file.read_text(encoding="utf-8"), parse_constant=lambda _: None)
            if isinstance(whole, dict):
                return {machine: entries for machine, entries in whole.items() if isinstance(entries, dict)}
        return {}

    def step_seconds(self, config: RunConfig, lanes: int) -> float:
        """Seconds of a step of a bundle: t(R) = t(1) + s (R - 1), with the slope s measured for the family."""
        x = math.log(shape_of(config).flops_per_step)
        alone = _along(self._alone(config, "step_seconds"), x)
        if lanes == 1:
            return alone
        slopes = self._slopes(config)
        return alone + (lanes - 1) * (_along(slopes, x) if slopes else alone)

    def seconds(self, config: RunConfig, lanes: int) -> float:
        """Seconds from the start of a bundle to its results: compilation, steps, evaluations, checkpoints; of tasks
        without the test at the end."""
        step, train = self.step_seconds(config, lanes), config.train
        compilation = max((y for _, y in self._alone(config, "compile_seconds")), default=0.0)
        if isinstance(config, Config):
            evaluation = config.evaluation
            curve_points = train.steps // evaluation.every
            windows = curve_points * evaluation.windows + evaluation.final_windows
            evaluations = step / 3 * windows / train.batch_size
        else:
            curve_points = math.ceil(train.steps / train.evaluate_every)
            evaluations = curve_points * lanes * max(entry["evaluation_seconds"] for entry in self._of_family(config))
        checkpoints = (train.steps // (train.checkpoint_every or train.steps) + curve_points + 1) * 0.05 * lanes
        return 1.3 * compilation + train.steps * step + evaluations + checkpoints

    def _alone(self, config: RunConfig, name: str) -> list[tuple[float, float]]:
        """(log FLOPs of a step, seconds) of the measured single runs of a family."""
        entries = [entry for entry in self._of_family(config) if entry["lanes"] == 1]
        if not entries:
            raise LookupError(f"no step of the family {config.model.family} was measured")
        return sorted((math.log(entry["flops"]), entry[name]) for entry in entries)

    def _slopes(self, config: RunConfig) -> list[tuple[float, float]]:
        """(log FLOPs of a step, seconds for each further lane) of the measured bundles of a family."""
        found = []
        for entry in self._of_family(config):
            if entry["lanes"] > 1:
                x = math.log(entry["flops"])
                alone = _along(self._alone(config, "step_seconds"), x)
                found.append((x, max(0.01 * alone, (entry["step_seconds"] - alone) / (entry["lanes"] - 1))))
        return sorted(found)

    def _of_family(self, config: RunConfig) -> list[dict[str, Any]]:
        chosen = [self._measured[key] for key in self._between if key in self._measured]
        family = shape_of(config).family
        return [entry for entry in chosen if entry["family"] == family]


def _along(points: Sequence[tuple[float, float]], x: float) -> float:
    """Piecewise linear log seconds over log FLOPs; beyond the points seconds are proportional to FLOPs."""
    xs, ys = zip(*points, strict=True)
    beyond = min(0.0, x - xs[0]) + max(0.0, x - xs[-1])
    return math.exp(float(np.interp(x, xs, np.log(ys))) + beyond)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _is_shared(entry: dict[str, Any]) -> bool:
    share = entry.get("waited_share")
    return isinstance(share, (int, float)) and share > SHARED


def _key(shape: Shape, lanes: int) -> str:
    return f"{lanes} {shape.key}"


def calibrate(
    speeds: Speeds,
    programs: Sequence[tuple[RunConfig, int]],
    cores: int,
    run_all: Callable[[list[dict[str, Any]], Callable[[int, dict[str, Any]], None]], list[dict[str, Any]]],
    told: Callable[[int, int], None] = lambda measured, total: None,
) -> None:
    """Measure the missing step times in workers like the ones that will train. Each is kept at once.

    Args:
        programs: (config, lanes) to train.
        cores: cores of the machine; 1 if workers have an accelerator.
        run_all: answers requests of :mod:`seqjax.sweeps.worker` in parallel, and tells the place of each answer.
        told: called after each answer with the number of answers, and of all requests.
    Raises:
        UserError: a run whose first step fails, perhaps for lack of memory.
    """
    wanted = speeds.missing(programs)
    requests = [
        {
            "measure": to_dict(config),
            "vocabulary": vocabulary_size(config) if isinstance(config, Config) else None,
            "lanes": lanes,
            "threads": threads_for(config, cores),
        }
        for config, lanes in wanted
    ]
    answered = itertools.count(1)

    def heard(index: int, answer: dict[str, Any]) -> None:
        if answer["outcome"] == "done":
            speeds.add(*wanted[index], {name: answer[name] for name in answer if name.endswith(("_seconds", "_share"))})
        told(next(answered), len(wanted))

    for (config, lanes), answer in zip(wanted, run_all(requests, heard), strict=True):
        if answer["outcome"] != "done" and lanes == 1:
            raise UserError(
                f"{run_id(config)}: a first step was tried and failed ({answer['reason']}); nothing was started"
            )
