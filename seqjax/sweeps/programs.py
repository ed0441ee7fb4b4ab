"""Units of runs that train in one program, with their threads and predicted time.

Runs that differ only in `LANE_KEYS` can share a program. They do if that is predicted to be faster. A unit is limited
by memory, and so that no worker is idle.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np

from seqjax import runs
from seqjax.config import Config, RunConfig, program_key
from seqjax.host import disk
from seqjax.layers.target import Target, compiled_for
from seqjax.models import build_model
from seqjax.runs.targets import vocabulary_size
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Planned
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.speed import Speeds, threads_for
from seqjax.tasks.text import next_token_loss
from seqjax.training.lanes import CPU_SIDE_BY_SIDE

MOST_LANES = {"cpu": 16, "gpu": 128}  # more gain nothing, and a worker's death would cost more

GPU = Target("cuda", (9, 0))  # its kernels decide which arrays are kept; the planner does not know the accelerator

TASK_MEMORY = 2e9  # bytes of a run of a task other than text; its batches are unknown before its data is read


@dataclass(frozen=True)
class Unit:
    """Runs that one worker trains in one program.

    Attributes:
        runs: the lanes, in order.
        threads: processor cores of the worker (on an accelerator: 1).
        seconds: predicted, from start to results; None without measurements.
        memory: an upper estimate, bytes.
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
    def branches(self) -> bool:
        """Whether a trunk takes their first steps."""
        return all(run.shared for run in self.runs)

    @property
    def label(self) -> str:
        """A readable name."""
        first = self.runs[0]
        return first.label if len(self.runs) == 1 else f"{first.run_id.rpartition('-')[0]} x {len(self.runs)}"


def form_units(planned: Iterable[Planned], machine: Machine, speeds: Speeds | None, bundle: bool) -> list[Unit]:
    """Bundle runs, largest unit first.

    Args:
        speeds: measured times; None: all runs that can share a program are bundled.
        bundle: False: every run has its own program.
    """
    groups: dict[str, list[Planned]] = {}
    for run in planned:
        groups.setdefault(program_key(run.config) if bundle else run.run_id, []).append(run)
    lots: list[tuple[Planned, ...]] = []
    for group in groups.values():
        lanes = best_lanes(group[0].config, len(group), machine, speeds)
        lots += _cut(group, math.ceil(len(group) / lanes), lanes)
    lots = _enough(lots, machine.devices, speeds)
    spare = 1 if machine.gpus else max(1, len(machine.cores) // max(1, len(lots)))
    units = []
    for lot in lots:
        wanted = 1 if machine.gpus else max(spare, threads_for(lot[0].config, len(machine.cores)))
        units.append(make_unit(lot, machine.threads or wanted, machine, speeds))
    return sorted(units, key=lambda unit: -(unit.seconds or 0.0))


def make_unit(lot: Sequence[Planned], threads: int, machine: Machine, speeds: Speeds | None) -> Unit:
    """A unit of these runs, with its predicted time and memory."""
    config = lot[0].config
    own = config.train.steps - min(run.shared for run in lot)
    of_own = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=own))
    seconds = speeds.seconds(of_own, len(lot)) if speeds else None
    return Unit(tuple(lot), threads, seconds, memory_of(config, len(lot), bool(machine.gpus)))


def best_lanes(config: RunConfig, count: int, machine: Machine, speeds: Speeds | None) -> int:
    """Number of lanes for ``count`` runs: the most that fit into memory if that is faster per run, else 1."""
    most = min(count, MOST_LANES["gpu" if machine.gpus else "cpu"])
    share = machine.memory / (1 if machine.gpus else machine.slots)
    while most > 1 and memory_of(config, most, bool(machine.gpus)) > share:
        most -= 1
    if not isinstance(config, Config) and not machine.gpus:
        return 1  # not measured whether a bundle is faster on a CPU
    if most == 1 or speeds is None:
        return most
    return most if speeds.seconds(config, most) / most < speeds.seconds(config, 1) else 1


def _cut(group: Sequence[Planned], pieces: int, most: int) -> list[tuple[Planned, ...]]:
    """Equal pieces, in order. If possible their size is a multiple of `CPU_SIDE_BY_SIDE`, at most ``most`` and at most
    1.25 times the equal size."""
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
    """Upper estimate of the bytes for training: states of all lanes, activations of the lanes computed at once.

    For a task other than text: `memory` of its config's class, else `TASK_MEMORY`, per run.

    Compared with XLA's own figures in tests/sweeps/test_programs.py. A step needs up to 2.5 times the residuals of the
    backward pass; an evaluation up to half of the residuals per window, or twice the logits. On a CPU, lanes that do
    not fill a group have their own part of the program, and groups write new states beside the old ones.
    """
    if not isinstance(config, Config):
        return getattr(config, "memory", TASK_MEMORY) * lanes
    micro_batch = config.train.batch_size // config.train.accumulation
    vocabulary, context = vocabulary_size(config), config.train.context_length
    family, target = dataclasses.replace(config.model, dropout=0.0), GPU if accelerator else Target("cpu")
    state, kept = _bytes(target, family, config.train.compute_dtype, vocabulary, micro_batch, context)
    logits = config.evaluation.batch_size * context * vocabulary * 4
    evaluated = max(2 * logits, 0.5 * kept * config.evaluation.batch_size / micro_batch)
    in_turn = not accelerator and lanes > CPU_SIDE_BY_SIDE
    together = min(lanes, 2 * CPU_SIDE_BY_SIDE - 1) if in_turn else lanes
    return 2e8 + lanes * (7 if in_turn else 4) * state + together * max(2.6 * kept, evaluated)


