"""A grid of sizes and tokens that fits a time budget on this machine.

The sizes differ by a factor, up to the largest N that fits. Each size is trained on several numbers of tokens D. The
largest D is ``ratio`` tokens per parameter of the largest model. N and D vary independently, as a fit of L(N, D) needs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqjax.config.plain import dump_yaml
from seqjax.errors import UserError
from seqjax.host.own_code import is_own
from seqjax.host.wording import duration, si
from seqjax.runs.targets import NoSuchWidth
from seqjax.runs.tree import OWN, RIVALS, options_tree, overlay, read_file
from seqjax.sweeps.axes import AXES, BASE, taken, unique
from seqjax.sweeps.grid import Planned, Sweep, read_sweep
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.printed import predicted_seconds
from seqjax.sweeps.programs import form_units
from seqjax.sweeps.speed import Speeds

FILL = 0.9  # share of the budget to use; predictions are not exact
LEAST, MOST = 200.0, 1e10  # non-embedding parameters of the largest model
REPLACED = ("size.", "model.d_model", *RIVALS[0])
ANY_LENGTH = 10**9  # steps of runs that are planned only for their shape: no warmup is longer


@dataclass(frozen=True)
class GridShape:
    """The numbers of sizes and of lengths of a proposal, their factors, and tokens per parameter of the largest run."""

    sizes: int = 3
    lengths: int = 2
    size_factor: float = 4.0
    length_factor: float = 4.0
    ratio: float = 20.0


@dataclass(frozen=True)
class Proposal:
    """Sizes (non-embedding parameters) and tokens, rising; their runs, and predicted seconds."""

    sizes: tuple[float, ...]
    tokens: tuple[float, ...]
    planned: tuple[Planned, ...]
    seconds: float


def propose(sweep: Sweep, seconds: float, shape: GridShape, machine: Machine, speeds: Speeds, bundle: bool) -> Proposal:
    """The proposal with the largest models that fits.

    Raises:
        UserError: the smallest grid does not fit, or no grid was found.
    """
    models = _kept(sweep.points)
    reason = ""

    def at(largest: float) -> Proposal | None:
        nonlocal reason
        try:
            return _proposal(sweep, models, largest, shape, machine, speeds, bundle)
        except UserError as error:  # no such sizes, or too few steps for a warmup or for two different lengths
            reason = str(error)
            return None

    low = LEAST * shape.size_factor ** (shape.sizes - 1)
    best = None
    for largest in _spread(low, MOST, 2.0):
        found = at(largest)
        if found is not None and found.seconds > FILL * seconds:
            if best is None:
                smallest = ", ".join(si(size).strip() for size in found.sizes)
                raise UserError(
                    f"--budget {duration(seconds)}: the smallest grid, {len(found.planned)} runs of sizes {smallest}, "
                    f"is predicted to take {duration(found.seconds)}; allow more, or ask for fewer --sizes, --lengths, "
                    "rates or models" + (f"; none is smaller: {reason}" if reason else "")
                )
            low = best.sizes[-1]
            break
        best = found or best
    if best is None:
        raise UserError(
            f"--budget {duration(seconds)}: found no grid of sizes and tokens; the last one tried: {reason}"
        )
    for largest in _spread(low, 2 * low, 1.08):
        found = at(largest)
        if found is not None and best.seconds < found.seconds <= FILL * seconds:
            best = found
    return best


def probes(sweep: Sweep, seconds: float, shape: GridShape) -> list[Planned]:
    """Runs whose step times to measure for such a budget: each model at a small and at a large size."""
    guess = (seconds * 1e10 / (6 * shape.ratio * max(1, len(sweep.points)))) ** 0.5  # at 10 GFLOP/s
    found = []
    for model in _kept(sweep.points):
        for size in (max(LEAST, guess / 64), max(4 * LEAST, guess)):
            for near in _spread(size, 2 * size, 1.02):
                if (run := _try(sweep, {**model, "size.non_embedding": near, "train.steps": ANY_LENGTH})) is not None:
                    found.append(run)
                    break
    return found


def _kept(points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points without the keys that a proposal sets, without duplicates."""
    return unique({k: v for k, v in point.items() if not k.startswith(REPLACED)} for point in points)


