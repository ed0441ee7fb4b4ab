"""The points of a fit: rows of a table, checked, in float64, with the rows left out and the reasons.

Any table with columns for parameters, tokens and loss can be used: a published one, or the run table of
:mod:`seqjax.sweeps.table`, whose column names are the defaults. The points, the fit and the figure say how N, D and C
were counted: the same runs give different exponents under another count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from seqjax.errors import UserError
from seqjax.host.wording import counted, with_and
from seqjax.laws.comparable import refuse_incomparable, several_contexts
from seqjax.laws.run_rows import (
    beside_other_work,
    has_status,
    keys_of,
    not_finished,
    several_depths,
    several_families,
    worse_rates,
)
from seqjax.laws.selecting import LeftOut, in_brackets, labels_of, select
from seqjax.laws.shared_noise import runs_of_rows
from seqjax.laws.variables import DEFAULTS, column_of, convention_of, listed, named_count, numbers, usual_column


@dataclass(frozen=True)
class Points:
    """The points of a fit.

    Attributes:
        variables: ``params`` N, ``tokens`` D, ``flops`` C, ``steps``, ``position``, ``unique_tokens``, ``other_loss``,
            if known; float64 [n], all above 0.
        loss: nats per token, float64 [n].
        cluster: int [n]; points of one cluster (seeds of one model, checkpoints of one run) share their noise.
        rows: the name of each point in its table.
        conventions: variable -> how it was counted, in words.
        left_out: rows of the table that are not fitted.
        notes: remarks on the points for a reader of the fit.
        clusters: what a cluster is, in words; "": points with equal variables.
        weight: of each point in the objective, float64 [n], with a mean of 1; None: 1.
    """

    variables: dict[str, np.ndarray]
    loss: np.ndarray
    cluster: np.ndarray
    rows: tuple[str, ...]
    conventions: dict[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    clusters: str = ""
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def variety(self) -> str:
        """How many points there are in effect: "9 different", or "9 clusters"."""
        count = len(np.unique(self.cluster))
        return counted(count, "cluster") if self.clusters else f"{count:,} different"

    def chosen(self, keep: np.ndarray, rule: str) -> Points:
        """The points with ``keep`` true; the others are listed as left out by ``rule``."""
        gone = tuple(LeftOut(row, rule) for row, kept in zip(self.rows, keep, strict=True) if not kept)
        rows = tuple(row for row, kept in zip(self.rows, keep, strict=True) if kept)
        variables = {name: values[keep] for name, values in self.variables.items()}
        _, cluster = np.unique(self.cluster[keep], return_inverse=True)
        return replace(
            self,
            variables=variables,
            loss=self.loss[keep],
            cluster=cluster,
            weight=None if self.weight is None else self.weight[keep],
            rows=rows,
            left_out=self.left_out + gone,
        )


def make_points(loss: Any, cluster: Any = None, **variables: Any) -> Points:
    """Points from arrays: ``make_points(loss, params=N, tokens=D)``.

    Args:
        cluster: labels of points that share their noise; None: points with equal variables.
    Raises:
        UserError: a value that is not a positive, finite number, or arrays of different lengths.
    """
    table = pd.DataFrame({"loss": np.asarray(loss)})
    for name, values in variables.items():
        if np.shape(values) != (len(table),):
            raise UserError(f"{name}: {np.shape(values)} values for {len(table)} losses")
        table[name] = np.asarray(values)
    if cluster is not None:
        table["cluster"] = np.asarray(cluster)
    names = {name: name for name in variables}
    return read_points(table, names | {"loss": "loss"}, cluster=None if cluster is None else "cluster", unique=False)


def read_points(
    table: pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    needs: Iterable[str] = (),
    *,
    where: str | None = None,
    drop_highest: int = 0,
    cluster: str | pd.Series | None = None,
    weights: str | None = None,
    unique: bool = True,
    source: str = "the table",
) -> Points:
    """The points in a table.

    Runs of a run table that did not finish are left out. If a model was trained with several learning rates, only the
    best one is kept (:mod:`seqjax.laws.best_rates`). If the table lacks D, it is C / (6 N), with a note; if it lacks C,
    it is 6 N D.

    Args:
        columns: variable -> name of its column, or a short name of `CONVENTIONS`; other variables have the columns in
            `DEFAULTS`.
        needs: variables that the law needs.
        where: an expression over the columns; rows for which it is false are left out.
        drop_highest: number of rows with the highest losses to leave out.
        cluster: column of clusters, or one label per row; None: the column of runs where it shows checkpoints (see
            :mod:`seqjax.laws.shared_noise`), else points with equal variables.
        weights: column of weights in the objective; they are divided by their mean.
        unique: whether two equal rows are an error.
        source: name of the table in errors.
    Raises:
        UserError: no such column, a value that is not a positive finite number, equal rows, a missing variable, losses
            that cannot be compared, no row that is kept.
    """
    if not table.index.is_unique:
        table = table.reset_index(drop=True)  # otherwise rows keep the numbers of their original table
    named = {name: column_of(table, name, given, source) for name, given in (columns or {}).items()}
    for name in DEFAULTS:
        if name not in named and (usual := usual_column(table, name)):
            named[name] = usual
    if "loss" not in named:
        named["loss"] = column_of(table, "loss", "loss", source)
    labels = labels_of(table)
    keep, left_out = select(table, where, source)
    diverged = keep & has_status(table, "diverged")

    def leave_out(rules: Mapping[Any, str]) -> None:
        left_out.extend(LeftOut(labels[table.index.get_loc(row)], rule) for row, rule in rules.items())
        keep[table.index.isin(list(rules))] = False

    leave_out(not_finished(table[keep]))
    # report a loss that is not a number before its row is left out for a better one
    numbers(table.loc[keep, named["loss"]], named["loss"], _kept(labels, keep), source)
    rules, notes = worse_rates(table[keep | diverged], named["loss"])
    leave_out(rules)
    if not keep.any():
        raise UserError(f"{source}: no point to fit{in_brackets(left_out)}")
    notes += several_families(table[keep]) + several_contexts(table[keep]) + several_depths(table[keep])
    refuse_incomparable(table[keep], named["loss"], source)
    wanted = {*needs, *(columns or {}), "loss"} | ({"flops"} if "tokens" in needs and "tokens" not in named else set())
    kept_labels = _kept(labels, keep)
    values = {}
    for name, column in named.items():
        try:
            values[name] = numbers(table.loc[keep, column], column, kept_labels, source)
        except UserError:
            if name in wanted:
                raise  # a column that is not needed may hold other things
    conventions = {
        name: convention_of(name, column) for name, column in named.items() if name in values and name != "loss"
    }
    notes += beside_other_work(table[keep]) if "seconds" in values else []
    _derive(values, conventions, notes)
    if missing := [name for name in needs if name not in values]:
        raise UserError(
            f"{source}: needs {with_and(missing)}: name the column (--{missing[0].replace('_', '-')} COLUMN); "
            f"it has {listed(table.columns)}"
        )
    if unique:
        _refuse_equal_rows(values, keys_of(table[keep], _telling_apart(table)), kept_labels, source)
    loss = values.pop("loss")
    groups, clusters = _clusters(table.loc[keep], values, cluster, source, notes)
    weight = None
    if weights is not None:
        column = column_of(table, "weights", weights, source)
        weight = numbers(table.loc[keep, column], column, kept_labels, source)
        weight = weight / weight.mean()
        notes.append(f"rows are weighed by the column '{column}'")
    points = Points(
        values, loss, groups, tuple(kept_labels), conventions, tuple(left_out), tuple(notes), clusters, weight
    )
    if drop_highest:
        if drop_highest >= len(points):
            raise UserError(f"{source}: cannot leave out the {drop_highest} highest losses of {len(points)} rows")
        highest = np.argsort(-loss, kind="stable")[:drop_highest]
        keep_points = ~np.isin(np.arange(len(loss)), highest)
        points = points.chosen(keep_points, f"one of the {drop_highest} highest losses")
    return points


def _kept(labels: Sequence[str], keep: np.ndarray) -> list[str]:
    return [label for label, kept in zip(labels, keep, strict=True) if kept]


def _derive(values: dict[str, np.ndarray], conventions: dict[str, str], notes: list[str]) -> None:
    if "params" not in values:
        return
    if "tokens" not in values and "flops" in values:
        values["tokens"] = values["flops"] / (6.0 * values["params"])
        conventions["tokens"] = "FLOPs / (6 N)"
        notes.append(f"tokens are FLOPs / (6 N), from the {named_count(conventions['flops'])}")
    elif "flops" not in values and "tokens" in values:
        values["flops"] = 6.0 * values["params"] * values["tokens"]
        conventions["flops"] = "6 N D"


def _telling_apart(table: pd.DataFrame) -> list[Any]:
    """The columns that distinguish runs with equal numbers: the run id, else seeds and text columns."""
    if "run_id" in table.columns:
        return ["run_id"]
    return [name for name in table.columns if str(name).rpartition(".")[2] == "seed" or table[name].dtype.kind in "OT"]


def _refuse_equal_rows(
    values: Mapping[str, np.ndarray], names: Sequence[tuple[str, ...]], labels: Sequence[str], source: str
) -> None:
    seen: dict[tuple[Any, ...], str] = {}
    for row, name, label in zip(zip(*values.values(), strict=True), names, labels, strict=True):
        if (row, name) in seen:
            raise UserError(
                f"{source}: {label} is {seen[row, name]} once more: the same {', '.join(values)}; keep one, or tell "
                "two runs apart in a column 'seed' or 'run_id'"
            )
        seen[row, name] = label


def _clusters(
    table: pd.DataFrame,
    values: Mapping[str, np.ndarray],
    cluster: str | pd.Series | None,
    source: str,
    notes: list[str],
) -> tuple[np.ndarray, str]:
    """The cluster of each row, and what a cluster is, in words; "": rows with equal variables."""
    if cluster is not None:
        column = cluster if isinstance(cluster, pd.Series) else table[column_of(table, "cluster", cluster, source)]
        column = column.loc[table.index]
        if column.isna().any():
            raise UserError(
                f"{source}: column '{column.name}': is empty in {int(column.isna().sum())} row(s): name a cluster"
            )
        return np.asarray(pd.factorize(column)[0]), f"column '{column.name}'"
    if (found := runs_of_rows(table, values)) is not None:
        labels, name = found
        notes.append(
            f"{len(table)} rows of {labels.nunique()} runs, by the column '{name}': checkpoints of one run share its "
            "noise"
        )
        return np.asarray(pd.factorize(labels)[0]), f"column '{name}'"
    keys = pd.DataFrame(dict(values))
    same = keys.groupby(list(keys.columns), sort=False).ngroup().to_numpy() if len(keys.columns) else None
    return (np.arange(len(table)) if same is None else same), ""
