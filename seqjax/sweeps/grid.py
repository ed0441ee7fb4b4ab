"""Sweep files: axes over a base config, expanded to runs and validated before anything starts.

    base: ../english/lstm.yaml         # a config, or a run to vary
    train: {batch_size: 16}            # over the base, for all runs
    grid:                              # every combination
      size.non_embedding: [1e4, 4e4]
      train.seed: [0, 1]
    zip:                               # these advance together
      train.context_length: [64, 256]
      train.batch_size: [32, 8]
    list:                              # one run each, or one for each
      - {model.family: lstm, grid: {train.bptt: [8, 16]}}     # of its grid
      - {model.family: transformer, model.n_layers: 2}
    search: {rates: [1e-3, 3e-3, 1e-2], transfer: size.non_embedding}
    horizon: {trunk: 5e7, branches: [3e6, 5e7]}   # shared first steps

An axis may be any dotted key. ``size.non_embedding`` takes the width whose number of parameters is nearest.
``horizon.tokens``, ``horizon.flops`` and ``horizon.tokens_per_parameter`` give the number of steps. ``base`` takes
names of config files, relative to the sweep file. ``search`` tries learning rates for each run; with ``transfer`` only
at the smallest value of that axis, and larger models take the rate found there. For the search see
`seqjax.sweeps.search`, for the horizon `seqjax.sweeps.trunks`.

Options change the axes. ``--grid.train.seed "[0, 1]"`` adds an axis to the grid, or replaces its values, and
``--search.rates "[1e-3, 3e-3, 1e-2]"`` the search's. ``--only.train.seed 1`` keeps only the points with this value, or
with one of a list. With ``search.transfer`` the points whose rates those take are kept too. The runs are the product of
the list's entries, the zip's steps, the grid's combinations and the rates. The rates vary fastest.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from seqjax.config import RunConfig, decay_begins, run_id
from seqjax.config.fields import TARGETS
from seqjax.errors import UserError, did_you_mean
from seqjax.runs.config_file import schema_of
from seqjax.runs.targets import resolve
from seqjax.runs.tree import OWN, Tree, beside, options_tree, overlay, read_file, read_tree
from seqjax.sweeps.axes import AXES, BASE, RATE, SEED, Axes, SearchOptions, chosen, short, taken
from seqjax.sweeps.trunks import TOKENS, take_horizons, trunk_of


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        config: complete.
        axes: dotted key -> value in the sweep file.
        notes: lines on the values that targets set.
        trunk: run id of the run whose first steps this one shares, perhaps its own; None: it shares none.
        pins: of a trunk: the steps at which its branches start.
        shared: steps that another run of the sweep takes for this one.
    """

    config: RunConfig
    axes: dict[str, Any]
    notes: tuple[str, ...] = ()
    trunk: str | None = None
    pins: tuple[int, ...] = ()
    shared: int = 0

    @cached_property
    def run_id(self) -> str:
        """The name of its folder."""
        return run_id(self.config)

    @property
    def label(self) -> str:
        """A readable name: family and shape, then the other axes."""
        shape = self.run_id.rpartition("-")[0]
        parts = [f"{key.rpartition('.')[2]}={short(key, value)}" for key, value in self.axes.items() if _tells(key)]
        return " ".join([shape, *parts])


