"""Sweep files: axes over a base config, expanded to runs and validated before anything starts.

    base: ../english/lstm.yaml             # a config, or a run to vary
    train: {batch_size: 16}                # over the base, for all runs
    grid:                                  # every combination
      size.non_embedding: [1e4, 4e4, 16e4]
      train.seed: [0, 1]
    zip:                                   # these advance together
      train.context_length: [64, 256]
      train.batch_size: [32, 8]
    list:                                  # one run, or one grid, each
      - {model.family: lstm}
      - {model.family: transformer, model.n_layers: 2}
    search:                                # learning rates for each of these, see seqjax.sweeps.search
      rates: [1e-3, 3e-3, 1e-2]

An axis may be any dotted key, ``size.*`` and ``horizon.*`` too. The runs are the product of the list's entries, the
zip's steps, the grid's combinations and the rates. The rates vary fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from seqjax.config import RunConfig, dotted, run_id
from seqjax.config.fields import TARGETS
from seqjax.errors import UserError, did_you_mean
from seqjax.runs.config_file import schema_of
from seqjax.runs.targets import resolve
from seqjax.runs.tree import OWN, Tree, beside, loaded, options_tree, overlay, read_file, read_tree

AXES = ("list", "zip", "grid")
RATE, SEED = "optimizer.learning_rate", "train.seed"


@dataclass(frozen=True)
class SearchOptions:
    """Options of the learning-rate search (see :mod:`seqjax.sweeps.search`).

    Attributes:
        rates: the first rates, at least three, rising.
        extend: maximal number of further rates per model.
        seeds: further seeds to train at the chosen rate.
    """

    rates: tuple[float, ...]
    extend: int = 4
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        config: complete.
        axes: dotted key -> value in the sweep file.
        notes: lines on the values that targets set.
    """

    config: RunConfig
    axes: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        """The name of its folder."""
        return run_id(self.config)

    @property
    def label(self) -> str:
        """A readable name: family and shape, then the other axes."""
        shape = self.run_id.rpartition("-")[0]
        parts = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in self.axes.items() if _tells(key)]
        return " ".join([shape, *parts])


@dataclass(frozen=True)
class Sweep:
    """The contents of a sweep file.

    Attributes:
        name: name of the file; its runs are in ``runs/<name>/``.
        tree: base and overrides together.
        base: only the base; shared: overrides of the file and of options, for all runs.
        points: the axis values of every run, in order, without learning rates of a search.
        places: dotted key of an axis -> file and line.
        search: options of the search, or None.
    """

    name: str
    tree: Tree
    base: Tree
    shared: Tree
    points: tuple[dict[str, Any], ...]
    places: dict[str, str] = field(default_factory=dict)
    search: SearchOptions | None = None

    def plan(self, point: Mapping[str, Any]) -> Planned:
        """The run at one point: its values over the base, resolved and validated.

        Raises:
            UserError: as :func:`seqjax.runs.targets.resolve`.
        """
        above = options_tree(point, self.tree.source, schema_of(self.tree))
        above.places.update({key: self.places[key] for key in point if key in self.places})
        # family and task first: they replace sections of the base, but not the overrides of this file
        below = self.base
        for key in OWN:
            if key in point:
                below = overlay(below, options_tree({key: point[key]}, above.place(key)))
        below = overlay(below, self.shared)
        below.source = self.tree.source
        found = resolve(overlay(below, above))
        return Planned(found.config, dict(point), found.notes)

    def runs(self) -> list[Planned]:
        """All runs known at the start, validated; with a search, at its first rates.

        Raises:
            UserError: an invalid value, or two points that are the same run.
        """
        rates = self.search.rates if self.search else (None,)
        points = [
            {**point, **({} if rate is None else {RATE: rate})} for point, rate in itertools.product(self.points, rates)
        ]
        planned = [self.plan(point) for point in points]
        first: dict[str, Planned] = {}
        for run in planned:
            if run.run_id in first:
                points = f"{_point(first[run.run_id].axes)} and {_point(run.axes)}"
                raise UserError(f"{self.tree.source}: two points are the same run {run.run_id}: {points}; remove one")
            first[run.run_id] = run
        return planned


def read_sweep(path: Path, options: Mapping[str, Any] | None = None) -> Sweep:
    """Read a sweep file; dotted options override values of all its runs.

    Raises:
        UserError: missing or not YAML; an axis that is empty, not a list, given twice or also given as an option.
    """
    file = read_file(path)
    base = file.values.pop("base", None)
    axes = {name: file.values.pop(name, None) for name in (*AXES, "search")}
    if base is not None and not isinstance(base, str):
        raise UserError(f"{file.place('base')}: base: expected the name of a file, got {base!r}")
    below = Tree({}) if base is None else read_tree(beside(path, base))
    schema = schema_of(overlay(below, file))
    allowed = ("base", *AXES, "search", *(section.name for section in fields(schema)), *TARGETS)
    for key in file.values:
        if key not in allowed:
            near = did_you_mean(str(key), allowed)
            raise UserError(f"{file.place(str(key))}: {key}: unknown key; allowed: {', '.join(allowed)}{near}")
    reader = _Axes(file)
    parts = [reader.listed(axes["list"]), reader.zipped(axes["zip"]), reader.gridded(axes["grid"])]
    points = tuple(reader.joined(combination) for combination in itertools.product(*parts))
    search = reader.searched(axes["search"])
    options = dict(options or {})
    for key in options:
        if key in reader.places:
            raise UserError(f"command line: {key}: the sweep has an axis over it ({reader.places[key]})")
    shared = overlay(file, options_tree(options, schema=schema))
    tree = overlay(below, shared)
    tree.source = str(path)
    return Sweep(path.stem, tree, below, shared, points, reader.places, search)


