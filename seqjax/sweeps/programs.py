"""Which runs train in one program, on how many threads, and how long that will take.

Runs that differ in nothing but `LANE_KEYS` can share a program. They do where that is predicted to be faster, as many
as fit into memory, but never so many together that a worker would stand idle.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np

from seqjax import runs
from seqjax.config import Config, RunConfig, program_key
from seqjax.host import disk
from seqjax.models import build_model
from seqjax.runs.targets import vocabulary_size
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Planned
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.speed import Speeds, threads_for
from seqjax.tasks.text import next_token_loss
from seqjax.training.lanes import CPU_SIDE_BY_SIDE

MOST_LANES = {"cpu": 16, "gpu": 128}  # more gain nothing, and put more at stake when a worker dies

TASK_MEMORY = 2e9  # bytes of a run of a task other than text, whose batches are known only once its data is read


@dataclass(frozen=True)
class Unit:
    """Runs that one worker trains in one program.

    Attributes:
        runs: the lanes, in order.
        threads: processor cores of the worker (on an accelerator: 1).
        seconds: predicted, from start to results; None when nothing was measured.
        memory: bytes, estimated from above.
    """

    runs: tuple[Planned, ...]
    threads: int
    seconds: float | None
    memory: float

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The run folders' names."""
        return tuple(run.run_id for run in self.runs)

    @property
    def label(self) -> str:
        """A readable name."""
        first = self.runs[0]
        return first.label if len(self.runs) == 1 else f"{first.run_id.rpartition('-')[0]} x {len(self.runs)}"


