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

from seqjax.errors import UserError, did_you_mean
from seqjax.laws.checkpoints import runs_of_rows
from seqjax.laws.comparable import refuse_incomparable, several_contexts
from seqjax.laws.table_file import number_of

CONVENTIONS = {
    "params": {
        "non-embedding": "params_non_embedding",
        "with-readout": "params_with_readout",
        "total": "params_total",
    },
    "flops": {"kaplan": "flops_kaplan", "exact": "flops_exact"},
}
"""Short names for ways to count, and their columns of a run table."""
DEFAULTS = {
    "params": ("params_non_embedding", "params"),
    "tokens": ("tokens",),
    "loss": ("loss",),
    "flops": ("flops_exact", "flops"),
    "steps": ("steps",),
    "position": ("position",),
    "unique_tokens": ("unique_tokens",),
    "other_loss": ("other_loss",),
}
"""The default columns of each variable: the first that exists."""
SHORT = {
    "family": "model.family",
    "layers": "model.n_layers",
    "corpus": "data.corpus",
    "tokenizer": "data.tokenizer",
    "batching": "data.batching",
}
"""Short names of columns of a run table."""
RATE, SEED = "optimizer.learning_rate", "train.seed"


@dataclass(frozen=True)
class LeftOut:
    """A row that is not fitted, and the rule that left it out."""

    row: str
    rule: str


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
    best one is kept. If the table lacks D, it is C / (6 N), with a note; if it lacks C, it is 6 N D.

    Args:
        columns: variable -> name of its column, or a short name of `CONVENTIONS`; other variables have the columns in
            `DEFAULTS`.
        needs: variables that the law needs.
        where: an expression over the columns; rows for which it is false are left out.
        drop_highest: number of rows with the highest losses to leave out.
        cluster: column of clusters, or one label per row; None: the column of runs where it shows checkpoints (see
            :mod:`seqjax.laws.checkpoints`), else points with equal variables.
        weights: column of weights in the objective; they are divided by their mean.
        unique: whether two equal rows are an error.
        source: name of the table in errors.
    Raises:
        UserError: no such column, a value that is not a positive finite number, equal rows, a missing variable, losses
            that cannot be compared.
    """
    if not table.index.is_unique:
        table = table.reset_index(drop=True)  # otherwise rows keep the numbers of their original table
    named = {name: _column(table, name, given, source) for name, given in (columns or {}).items()}
    for name, defaults in DEFAULTS.items():
        if name not in named and (present := [column for column in defaults if column in table.columns]):
            named[name] = present[0]
    if "loss" not in named:
        named["loss"] = _column(table, "loss", "loss", source)
    labels = _labels(table)
    keep, left_out = select(table, where, source)
    diverged = table[keep & has_status(table, "diverged")]

    def leave_out(rules: Mapping[Any, str]) -> None:
        left_out.extend(LeftOut(labels[table.index.get_loc(row)], rule) for row, rule in rules.items())
        keep[table.index.isin(list(rules))] = False

    leave_out(_not_finished(table[keep]))
    # report a loss that is not a number before its row is left out for a better one
    _numbers(table.loc[keep, named["loss"]], named["loss"], _kept(labels, keep), source)
    rules, notes = _worse_rates(table[keep], named["loss"], diverged)
    leave_out(rules)
    notes += _several_families(table[keep]) + several_contexts(table[keep])
    refuse_incomparable(table[keep], named["loss"], source)
    wanted = {*needs, *(columns or {}), "loss"} | ({"flops"} if "tokens" in needs and "tokens" not in named else set())
    kept_labels = _kept(labels, keep)
    values = {}
    for name, column in named.items():
        try:
            values[name] = _numbers(table.loc[keep, column], column, kept_labels, source)
        except UserError:
            if name in wanted:
                raise  # a column that is not needed may hold other things
    conventions = {name: _counted(name, column) for name, column in named.items() if name in values and name != "loss"}
    _derive(values, conventions, notes)
    if missing := [name for name in needs if name not in values]:
        raise UserError(
            f"{source}: needs {' and '.join(missing)}: name the column (--{missing[0].replace('_', '-')} COLUMN); "
            f"it has {_listed(table.columns)}"
        )
    if unique:
        _refuse_equal_rows(values, _keys(table[keep], _telling_apart(table)), kept_labels, source)
    loss = values.pop("loss")
    groups, clusters = _clusters(table.loc[keep], values, cluster, source, notes)
    weight = None
    if weights is not None:
        column = _column(table, "weights", weights, source)
        weight = _numbers(table.loc[keep, column], column, kept_labels, source)
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


def _column(table: pd.DataFrame, name: str, given: str, source: str) -> str:
    if given in table.columns:
        return given
    short = CONVENTIONS.get(name, {})
    if short.get(given) in table.columns:
        return short[given]
    raise UserError(
        f"{source}: {name}: there is no column '{given}'{did_you_mean(given, [*table.columns, *short])}; "
        f"it has {_listed(table.columns)}"
    )


def _listed(columns: Iterable[Any], most: int = 12) -> str:
    names = [str(column) for column in columns]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _labels(table: pd.DataFrame) -> list[str]:
    rows = [i if isinstance(i, str) else f"row {i + 1}" for i in table.index]
    if "run_id" in table.columns:
        return [f"{row} ({run})" for row, run in zip(rows, table["run_id"], strict=True)]
    return rows


def select(table: pd.DataFrame, where: str | None, source: str) -> tuple[np.ndarray, list[LeftOut]]:
    """Whether an expression keeps each row, and the other rows as left out.

    Raises:
        UserError: it cannot be evaluated, is not true or false, or is true for no row.
    """
    if where is None:
        return np.ones(len(table), bool), []
    try:
        short = {name: table[column] for name, column in SHORT.items() if column in table.columns}
        found = table.eval(where, engine="python", resolvers=[short])
    except Exception as error:  # pandas raises many kinds of errors
        reason = str(error).partition("\n")[0]
        hint = "columns with dots or spaces go in `backticks`; equality is ==, text goes in quotes"
        raise UserError(f"--where {where!r}: {reason}; {hint}") from None
    if not isinstance(found, pd.Series) or (found.dtype.kind != "b" and str(found.dtype) != "boolean"):
        raise UserError(f"--where {where!r}: is not true or false for each row of {source}")
    keep = np.array(found.fillna(False), bool)
    if not keep.any():
        raise UserError(f"--where {where!r}: is true for no row of {source}")
    gone = [LeftOut(label, f"not {where}") for label, kept in zip(_labels(table), keep, strict=True) if not kept]
    return keep, gone


def _kept(labels: Sequence[str], keep: np.ndarray) -> list[str]:
    return [label for label, kept in zip(labels, keep, strict=True) if kept]


def is_run_table(table: pd.DataFrame) -> bool:
    """Whether a table has the status of each run."""
    return {"status", "run_id"} <= set(table.columns)  # in another table, status may mean something else


def _not_finished(table: pd.DataFrame) -> dict[Any, str]:
    if not is_run_table(table):
        return {}
    finished = has_status(table, "finished")
    return {i: str(status) for (i, status), done in zip(table["status"].items(), finished, strict=True) if not done}


def has_status(table: pd.DataFrame, status: str) -> np.ndarray:
    """Whether each run has this status; all False if it is not a run table."""
    if not is_run_table(table):
        return np.zeros(len(table), bool)
    return np.asarray(table["status"].astype("string").fillna("") == status, bool)


def _worse_rates(table: pd.DataFrame, loss: str, diverged: pd.DataFrame) -> tuple[dict[Any, str], list[str]]:
    """Among runs that differ only in rate and seed: the runs at rates without the best mean loss.

    Rates are compared on the seeds that all rates have: a search trains further seeds only at the chosen rate.
    A diverged rate counts as tried: the best rate beside it is not at the edge.
    """
    if RATE not in table.columns:
        return {}, []
    design = [name for name in table.columns if "." in name and name not in (RATE, SEED)]
    in_vain: dict[Any, set[float]] = {}
    for key, rate in zip(_keys(diverged, design), diverged[RATE] if len(diverged) else (), strict=True):
        in_vain.setdefault(key, set()).add(rate)
    rules: dict[Any, str] = {}
    edges = []
    for _, runs in table.groupby(design + ["tokens"] * ("tokens" in table.columns), dropna=False, sort=False):
        losses = pd.to_numeric(runs[loss], errors="coerce").dropna()
        rates = runs.loc[losses.index, RATE]
        if SEED in table.columns:
            of_seed = rates.groupby(runs.loc[losses.index, SEED]).nunique()
            shared = runs.loc[losses.index, SEED].isin(of_seed.index[of_seed == rates.nunique()])
            losses = losses[shared] if shared.any() else losses
        means = losses.groupby(rates.loc[losses.index]).mean()
        if len(means) < 2:
            continue
        best = means.idxmin()
        tried = set(means.index) | in_vain.get(_keys(runs[:1], design)[0], set())
        if best in (min(tried), max(tried)):
            edges.append(str(runs.iloc[0].get("label") or runs.iloc[0].get("run_id")))
        rules |= {i: "another learning rate is better" for i, rate in runs[RATE].items() if rate != best}
    notes = []
    if edges:
        notes.append(
            f"the best learning rate lies at the edge of its sweep for {len(edges)} model(s), {_listed(edges, 4)}: "
            "their losses are bounds from above"
        )
    return rules, notes


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in zip(*(table[name] for name in columns), strict=True)] or [()] * len(table)


def at_best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of a run table at the best learning rate of their model, all seeds."""
    finished = table[table["status"] == "finished"]
    return finished.drop(index=list(_worse_rates(finished, "loss", table[:0])[0]))


