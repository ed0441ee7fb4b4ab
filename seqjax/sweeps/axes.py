"""The axes of a sweep file: its sections `list`, `zip`, `grid` and `search`, and the options that change them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqjax.config import dotted
from seqjax.errors import UserError, did_you_mean
from seqjax.runs.tree import RIVALS, Tree, loaded, options_tree
from seqjax.sweeps.trunks import TOKENS

AXES = ("list", "zip", "grid")
BASE, RATE, SEED = "base", "optimizer.learning_rate", "train.seed"


@dataclass(frozen=True)
class SearchOptions:
    """Options of the learning-rate search (see :mod:`seqjax.sweeps.search`).

    Attributes:
        rates: the initial rates, at least three, in rising order.
        extend: largest number of additional rates per model.
        seeds: additional seeds, trained at the chosen rate.
        transfer: an axis of numbers. Rates are searched at its smallest value; the others take the rate found there.
    """

    rates: tuple[float, ...]
    extend: int = 4
    seeds: tuple[int, ...] = ()
    transfer: str | None = None


def taken(options: dict[str, Any], section: str) -> dict[str, Any]:
    """Remove the options that begin with ``section.``; return them without that prefix, values read as YAML."""
    keys = [key for key in options if key.startswith(f"{section}.")]
    return dict(dotted(options_tree({key: options.pop(key) for key in keys}).values.get(section, {})))


def chosen(points: list[dict[str, Any]], only: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The points with one of the given values at each given key. 1600000 is 1.6e6; other values are compared as text,
    see `short`."""
    for key, values in only.items():
        wanted = {_same(key, value): value for value in (values if isinstance(values, list) else [values])}
        if not wanted:
            raise UserError(f"command line: only.{key}: expected a value or a list of values, got []")
        there = {_same(key, point[key]): short(key, point[key]) for point in points if key in point}
        if unknown := [short(key, value) for same, value in wanted.items() if same not in there]:
            axes = ", ".join(dict.fromkeys(key for point in points for key in point))
            allowed = f"allowed: {', '.join(there.values())}" if there else f"no axis is over it; axes: {axes}"
            raise UserError(f"command line: only.{key}: no run has {min(unknown)}; {allowed}")
        points = [point for point in points if key in point and _same(key, point[key]) in wanted]
    return tuple(points)


def _same(key: str, value: Any) -> Any:
    """Equal for equal values: a number, or a text."""
    return float(value) if _numbers([value]) else short(key, value)


class Axes:
    """Reads the sections of a sweep file that define its points, and the places of their keys."""

    def __init__(self, file: Tree) -> None:
        self.file = file
        self.places: dict[str, str] = {}

    def listed(self, entries: Any) -> list[dict[str, Any]]:
        """``list``: one point per entry, or per combination of the grid in it."""
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
            pairs = list(dotted({key: value for key, value in entry.items() if key != "grid"}))
            for combination in self.gridded(entry.get("grid"), "list"):
                points.append({**dict(pairs), **combination})
                if len(points[-1]) < len(pairs) + len(combination):
                    raise UserError(f"{place}: list: an entry gives one key twice: {entry!r}")
                self._note("list", points[-1])
        return points

    def zipped(self, axes: Any) -> list[dict[str, Any]]:
        """``zip``: one point per index. The lists have equal length."""
        axes = self._axes("zip", axes)
        lengths = {key: len(values) for key, values in axes.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {n}" for key, n in lengths.items())
            raise UserError(f"{self.file.place('zip')}: zip: the lists advance together and need one length; {counts}")
        return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)] if axes else [{}]

    def gridded(self, axes: Any, section: str = "grid") -> list[dict[str, Any]]:
        """``grid`` of the file or of an entry of ``list``: one point per combination."""
        axes = self._axes(section, axes)
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def joined(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The parts of one point merged."""
        point: dict[str, Any] = {}
        for section, part in zip(AXES, parts, strict=True):
            for key, value in part.items():
                if key in point:
                    raise UserError(f"{self.file.place(section)}: {key}: has an axis twice, in {section} and before it")
                if key == BASE and not isinstance(value, str):
                    raise UserError(f"{self.places[key]}: base: expected names of files, got {value!r}")
                point[key] = loaded(key, value, self.places[key])
        return point

    def branched(self, points: list[dict[str, Any]], horizons: Sequence[float], place: str) -> list[dict[str, Any]]:
        """Each point at each horizon; the points themselves if there are no horizons."""
        if not horizons:
            return points
        for key in RIVALS[0]:
            if any(key in point for point in points):
                raise UserError(f"{self.places[key]}: {key}: the lengths are those of horizon.branches ({place})")
        self.places[TOKENS] = place
        return [{**point, TOKENS: tokens} for point in points for tokens in horizons]

    def searched(self, section: Any, points: Sequence[Mapping[str, Any]]) -> SearchOptions | None:
        """``search``: the options of the learning-rate search of these points."""
        if section is None:
            return None
        place = self.file.place("search")
        if not isinstance(section, Mapping):
            raise UserError(f"{place}: search: expected rates, extend, seeds and transfer, got {section!r}")
        allowed = ("rates", "extend", "seeds", "transfer")
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
        transfer = self._transferred(section.get("transfer"), points)
        self.places[RATE] = self.file.place("search.rates")
        return SearchOptions(tuple(sorted(float(rate) for rate in set(rates))), extend, tuple(seeds), transfer)

    def _transferred(self, key: Any, points: Sequence[Mapping[str, Any]]) -> str | None:
        """``search.transfer``: the name of an axis of numbers that every point has."""
        if key is None:
            return None
        numeric = [axis for axis in points[0] if all(_numbers([point.get(axis)]) for point in points)]
        if key not in numeric or key == SEED:
            allowed = ", ".join(axis for axis in numeric if axis != SEED) or "none, the sweep has no such axis"
            place = self.file.place("search.transfer")
            near = did_you_mean(str(key), numeric)
            raise UserError(
                f"{place}: search.transfer: expected an axis of numbers, got {key!r}; allowed: {allowed}{near}"
            )
        return key

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


def unique(points: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points without duplicates."""
    return list({json.dumps(point, sort_keys=True, default=str): point for point in points}.values())


def short(key: str, value: Any) -> str:
    return Path(value).stem if key == BASE else f"{value:g}" if isinstance(value, float) else str(value)
