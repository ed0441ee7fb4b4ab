"""The map of a comparison: LSTM against each form of the Transformer, over size and training tokens, in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from seqjax.comparison.judging import LSTM, TRANSFORMER
from seqjax.comparison.measured import size_ranks
from seqjax.errors import UserError
from seqjax.families import in_order, label_of
from seqjax.host.wording import si
from seqjax.laws.clusters import clusters_of
from seqjax.laws.crossing import Place, common_sizes, crossings, direct
from seqjax.laws.points import read_points
from seqjax.laws.surfaces import Surface, fit_surface
from seqjax.plots.crossing import draw_map

COLUMNS = {"params": "non-embedding", "flops": "exact", "seconds": "seconds"}


@dataclass(frozen=True)
class Map:
    """LSTM against one form of the Transformer.

    Attributes:
        form: kind of the Transformer; surfaces: of the LSTM and of this form.
        by_law, direct: the crossing over tokens at each size that both have, read in two ways.
    """

    form: str
    surfaces: tuple[Surface, Surface]
    by_law: tuple[Place, ...]
    direct: tuple[Place, ...]

    def drawn(self) -> Figure:
        """Panels over tokens, FLOPs and seconds."""
        budgets = [b for b in ("tokens", "flops", "seconds") if all(b in s.points.variables for s in self.surfaces)]
        return draw_map(self.surfaces, (LSTM, self.form), budgets)

    def sentences(self) -> list[str]:
        """Where this form overtakes the LSTM, a sentence for each size."""
        read = self.direct or self.by_law
        return [f"{label_of(self.form)}, N = {_short(place.params)}: {_said(place)}." for place in read]


def maps(best: pd.DataFrame) -> tuple[list[Map], list[str]]:
    """A map for each form of the Transformer, and a line for each that could not be made.

    Args:
        best: finished runs at their best rates, of all horizons and seeds.
    """
    kinds = in_order(kind for kind in best["kind"] if kind.partition(" ")[0] == TRANSFORMER)
    if not kinds or LSTM not in set(best["kind"]):
        return [], []
    made, said = [], []
    try:
        of_lstm = _surface(best[best["kind"] == LSTM], 0)
    except UserError as error:
        return [], [f"There is no map: {label_of(LSTM)}: {error}."]
    for seed, kind in enumerate(kinds, 1):  # families are resampled independently
        try:
            surfaces = (of_lstm, _surface(best[best["kind"] == kind], seed))
        except UserError as error:
            said.append(f"There is no map of {label_of(kind)}: {error}.")
            continue
        a, b = (surface.points for surface in surfaces)
        sizes, names = [n for n, _, _ in common_sizes(a, b)], (label_of(LSTM), label_of(kind))
        made.append(Map(kind, surfaces, tuple(crossings(*surfaces, names, sizes)), tuple(direct(a, b, names))))
    return made, said


def _surface(runs: pd.DataFrame, seed: int) -> Surface:
    """The loss of one family over (N, D). The best depth of each size and horizon counts.

    Raises:
        UserError: too few runs.
    """
    runs = best_depths(runs)
    if len({*runs["steps"]}) < 3:
        raise UserError(f"the map needs three horizons, there are {len({*runs['steps']})}")
    points = read_points(runs, COLUMNS, ("params", "tokens"), cluster=clusters_of(runs).rename("cluster"))
    return fit_surface(points, seed=seed)


def best_depths(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the depth with the lowest mean loss, at each size and horizon of one family."""
    ranks = runs["params_non_embedding"].astype(float).map(size_ranks(runs["params_non_embedding"].astype(float)))
    means = runs.groupby([ranks, runs["steps"], runs["model.n_layers"]])["loss"].transform("mean")
    return runs[means == means.groupby([ranks, runs["steps"]]).transform("min")]


def as_json(found: Sequence[Map]) -> list[dict[str, object]]:
    """The maps as JSON. A value that is infinite or unknown is null, and the verdict says which."""

    def record(place: Place) -> dict[str, object]:
        values = {"params": place.params, "tokens": place.x, "low": place.low, "high": place.high}
        finite = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
        return finite | {"span": [*place.span], "gaps": [*place.gaps], "verdict": place.verdict}

    return [
        {
            "form": one.form,
            "constants": [surface.constants for surface in one.surfaces],
            "by_law": [*map(record, one.by_law)],
            "direct": [*map(record, one.direct)],
        }
        for one in found
    ]


def _said(place: Place) -> str:
    """One crossing in words, with its interval."""
    if place.beyond or not 0 < place.x < float("inf"):
        return f"{place.verdict} ({_short(place.span[0])} to {_short(place.span[1])} tokens)"
    first, last = place.span
    low = f"less than {_short(first)}" if place.low < first else _short(place.low)
    high = f"more than {_short(last)}" if place.high > last else _short(place.high)
    known = "noise unknown" if np.isnan(place.low) else f"95 %: {low} to {high}"
    return f"overtakes at {_short(place.x)} tokens ({known}); {place.verdict}"


def _short(value: float) -> str:
    return si(value).strip()
