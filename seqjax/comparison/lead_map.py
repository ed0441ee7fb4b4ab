"""The map of a comparison: LSTM against each form of the Transformer, over size and tokens, FLOPs or seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from seqjax.comparison.collect import SAME_HORIZON
from seqjax.comparison.judging import LSTM, TRANSFORMER
from seqjax.comparison.measured import SAME_SIZE
from seqjax.errors import UserError
from seqjax.families import in_order, label_of, parts_of
from seqjax.host.wording import si, with_and
from seqjax.laws.clusters import clusters_of
from seqjax.laws.crossing import Place, common_sizes, crossings, direct
from seqjax.laws.points import read_points
from seqjax.laws.ranks import ranks_of
from seqjax.laws.run_rows import beside_other_work
from seqjax.laws.surfaces import Surface, fit_surface
from seqjax.plots.crossing import draw_map

UNITS = {"tokens": "training tokens", "flops": "training FLOPs", "seconds": "seconds of training on this machine"}
COLUMNS = {"params": "non-embedding", "flops": "exact", "seconds": "training_seconds"}


@dataclass(frozen=True)
class Map:
    """LSTM against one form of the Transformer.

    Attributes:
        form: kind of the Transformer; surfaces: of the LSTM and of this form.
        by_law, direct: the crossing at each size that both have, read in two ways, over each budget in `UNITS`.
    """

    form: str
    surfaces: tuple[Surface, Surface]
    by_law: dict[str, list[Place]]
    direct: dict[str, list[Place]]

    @property
    def name(self) -> str:
        """The name of its figure: map-gpt2."""
        return f"map-{parts_of(self.form)[1] or self.form}"

    def drawn(self, stacked: bool = False) -> Figure:
        """A panel for each budget; stacked: one below the other, for a narrow page."""
        return draw_map(self.surfaces, (LSTM, self.form), list(self.by_law), stacked)

    def sentences(self, budget: str = "tokens") -> list[str]:
        """Where this form overtakes the LSTM, a sentence for the sizes of which the same is true."""
        names, sizes = (label_of(self.form), label_of(LSTM)), {}
        for place in self.direct.get(budget) or self.by_law.get(budget, ()):
            sizes.setdefault(_said(place, names, UNITS[budget]), []).append(_short(place.params))
        return [f"With {with_and(params)} parameters the {said}." for said, params in sizes.items()]


def maps(best: pd.DataFrame) -> tuple[list[Map], list[str]]:
    """A map for each form of the Transformer, and a line for each that could not be made.

    Args:
        best: finished runs at their best rates, of all horizons and seeds.
    """
    kinds = in_order(kind for kind in best["kind"] if parts_of(kind)[0] == TRANSFORMER)
    if not kinds or LSTM not in set(best["kind"]):
        return [], []
    made, said = [], []
    if why := times_in_doubt(best):
        best = best.drop(columns=COLUMNS["seconds"], errors="ignore")
        said.append(f"There is no map over seconds: {why}.")
    try:
        of_lstm = _surface(best[best["kind"] == LSTM], 0)
    except UserError as error:
        return [], [*said, f"There is no map: {label_of(LSTM)}: {error}."]
    for seed, kind in enumerate(kinds, 1):  # families are resampled independently
        try:
            surfaces = (of_lstm, _surface(best[best["kind"] == kind], seed))
        except UserError as error:
            said.append(f"There is no map of {label_of(kind)}: {error}.")
            continue
        a, b = (surface.points for surface in surfaces)
        sizes, names = [n for n, _, _ in common_sizes(a, b)], (label_of(LSTM), label_of(kind))
        budgets = [name for name in UNITS if name in a.variables and name in b.variables]
        by_law = {budget: crossings(*surfaces, names, sizes, budget) for budget in budgets}
        for budget in [budget for budget, places in by_law.items() if sizes and not places]:
            del by_law[budget]
            said.append(
                f"There is no map of {label_of(kind)} over {UNITS[budget]}: no size was trained with any in common."
            )
        if not sizes:
            said.append(
                f"{label_of(kind)} and {label_of(LSTM)} have no size in common: their map is by the laws alone."
            )
        if by_law:
            made.append(Map(kind, surfaces, by_law, {budget: direct(a, b, names, budget) for budget in by_law}))
    return made, said


def times_in_doubt(runs: pd.DataFrame) -> str:
    """Why the training times of these runs cannot be compared; empty: they can.

    Each run needs its time, which a saved table may be without, and all need one processor. None may have waited for a
    core that other work had. Several runs in one program of an accelerator cost hardly more than one, so that none has
    a time of its own.
    """
    if COLUMNS["seconds"] not in runs.columns or not runs[COLUMNS["seconds"]].notna().all():
        return "not all runs have a time of training"
    if beside := beside_other_work(runs):
        return beside[0]
    if not {"device", "processor", "runs_in_program"} <= set(runs.columns):
        return ""
    alone = (runs["device"] == "cpu") | (runs["runs_in_program"].fillna(1).astype(float) == 1)
    if not alone.all() or len(runs[["device", "processor"]].drop_duplicates()) > 1:
        return "the runs had not one processor, or shared an accelerator in a program"
    return ""


def _surface(runs: pd.DataFrame, seed: int) -> Surface:
    """The loss of one family over (N, D). The best depth of each size and horizon counts.

    Raises:
        UserError: too few runs.
    """
    runs = best_depths(runs)
    if (horizons := _ranks(runs["tokens"], SAME_HORIZON).nunique()) < 3:
        raise UserError(f"the map needs three horizons, there are {horizons}")
    columns = {name: column for name, column in COLUMNS.items() if name != "seconds" or column in runs.columns}
    points = read_points(runs, columns, ("params", "tokens"), cluster=clusters_of(runs).rename("cluster"))
    return fit_surface(points, seed=seed)


def best_depths(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the depth with the lowest mean loss, at each size and horizon of one family."""
    sizes, horizons = _ranks(runs["params_non_embedding"], SAME_SIZE), _ranks(runs["tokens"], SAME_HORIZON)
    means = runs.groupby([sizes, horizons, runs["model.n_layers"]])["loss"].transform("mean")
    return runs[means == means.groupby([sizes, horizons]).transform("min")]