@dataclass(frozen=True)
class Sweep:
    """The contents of a sweep file.

    Attributes:
        name: name of the file; its runs are in ``runs/<name>/``.
        tree: base and overrides together.
        base: only the base, empty if each point has its own.
        shared: overrides of the file and of options, for all runs.
        points: the axis values of every run, in order, without learning rates of a search.
        places: dotted key of an axis -> file and line.
        search: options of the search, or None.
        horizons: tokens of the branches and the trunk of every point, rising; empty: runs share no steps.
        left_out: the points of the file that ``--only`` leaves out.
    """

    name: str
    tree: Tree
    base: Tree
    shared: Tree
    points: tuple[dict[str, Any], ...]
    places: dict[str, str] = field(default_factory=dict)
    search: SearchOptions | None = None
    horizons: tuple[float, ...] = ()
    left_out: tuple[dict[str, Any], ...] = ()

    @cached_property
    def _plans(self) -> dict[str, Planned]:
        return {}

    def plan(self, point: Mapping[str, Any]) -> Planned:
        """The run at one point: its values over the base, resolved and validated. A search asks often; kept.

        Raises:
            UserError: as :func:`seqjax.runs.targets.resolve`.
        """
        key = repr(dict(point))
        if key not in self._plans:
            self._plans[key] = self._planned(point)
        return self._plans[key]

    def _planned(self, point: Mapping[str, Any]) -> Planned:
        base, values = self.base, {key: value for key, value in point.items() if key != BASE}
        if BASE in point:
            base = read_tree(beside(Path(self.tree.source), point[BASE]))
        above = options_tree(values, self.tree.source, schema_of(overlay(base, self.shared)))
        above.places.update({key: self.places[key] for key in values if key in self.places})
        # family and task first: they replace sections of the base, but not the overrides of this file
        below = base
        for key in OWN:
            if key in values:
                below = overlay(below, options_tree({key: values[key]}, above.place(key)))
        below = overlay(below, self.shared)
        below.source = self.tree.source
        if not self.horizons or TOKENS not in point:
            found = resolve(overlay(below, above))
            return Planned(found.config, dict(point), found.notes)
        found = resolve(overlay(below, above), self.horizons)
        trunk, pins = trunk_of(found.config, self.horizons, self.places[TOKENS])
        return Planned(found.config, dict(point), found.notes, trunk, pins if trunk == run_id(found.config) else ())

    def apart(self, point: Mapping[str, Any]) -> str:
        """A text for a point without its rate, its seed and its value on the axis of ``search.transfer``."""
        but = (RATE, SEED, self.search.transfer if self.search else None)
        return json.dumps({key: value for key, value in point.items() if key not in but}, sort_keys=True, default=str)

    @cached_property
    def least(self) -> dict[str, float]:
        """The smallest value on the axis of ``search.transfer``, for the points of each `apart`."""
        found: dict[str, float] = {}
        for point in (*self.points, *self.left_out):
            name, value = self.apart(point), point[self.search.transfer]
            found[name] = min(value, found.get(name, value))
        return found

    def leads(self, point: Mapping[str, Any]) -> bool:
        """Whether rates are searched at this point: without ``search.transfer`` at all, else at its smallest value."""
        key = self.search.transfer if self.search else None
        return key is None or point[key] == self.least[self.apart(point)]

    def with_leaders(self) -> Sweep:
        """The sweep with those left-out points whose rates its points take: no model is searched in their place."""
        if self.search is None or self.search.transfer is None:
            return self
        names = {self.apart(point) for point in self.points}
        leaders = [point for point in self.left_out if self.leads(point) and self.apart(point) in names]
        left_out = tuple(point for point in self.left_out if point not in leaders)
        return replace(self, points=(*leaders, *self.points), left_out=left_out)

    def possible(self, points: Iterable[Mapping[str, Any]]) -> list[Planned]:
        """The runs at points that are left out, where they are possible: options for the others may not fit them."""
        found = []
        for point in points:
            with contextlib.suppress(UserError):
                found.append(self.plan(point))
        return found

    def peers(self) -> list[Planned]:
        """The runs of the models that are left out and would be searched in the whole sweep, at its first rates."""
        names = {self.apart(point) for point in self.points}
        points = [point for point in self.left_out if self.leads(point) and self.apart(point) not in names]
        return self.possible({**point, RATE: rate} for point in points for rate in self.search.rates)

    def runs(self) -> list[Planned]:
        """All runs known at the start; with a search, at its first rates. All points are validated.

        Raises:
            UserError: an invalid value, or two points that are the same run.
        """
        rates = self.search.rates if self.search else (None,)
        leading = [point for point in self.points if self.leads(point)]
        points = [
            {**point, **({} if rate is None else {RATE: rate})} for point, rate in itertools.product(leading, rates)
        ]
        for point in self.points:
            if point not in leading:
                self.plan({**point, RATE: rates[0]})
        planned = [self.plan(point) for point in points]
        first: dict[str, Planned] = {}
        for run in planned:
            if run.run_id in first:
                points = f"{_point(first[run.run_id].axes)} and {_point(run.axes)}"
                raise UserError(f"{self.tree.source}: two points are the same run {run.run_id}: {points}; remove one")
            first[run.run_id] = run
        return planned


