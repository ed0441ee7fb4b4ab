"""Rows of a run table that are no points of a fit: runs that did not finish, and runs at worse learning rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from seqjax.host.cores import beside
from seqjax.host.wording import counted, with_and
from seqjax.laws.best_rates import Trial, at_best, best_rate, by_model
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


def worse_rates(table: pd.DataFrame, loss: str, diverged: pd.DataFrame) -> tuple[dict[Any, str], list[str]]:
    """Among runs that differ only in rate and seed: the runs at other rates than the best; and notes.

    A diverged rate counts as tried: the best rate beside it is not at the edge.
    """
    if RATE not in table.columns:
        return {}, []
    in_vain: dict[tuple[str, ...], set[float]] = defaultdict(set)
    design = _design(table)
    for key, rate in zip(keys_of(diverged, design), diverged[RATE] if len(diverged) else (), strict=True):
        in_vain[key].add(rate)
    rules: dict[Any, str] = {}
    edges = []
    trials = _trials(table, loss)
    for model, rows in by_model(_models(table)).items():
        best = best_rate([trials[row] for row in rows])
        if best is None:
            continue
        tried = {trials[row].rate for row in rows if trials[row].loss is not None} | in_vain[model[: len(design)]]
        if best in (min(tried - {None}), max(tried - {None})):
            run = table.iloc[next(row for row in rows if trials[row].rate == best)]
            edges.append(str(run.get("label") or run.get("run_id")))
        rules |= {table.index[row]: "another learning rate is better" for row in rows if trials[row].rate != best}
    notes = []
    if edges:
        notes.append(
            f"the best learning rate lies at the edge of its sweep for {counted(len(edges), 'model')}, "
            f"{listed(edges, 4)}: their losses are bounds from above"
        )
    return rules, notes


def at_best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of a run table at the best learning rate of their model, all seeds."""
    finished = table[table["status"] == "finished"]
    return finished.iloc[at_best(_models(finished), _trials(finished, "loss"))]


def _design(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if "." in name and name not in (RATE, SEED)]


def _models(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """What tells the model of each run: all but rate and seed."""
    return keys_of(table, _design(table) + ["tokens"] * ("tokens" in table.columns))


def _trials(table: pd.DataFrame, loss: str) -> list[Trial]:
    columns = [
        pd.to_numeric(table[name], errors="coerce") if name in table.columns else [None] * len(table)
        for name in (RATE, SEED, loss)
    ]
    return [Trial(*(None if pd.isna(value) else value for value in row)) for row in zip(*columns, strict=True)]


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