@cache
def _bytes(
    target: Target, family: object, dtype: str, vocabulary: int, batch: int, context: int
) -> tuple[float, float]:
    """Bytes of the parameters of one run, and of the residuals of its backward pass on this kind of device."""
    model = build_model(family, vocabulary, context, dtype)
    loss = next_token_loss(model)
    tokens = jax.ShapeDtypeStruct((batch, context + 1), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((1, 1), np.int32))["params"]
    with compiled_for(target):
        kept = jax.eval_shape(lambda p, t, k: jax.vjp(lambda q: loss(q, t, None, k)[0], p)[1], params, tokens, key)
    return _sum_bytes(params), _sum_bytes(kept)


def _sum_bytes(tree: object) -> float:
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def assign(
    planned: Sequence[Planned],
    folder: Path,
    machine: Machine,
    speeds: Speeds | None,
    bundle: bool,
    alone: bool,
    taken: Collection[str] = (),
    queued: Collection[str] = (),
) -> list[Unit]:
    """The units of all runs that have not ended. Runs that began in one unit stay in it, by their plan.json.

    The last digits of a run's numbers depend on its program. So an interrupted bundle resumes with the same lanes,
    ended ones included, on the same number of threads, and ends with the same numbers.
    A branch is held back until its trunk has ended or was given up (then it is not among ``planned``).

    Args:
        alone: no other launcher takes part, so that runs that have not begun may be planned again.
        taken: ids of runs that this launcher trains already. While there are any, only units join them that were
            planned before, and branches whose trunks have ended.
        queued: ids of runs whose job waits or runs. They stay in its unit too: else others would train them once more.
    """
    by_id = {run.run_id: run for run in planned}

    def lane_run(run_id: str) -> Planned:  # a lane may have been removed from the sweep file
        if run_id not in by_id:
            config, plan = runs.read_config(folder / run_id), folders.read_plan(folder / run_id)
            pins = tuple(plan.get("pins", ()))
            by_id[run_id] = Planned(config, plan.get("axes", {}), trunk=plan.get("trunk"), pins=pins)
        return by_id[run_id]

    def waits_for_trunk(run: Planned) -> bool:
        others = by_id.keys() - {run.run_id}
        return run.trunk in others and runs.read_result(folder / run.trunk) is None

    kept: dict[tuple[str, ...], int] = {}
    free = []
    for run in planned:
        if run.run_id in taken or runs.read_result(folder / run.run_id) is not None:
            continue
        plan = folders.read_plan(folder / run.run_id)
        lanes = tuple(plan.get("lanes", ()))
        begun = any(runs.has_begun(folder / lane) or lane in queued for lane in lanes)
        if lanes and (begun or not alone):
            kept[lanes] = plan["threads"]
        elif not waits_for_trunk(run):
            free.append(run)
    units = [
        make_unit([lane_run(lane) for lane in lanes], min(threads, len(machine.cores)), machine, speeds)
        for lanes, threads in kept.items()
    ]
    for lot, threads in _beside_trunks(free, folder, bundle):
        units.append(make_unit(lot, min(threads, len(machine.cores)), machine, speeds))
        free = [run for run in free if run not in lot]
    if not taken:  # so that the lanes and threads of a run do not depend on which others happen to be at work
        units += form_units(free, machine, speeds, bundle)
    for unit in units:
        keep_plan(unit, folder)
    return sorted(units, key=lambda unit: -(unit.seconds or 0.0))


def _beside_trunks(free: Sequence[Planned], folder: Path, bundle: bool) -> list[tuple[list[Planned], int]]:
    """Branches as the lanes that their trunks were, with the trunks' threads: the steps of another program differ in
    their last digits, and could not be taken over."""
    groups: dict[tuple[tuple[str, ...], int, str], dict[str, Planned]] = {}
    for run in free:
        if run.trunk not in (None, run.run_id) and (plan := folders.read_plan(folder / run.trunk)):
            key = tuple(plan["lanes"]), plan["threads"], program_key(run.config)
            groups.setdefault(key, {})[run.trunk] = run
    whole = {key: found for key, found in groups.items() if set(key[0]) == found.keys()}
    return [
        ([found[trunk] for trunk in lanes], threads)
        for (lanes, threads, _), found in whole.items()
        if bundle or len(lanes) == 1
    ]


def keep_plan(unit: Unit, folder: Path, halved_from: int | None = None) -> None:
    """Write plan.json of the unit's runs if it has changed.

    Args:
        halved_from: number of runs of the unit before it was halved; it stays in the plan.
    """
    for run in unit.runs:
        plan = {"label": run.label, "axes": run.axes, "lanes": list(unit.run_ids), "threads": unit.threads}
        plan |= {"trunk": run.trunk} if run.trunk else {}
        plan |= {"pins": list(run.pins)} if run.pins else {}
        then = folders.read_plan(folder / run.run_id)
        if (before := then.get("halved_from") or halved_from) and (halved_from or then["lanes"] == plan["lanes"]):
            plan["halved_from"] = before
        if then != plan:
            disk.write_json(folder / run.run_id / "plan.json", plan)


def makespan(units: Sequence[Unit], machine: Machine) -> float:
    """Predicted seconds until all units are done, if each idle worker takes the longest remaining unit."""
    threads = 1 if machine.gpus else max((unit.threads for unit in units), default=1)
    width = max(1, (len(machine.gpus) or len(machine.cores)) // threads)
    busy = [0.0] * width
    for unit in sorted(units, key=lambda unit: -(unit.seconds or 0.0)):
        heapq.heappush(busy, heapq.heappop(busy) + (unit.seconds or 0.0))
    return max(busy)
