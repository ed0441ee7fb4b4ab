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
from seqjax.laws.run_columns import RATE, SEED
from seqjax.laws.variables import listed

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
    columns = [
        pd.to_numeric(table[name], errors="coerce") if name in table.columns else [None] * len(table)
        for name in (RATE, SEED, loss)
    ]
    rows = [[None if pd.isna(value) else value for value in row] for row in zip(*columns, strict=True)]
    lost = has_status(table, "diverged")
    trials = [Trial(rate, seed, math.inf if gone else own) for (rate, seed, own), gone in zip(rows, lost, strict=True)]
    return choices(keys_of(table, _design(table)), tokens, trials)


def _design(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if "." in name and name not in (RATE, SEED)]


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