def sharing(planned: Sequence[Planned]) -> list[Planned]:
    """The runs, with the number of steps of each branch that its trunk takes, if that is among them."""
    present = {run.run_id for run in planned}

    def shared(run: Planned) -> int:
        begins = decay_begins(run.config.optimizer, run.config.train.steps)
        return begins if run.trunk in present - {run.run_id} else 0

    return [replace(run, shared=shared(run)) if run.trunk else run for run in planned]


def read_sweep(path: Path, options: Mapping[str, Any] | None = None) -> Sweep:
    """Read a sweep file; dotted options override values of all its runs. ``grid.`` and ``only.``: see above.

    Raises:
        UserError: missing or not YAML; an axis that is empty, not a list, given twice or also given as an option.
    """
    file = read_file(path)
    base = file.values.pop(BASE, None)
    axes = {name: file.values.pop(name, None) for name in (*AXES, "search")}
    if base is not None and not isinstance(base, str):
        raise UserError(f"{file.place(BASE)}: base: expected the name of a file, got {base!r}")
    trunk_place = file.place("horizon.trunk")
    horizons = take_horizons(file)
    options = dict(options or {})
    for section in ("grid", "search"):
        given = taken(options, section)
        if given and isinstance(axes[section] or {}, Mapping):
            axes[section] = {**(axes[section] or {}), **given}
        file.places.update({f"{section}.{key}": "command line" for key in given})
    reader = Axes(file)
    parts = [reader.listed(axes["list"]), reader.zipped(axes["zip"]), reader.gridded(axes["grid"])]
    points = [reader.joined(combination) for combination in itertools.product(*parts)]
    everything = reader.branched(points, horizons, trunk_place)
    points = chosen(everything, taken(options, "only"))
    left_out = tuple(point for point in everything if point not in points)
    bases = {point.get(BASE) for point in points}
    if base is not None and bases != {None}:
        raise UserError(f"{file.place(BASE)}: base: is given for all runs and as an axis; take one away")
    below = Tree({}) if base is None else read_tree(beside(path, base))
    first = below if BASE not in points[0] else read_tree(beside(path, points[0][BASE]))
    schema = schema_of(overlay(first, file))
    allowed = (BASE, *AXES, "search", *(section.name for section in fields(schema)), *TARGETS)
    for key in file.values:
        if key not in allowed:
            near = did_you_mean(str(key), allowed)
            raise UserError(f"{file.place(str(key))}: {key}: unknown key; allowed: {', '.join(allowed)}{near}")
    search = reader.searched(axes["search"], everything)
    for key in options:
        if key in reader.places:
            raise UserError(f"command line: {key}: the sweep has an axis over it ({reader.places[key]})")
    shared = overlay(file, options_tree(options, schema=schema))
    tree = overlay(below, shared)
    tree.source = str(path)
    sweep = Sweep(path.stem, tree, below, shared, points, reader.places, search, horizons, left_out)
    return sweep.with_leaders()


def _tells(key: str) -> bool:
    shown = ("model.family", "model.n_layers", "model.d_model", "model.d_hidden", "model.n_heads", "size.non_embedding")
    return key not in shown


def _point(axes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {short(key, value)}" for key, value in axes.items()) or "(no axes)"