def form_units(planned: Iterable[Planned], machine: Machine, speeds: Speeds | None, bundle: bool) -> list[Unit]:
    """Bundle runs, largest unit first.

    Args:
        speeds: measured times; without them runs are bundled wherever they can be.
        bundle: False: every run alone.
    """
    groups: dict[str, list[Planned]] = {}
    for run in planned:
        groups.setdefault(program_key(run.config) if bundle else run.run_id, []).append(run)
    lots: list[tuple[Planned, ...]] = []
    for group in groups.values():
        lanes = best_lanes(group[0].config, len(group), machine, speeds)
        lots += _cut(group, math.ceil(len(group) / lanes), lanes)
    lots = _enough(lots, machine.slots, speeds)
    spare = 1 if machine.gpus else max(1, len(machine.cores) // max(1, len(lots)))
    units = []
    for lot in lots:
        wanted = 1 if machine.gpus else max(spare, threads_for(lot[0].config, len(machine.cores)))
        units.append(make_unit(lot, machine.threads or wanted, machine, speeds))
    return sorted(units, key=lambda unit: -(unit.seconds or 0.0))


def make_unit(lot: Sequence[Planned], threads: int, machine: Machine, speeds: Speeds | None) -> Unit:
    """A unit of these runs, with its predicted time and memory."""
    config = lot[0].config
    seconds = speeds.seconds(config, len(lot)) if speeds else None
    return Unit(tuple(lot), threads, seconds, memory_of(config, len(lot), bool(machine.gpus)))


def best_lanes(config: RunConfig, count: int, machine: Machine, speeds: Speeds | None) -> int:
    """How many of ``count`` runs go together: as many as memory allows, if that takes fewer seconds for each."""
    most = min(count, MOST_LANES["gpu" if machine.gpus else "cpu"])
    share = machine.memory / (1 if machine.gpus else machine.slots)
    while most > 1 and memory_of(config, most, bool(machine.gpus)) > share:
        most -= 1
    if not isinstance(config, Config) and not machine.gpus:
        return 1  # nobody has measured that a bundle of it pays on a CPU
    if most == 1 or speeds is None:
        return most
    return most if speeds.seconds(config, most) / most < speeds.seconds(config, 1) else 1


def _cut(group: Sequence[Planned], pieces: int, most: int) -> list[tuple[Planned, ...]]:
    """Equal pieces, in order; of full groups of lanes that are computed side by side, where that is even enough and
    they have at most so many."""
    size = math.ceil(len(group) / pieces)
    full = math.ceil(size / CPU_SIDE_BY_SIDE) * CPU_SIDE_BY_SIDE
    if CPU_SIDE_BY_SIDE < size and full <= min(most, 1.25 * size) and full * (pieces - 1) < len(group):
        size = full
    return [tuple(group[i : i + size]) for i in range(0, len(group), size)]


def _enough(lots: list[tuple[Planned, ...]], slots: int, speeds: Speeds | None) -> list[tuple[Planned, ...]]:
    """Halve the longest bundle while there are fewer lots than workers."""
    lots = list(lots)
    while len(lots) < slots and any(len(lot) > 1 for lot in lots):
        longest = max(
            (lot for lot in lots if len(lot) > 1),
            key=lambda lot: speeds.seconds(lot[0].config, len(lot)) if speeds else len(lot),
        )
        lots.remove(longest)
        lots += _cut(longest, 2, len(longest))
    return lots


def memory_of(config: RunConfig, lanes: int, accelerator: bool) -> float:
    """Bytes that training needs, from above: states of all lanes, activations of those that are side by side.

    Of a task other than text it is `TASK_MEMORY` for each run.

    Measured against XLA's own figures in tests/sweeps/test_units.py: a step needs up to 2.1 times what the backward
    pass keeps, an evaluation up to half of that for each of its windows, or the logits twice. On a CPU, lanes that do
    not fill a group have a part of the program to themselves, and groups in turn write their states beside the old.
    """
    if not isinstance(config, Config):
        return TASK_MEMORY * lanes
    micro_batch = config.train.batch_size // config.train.accumulation
    vocabulary, context = vocabulary_size(config), config.train.context_length
    family = config.model.on_accelerator() if accelerator else config.model
    state, kept = _bytes(dataclasses.replace(family, dropout=0.0), vocabulary, micro_batch, context)
    logits = config.evaluation.batch_size * context * vocabulary * 4
    evaluated = max(2 * logits, 0.5 * kept * config.evaluation.batch_size / micro_batch)
    in_turn = not accelerator and lanes > CPU_SIDE_BY_SIDE
    together = min(lanes, 2 * CPU_SIDE_BY_SIDE - 1) if in_turn else lanes
    return 2e8 + lanes * (7 if in_turn else 4) * state + together * max(2.2 * kept, evaluated)


@cache
def _bytes(model_config: object, vocabulary: int, batch: int, context: int) -> tuple[float, float]:
    """Bytes of the parameters of one run, and of what its forward pass keeps for the backward pass."""
    model = build_model(model_config, vocabulary, context)
    loss = next_token_loss(model)
    tokens = jax.ShapeDtypeStruct((batch, context + 1), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((1, 1), np.int32))["params"]
    kept = jax.eval_shape(lambda p, t, k: jax.vjp(lambda q: loss(q, t, None, k)[0], p)[1], params, tokens, key)
    return _sum_bytes(params), _sum_bytes(kept)


def _sum_bytes(tree: object) -> float:
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def assign(
    planned: Sequence[Planned], folder: Path, machine: Machine, speeds: Speeds | None, bundle: bool, alone: bool
) -> list[Unit]:
    """The units of all runs that have not ended, as their folders keep them: what has begun together stays together.

    A run's numbers depend, in the last digits, on the program that computes them. So a bundle that was interrupted goes
    on with the same lanes on as many threads, those that have ended included, and ends as if nothing had happened.

    Args:
        alone: no other launcher takes part, so that what has not begun may be planned anew.
    """
    by_id = {run.run_id: run for run in planned}

    def lane_run(run_id: str) -> Planned:  # a lane may have left the sweep file since
        if run_id not in by_id:
            by_id[run_id] = Planned(
                runs.read_config(folder / run_id), folders.read_plan(folder / run_id).get("axes", {})
            )
        return by_id[run_id]

    kept: dict[tuple[str, ...], int] = {}
    free = []
    for run in planned:
        if runs.read_result(folder / run.run_id) is not None:
            continue
        plan = folders.read_plan(folder / run.run_id)
        lanes = tuple(plan.get("lanes", ()))
        begun = any(folders.has_begun(folder / lane) for lane in lanes)
        if lanes and (begun or not alone):
            kept[lanes] = plan["threads"]
        else:
            free.append(run)
    units = [
        make_unit([lane_run(lane) for lane in lanes], min(threads, len(machine.cores)), machine, speeds)
        for lanes, threads in kept.items()
    ]
    units += form_units(free, machine, speeds, bundle)
    for unit in units:
        keep_plan(unit, folder)
    return sorted(units, key=lambda unit: -(unit.seconds or 0.0))


def keep_plan(unit: Unit, folder: Path, halved_from: int | None = None) -> None:
    """Write plan.json of the unit's runs, where it is not there already.

    Args:
        halved_from: how many runs the unit had before it was halved, which stays in the plan.
    """
    for run in unit.runs:
        plan = {"label": run.label, "axes": run.axes, "lanes": list(unit.run_ids), "threads": unit.threads}
        then = folders.read_plan(folder / run.run_id)
        if (before := then.get("halved_from") or halved_from) and (halved_from or then["lanes"] == plan["lanes"]):
            plan["halved_from"] = before
        if then != plan:
            disk.write_json(folder / run.run_id / "plan.json", plan)


def makespan(units: Sequence[Unit], machine: Machine) -> float:
    """Predicted seconds until all units are done, when each idle worker takes the longest that is left."""
    threads = 1 if machine.gpus else max((unit.threads for unit in units), default=1)
    width = max(1, (len(machine.gpus) or len(machine.cores)) // threads)
    busy = [0.0] * width
    for unit in sorted(units, key=lambda unit: -(unit.seconds or 0.0)):
        heapq.heappush(busy, heapq.heappop(busy) + (unit.seconds or 0.0))
    return max(busy)