def _ranks(column: pd.Series, apart: float) -> pd.Series:
    return pd.Series(ranks_of(column.to_numpy(float), apart), column.index)


def as_json(found: Sequence[Map]) -> list[dict[str, object]]:
    """The maps as JSON. A value that is infinite or unknown is null, and the verdict says which."""

    def record(place: Place) -> dict[str, object]:
        values = {"params": place.params, "crossing": place.x, "low": place.low, "high": place.high}
        finite = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
        return finite | {"span": [*place.span], "gaps": [*place.gaps], "verdict": place.verdict}

    return [
        {
            "form": one.form,
            "constants": [surface.constants for surface in one.surfaces],
            "by_law": {budget: [*map(record, places)] for budget, places in one.by_law.items()},
            "direct": {budget: [*map(record, places)] for budget, places in one.direct.items()},
        }
        for one in found
    ]


def _said(place: Place, names: tuple[str, str], unit: str) -> str:
    """One crossing in words, with its interval. Names: the Transformer, the LSTM."""
    first, last = place.span
    overtakes = place.order == names[::-1]
    if place.beyond or not 0 < place.x < float("inf"):
        where = f"from {_short(first)} to {_short(last)} {unit}"
        if place.leader:
            return f"{place.verdict}, against the {names[place.leader == names[0]]}, {where}"
        return f"crossing of the {names[0]} and the {names[1]} is {place.verdict}, {where}"
    low = f"less than {_short(first)}" if place.low < first else _short(place.low)
    high = f"more than {_short(last)}" if place.high > last else _short(place.high)
    known = "noise unknown" if np.isnan(place.low) else f"95 %: {low} to {high}"
    then = names if overtakes else names[::-1]
    return f"{then[0]} overtakes the {then[1]} at {_short(place.x)} {unit} ({known})"


def _short(value: float) -> str:
    return si(value).strip()