class _Axes:
    """Reads the sections of a sweep file that define its points, and the places of their keys."""

    def __init__(self, file: Tree) -> None:
        self.file = file
        self.places: dict[str, str] = {}

    def listed(self, entries: Any) -> list[dict[str, Any]]:
        """``list``: one point per entry."""
        if entries is None:
            return [{}]
        place = self.file.place("list")
        if not isinstance(entries, list) or not entries:
            raise UserError(
                f"{place}: list: expected a list of entries such as {{model.family: lstm}}, got {entries!r}"
            )
        points = []
        for entry in entries:
            if not isinstance(entry, Mapping):
                raise UserError(f"{place}: list: expected entries such as {{model.family: lstm}}, got {entry!r}")
            pairs = list(dotted(entry))
            points.append(dict(pairs))
            if len(points[-1]) < len(pairs):
                raise UserError(f"{place}: list: an entry gives one key twice: {entry!r}")
            self._note("list", points[-1])
        return points

    def zipped(self, axes: Any) -> list[dict[str, Any]]:
        """``zip``: one point per index of the lists, which have equal length."""
        axes = self._axes("zip", axes)
        lengths = {key: len(values) for key, values in axes.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {n}" for key, n in lengths.items())
            raise UserError(f"{self.file.place('zip')}: zip: the lists advance together and need one length; {counts}")
        return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)] if axes else [{}]

    def gridded(self, axes: Any) -> list[dict[str, Any]]:
        """``grid``: one point per combination."""
        axes = self._axes("grid", axes)
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def joined(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The parts of one point merged."""
        point: dict[str, Any] = {}
        for section, part in zip(AXES, parts, strict=True):
            for key, value in part.items():
                if key in point:
                    raise UserError(f"{self.file.place(section)}: {key}: has an axis twice, in {section} and before it")
                point[key] = loaded(key, value, self.places[key])
        return point

    def searched(self, section: Any) -> SearchOptions | None:
        """``search``: the options of the learning-rate search."""
        if section is None:
            return None
        place = self.file.place("search")
        if not isinstance(section, Mapping):
            raise UserError(f"{place}: search: expected rates, extend and seeds, got {section!r}")
        allowed = ("rates", "extend", "seeds")
        for key in section:
            if key not in allowed:
                place = self.file.place(f"search.{key}")
                near = did_you_mean(str(key), allowed)
                raise UserError(f"{place}: search.{key}: unknown key; allowed: {', '.join(allowed)}{near}")
        rates, extend, seeds = section.get("rates"), section.get("extend", 4), section.get("seeds", [])
        where = f"{self.file.place('search.rates')}: search.rates"
        if not _numbers(rates) or len(set(rates)) < 3 or min(rates) <= 0:
            raise UserError(
                f"{where}: expected at least three different rates such as [1e-3, 3e-3, 1e-2], got {rates!r}"
            )
        if not isinstance(extend, int) or isinstance(extend, bool) or extend < 0:
            raise UserError(f"{self.file.place('search.extend')}: search.extend: expected 0 or more, got {extend!r}")
        if not isinstance(seeds, list) or not all(type(s) is int and 0 <= s < 2**31 for s in seeds):
            place = self.file.place("search.seeds")
            raise UserError(f"{place}: search.seeds: expected a list of whole numbers below 2**31, got {seeds!r}")
        for key in (RATE, *([SEED] if seeds else [])):
            if key in self.places:
                raise UserError(f"{self.places[key]}: {key}: the search already has an axis over it")
        self.places[RATE] = self.file.place("search.rates")
        return SearchOptions(tuple(sorted(float(rate) for rate in set(rates))), extend, tuple(seeds))

    def _axes(self, section: str, axes: Any) -> dict[str, list[Any]]:
        if axes is None:
            return {}
        if not isinstance(axes, Mapping):
            raise UserError(
                f"{self.file.place(section)}: {section}: expected dotted keys with lists of values, got {axes!r}"
            )
        for key, values in axes.items():
            where = f"{self.file.place(f'{section}.{key}')}: {section}: {key}"
            if not key.replace(".", "").isidentifier():
                raise UserError(f"{where}: expected a dotted key such as train.seed")
            if isinstance(values, Mapping):
                inner = next(iter(values), "")
                raise UserError(f"{where}: expected a list of values; write the whole key, {key}.{inner}: [...]")
            if values is None or values == []:
                raise UserError(f"{where}: the axis is empty")
            if not isinstance(values, list):
                raise UserError(f"{where}: expected a list of values, got {values!r}; write [{values}]")
            if any(isinstance(value, Mapping) for value in values):
                raise UserError(f"{where}: expected plain values; give whole sections as entries of list:")
        self._note(section, axes)
        return dict(axes)

    def _note(self, section: str, keys: Mapping[str, Any]) -> None:
        for key in keys:
            self.places[key] = self.file.place(f"{section}.{key}")


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _tells(key: str) -> bool:
    shown = ("model.family", "model.n_layers", "model.d_model", "model.d_hidden", "model.n_heads", "size.non_embedding")
    return key not in shown


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _point(axes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in axes.items()) or "(no axes)"