def _several_families(table: pd.DataFrame) -> list[str]:
    families = sorted(table["model.family"].dropna().unique()) if "model.family" in table.columns else []
    return [f"several families in one fit: {', '.join(families)}"] if len(families) > 1 else []


def _numbers(column: pd.Series, name: str, labels: Sequence[str], source: str) -> np.ndarray:
    """A column as positive finite float64, before products are formed: 6 N D of large runs overflows int64."""
    found = np.empty(len(column))
    integers = pd.api.types.is_integer_dtype(column.dtype)
    for place, (label, value) in enumerate(zip(labels, column, strict=True)):
        where = f"{source}: column '{name}', {label}"
        if pd.isna(value):
            raise UserError(f"{where}: is empty; leave such rows out, e.g. --where '`{name}`.notna()'")
        try:
            number = number_of(value) if isinstance(value, str) else float(value)
        except ValueError as error:
            reason = str(error) if isinstance(value, str) else f"{value!r} is not a number"
            raise UserError(f"{where}: {reason}") from None
        except TypeError:
            raise UserError(f"{where}: {value!r} is not a number") from None
        if not np.isfinite(number) or number <= 0:
            hint = " (did an integer overflow? write large numbers as 1.2e21)" if integers and number < 0 else ""
            raise UserError(f"{where}: {value} is not a positive number{hint}")
        found[place] = number
    return found


def _counted(name: str, column: str) -> str:
    short = next((short for short, own in CONVENTIONS.get(name, {}).items() if own == column), None)
    return short or f"column '{column}'"


def _derive(values: dict[str, np.ndarray], conventions: dict[str, str], notes: list[str]) -> None:
    if "params" not in values:
        return
    if "tokens" not in values and "flops" in values:
        values["tokens"] = values["flops"] / (6.0 * values["params"])
        conventions["tokens"] = "FLOPs / (6 N)"
        notes.append(f"tokens are FLOPs / (6 N), from the {_named(conventions['flops'])}")
    elif "flops" not in values and "tokens" in values:
        values["flops"] = 6.0 * values["params"] * values["tokens"]
        conventions["flops"] = "6 N D"


def _named(convention: str) -> str:
    return convention if convention.startswith("column") else f"{convention} FLOPs"


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
        column = cluster if isinstance(cluster, pd.Series) else table[_column(table, "cluster", cluster, source)]
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
