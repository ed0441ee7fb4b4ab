"""Rows of a run table that are no points of a fit: runs that did not finish, and runs at worse learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from seqjax.host.cores import beside
from seqjax.host.wording import counted, with_and
from seqjax.laws.best_rates import Choice, Trial, choices
from seqjax.laws.ranks import ranks_of
from seqjax.laws.run_columns import RATE, SEED, is_of_design
from seqjax.laws.selecting import labels_of
from seqjax.laws.variables import DEFAULTS, listed, numbers

SAME_SIZE = 1.1  # models whose parameters differ by less were meant to be of one size


def is_run_table(table: pd.DataFrame) -> bool:
    """Whether a table has the status of each run."""
    return {"status", "run_id"} <= set(table.columns)  # in another table, status may mean something else


def has_status(table: pd.DataFrame, status: str) -> np.ndarray:
    """Whether each run has this status; all False if it is not a run table."""
    if not is_run_table(table):
        return np.zeros(len(table), bool)
    return np.asarray(table["status"].astype("string").fillna("") == status, bool)


def not_finished(table: pd.DataFrame) -> dict[Any, str]:
    """The runs of a run table that did not finish, with their status."""
    if not is_run_table(table):
        return {}
    finished = has_status(table, "finished")
    return {i: str(status) for (i, status), done in zip(table["status"].items(), finished, strict=True) if not done}


def ended(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of a run table that finished or diverged."""
    return table[has_status(table, "finished") | has_status(table, "diverged")]


def worse_rates(table: pd.DataFrame, loss: str) -> tuple[dict[Any, str], list[str]]:
    """Among runs that differ only in rate and seed: the finished runs at other rates than the best; and notes.

    A diverged rate counts as tried: the best rate beside it is not at the edge.
    """
    if RATE not in table.columns:
        return {}, []
    found = choices_of(table, loss)
    rules = {
        table.index[row]: "another learning rate is better"
        if model.rate is not None
        else "a run of every learning rate has diverged"
        for model in found
        for row in model.left
    }
    edges = [table.iloc[model.kept[0]] for model in found if model.at_edge]
    notes = []
    if edges:
        names = [str(run.get("label") or run.get("run_id")) for run in edges]
        notes.append(
            f"the best learning rate lies at the edge of its sweep for {counted(len(edges), 'model')}, "
            f"{listed(names, 4)}: their losses are bounds from above"
        )
    return rules, notes


def at_best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of a run table at the best learning rate of their model, all seeds."""
    table = ended(table)
    return table.iloc[sorted(row for model in choices_of(table) for row in model.kept)]


def choices_of(table: pd.DataFrame, loss: str = "loss") -> list[Choice]:
    """What is chosen of each model of a table of finished and diverged runs. It names rows by their places."""
    tokens = table["tokens"].map(str) if "tokens" in table.columns else [""] * len(table)
    lost = has_status(table, "diverged")
    losses = [math.inf if gone else own for own, gone in zip(numbers_in(table, loss), lost, strict=True)]
    trials = [Trial(*row) for row in zip(numbers_in(table, RATE), numbers_in(table, SEED), losses, strict=True)]
    return choices(keys_of(table, _design(table)), tokens, trials)


def tried(table: pd.DataFrame, columns: Sequence[str], source: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of any table that tell where a column x is best, and their N, D, x and loss, float64 [n, 4].

    Of a run table: all runs if x is the learning rate, else those at the best rate of each x. A diverged run has an
    infinite loss, and D of the finished runs of its model; without them the tokens that it was to see.

    Args:
        table: a run table of finished and diverged runs, or any other table.
        columns: the names of N, D, x and the loss.
    Raises:
        UserError: a value that is not a positive finite number.
    """
    lost = has_status(table, "diverged")
    values = np.empty((len(table), 4))
    for i, name in enumerate(columns):
        values[~lost, i] = numbers(table.loc[~lost, name], name, labels_of(table[~lost]), source)
        values[lost, i] = pd.to_numeric(table.loc[lost, name], errors="coerce").astype(float)
    values[lost, 3] = math.inf
    if not is_run_table(table):
        return table, values
    steps, planned = (np.array(numbers_in(table, name), float) for name in ("steps", "train.steps"))
    values[lost, 1] = values[lost, 1] / np.where(steps > 0, steps, np.nan)[lost] * planned[lost]
    of, rates, rows, parts = columns[2], numbers_in(table, RATE), [], []
    for model in choices_of(table, columns[3]):
        finished = [*model.kept, *model.left]
        own = list(finished if of == RATE else model.kept)
        own += [row for row in model.diverged if of == RATE or model.rate in (None, rates[row])]
        part = values[own]
        if finished:
            part[lost[own], 1] = values[finished[0], 1]
        rows += own
        parts.append(part)
    found = np.concatenate([np.empty((0, 4)), *parts])
    known = np.isfinite(found[:, :3]).all(axis=1)
    return table.iloc[np.array(rows, int)[known]], found[known]


def numbers_in(table: pd.DataFrame, name: str) -> list[float | None]:
    """The numbers of a column; None where there is none, and for a column that the table lacks."""
    if name not in table.columns:
        return [None] * len(table)
    return [None if pd.isna(value) else value for value in pd.to_numeric(table[name], errors="coerce")]


def _design(table: pd.DataFrame) -> list[str]:
    """The columns that tell models apart, and their size, for tables that lack some of them."""
    fields = [name for name in table.columns if is_of_design(name)]
    return fields + [name for name in DEFAULTS["params"] if name in table.columns]


def several_families(table: pd.DataFrame) -> list[str]:
    """A note if there are runs of several families, or of several kinds of one (forms of the Transformer)."""
    named = {name: sorted(table[name].dropna().unique()) for name in ("model.family", "kind") if name in table.columns}
    families, kinds = named.get("model.family", []), named.get("kind", [])
    if "model.family" in named and len(kinds) > max(len(families), 1):
        return [f"several kinds of models in one fit: {', '.join(kinds)}"]
    return [f"several families in one fit: {', '.join(families)}"] if len(families) > 1 else []


def several_depths(table: pd.DataFrame) -> list[str]:
    """A note if models of one kind, size and number of tokens differ in depth: each is a point, and none is chosen."""
    depth, size, others = "model.n_layers", "params_non_embedding", ["kind", "tokens", "train.context_length"]
    if not {depth, size} <= set(table.columns):
        return []
    params = pd.to_numeric(table[size], errors="coerce").astype(float)
    table = table[params.notna()]
    keys = [ranks_of(params.dropna().to_numpy(), SAME_SIZE), *(table[name] for name in others if name in table)]
    several = table[table.groupby(keys)[depth].transform("nunique") > 1]
    found = with_and([str(layers) for layers in sorted(set(several[depth].dropna().astype(int)))])
    return [f"models of one size with {found} layers in one fit: the best depth is not chosen"] if found else []


def beside_other_work(table: pd.DataFrame) -> list[str]:
    """A note if runs waited for a core while they trained: their seconds are not those of the machine alone."""
    if "waited_share" not in table.columns:
        return []
    shares = pd.to_numeric(table["waited_share"], errors="coerce").astype(float)
    return beside(shares, "run", "their seconds are too many")


def keys_of(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The values of these columns in each row, as text."""
    return [tuple(map(str, row)) for row in zip(*(table[name] for name in columns), strict=True)] or [()] * len(table)