def _proposal(
    sweep: Sweep,
    models: Sequence[Mapping[str, Any]],
    largest: float,
    shape: GridShape,
    machine: Machine,
    speeds: Speeds,
    bundle: bool,
) -> Proposal:
    """The proposal whose largest models have about ``largest`` parameters."""
    sizes = []
    for step in reversed(range(shape.sizes)):
        size = _common_size(sweep, models, largest / shape.size_factor**step)
        if size is None:
            near = largest / shape.size_factor**step
            raise UserError(
                f"{sweep.tree.source}: found no size near {si(near).strip()} that all models can have within 10 %"
            )
        sizes.append(size)
    longest = sizes[-1] * shape.ratio
    tokens = [_two_digits(longest / shape.length_factor**step) for step in reversed(range(shape.lengths))]
    points = [
        {**model, "size.non_embedding": size, "horizon.tokens": length}
        for model, size, length in itertools.product(models, sizes, tokens)
    ]
    planned = replace(sweep, points=tuple(points), horizons=(), left_out=()).runs()
    units = form_units(planned, machine, speeds, bundle)
    return Proposal(tuple(sizes), tuple(tokens), tuple(planned), predicted_seconds(units, machine))


def _common_size(sweep: Sweep, models: Sequence[Mapping[str, Any]], near: float) -> float | None:
    """A size close to ``near`` that every model can have within the tolerance."""
    for factor in (1.0, 1.05, 0.95, 1.1, 0.9, 1.15, 0.85, 1.2, 0.8, 1.25):
        size = _two_digits(near * factor)
        if all(_try(sweep, {**model, "size.non_embedding": size, "train.steps": ANY_LENGTH}) for model in models):
            return size
    return None


def _try(sweep: Sweep, point: Mapping[str, Any]) -> Planned | None:
    try:
        return sweep.plan(point)
    except NoSuchWidth:
        return None


def _spread(first: float, last: float, factor: float) -> list[float]:
    values = [first]
    while values[-1] * factor <= last:
        values.append(values[-1] * factor)
    return values


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def as_yaml(
    path: Path, options: Mapping[str, Any], proposal: Proposal, heading: Sequence[str], output: Path | None
) -> str:
    """The sweep file as YAML, with the options, and with the proposal's sizes and tokens instead of its own.

    Its other points are a list, whatever axes they came from.

    Args:
        output: path of the new file; the name of its base is made relative to it.
    """
    points, options = read_sweep(path, options).points, dict(options)
    _, _, searched = (taken(options, section) for section in ("only", "grid", "search"))
    file, kept = read_file(path), {key: value for key, value in options.items() if not key.startswith(REPLACED)}
    for name in AXES:
        file.values.pop(name, None)
    values = overlay(file, options_tree(kept)).values
    for key in (*RIVALS[0], "horizon.trunk", "horizon.branches"):
        section, _, name = key.partition(".")
        values.get(section, {}).pop(name, None)

    def as_written(key: str, value: Any) -> Any:
        if key == BASE and output is not None:
            return os.path.relpath(path.parent / value, output.parent)
        return OWN[key].reference(value) if key in OWN and is_own(value) else value

    if BASE in values:
        values[BASE] = as_written(BASE, values[BASE])
    for key in OWN:
        section, _, field = key.partition(".")
        if field in values.get(section, {}):
            values[section] = {**values[section], field: as_written(key, values[section][field])}
    values["list"] = _kept({key: as_written(key, value) for key, value in point.items()} for point in points)
    values["search"] = {**(values.get("search") or {}), **searched}
    proposed = {"size.non_embedding": proposal.sizes, "horizon.tokens": proposal.tokens}
    values["grid"] = {key: [int(value) for value in axis] for key, axis in proposed.items()}
    values = {name: value for name, value in values.items() if value not in ({}, [{}])}
    return "".join(f"# {line}\n" for line in heading) + dump_yaml(values)
