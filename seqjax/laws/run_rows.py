"""Rows of a run table that are no points of a fit: runs that did not finish, and runs at worse learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from seqjax.laws.columns import listed

RATE, SEED = "optimizer.learning_rate", "train.seed"


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
    """Among runs that differ only in rate and seed: the runs at rates without the best mean loss.

    Rates are compared on the seeds that all rates have: a search trains further seeds only at the chosen rate.
    A diverged rate counts as tried: the best rate beside it is not at the edge.
    """
    if RATE not in table.columns:
        return {}, []
    design = [name for name in table.columns if "." in name and name not in (RATE, SEED)]
    in_vain: dict[Any, set[float]] = {}
    for key, rate in zip(keys_of(diverged, design), diverged[RATE] if len(diverged) else (), strict=True):
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
        tried = set(means.index) | in_vain.get(keys_of(runs[:1], design)[0], set())
        if best in (min(tried), max(tried)):
            edges.append(str(runs.iloc[0].get("label") or runs.iloc[0].get("run_id")))
        rules |= {i: "another learning rate is better" for i, rate in runs[RATE].items() if rate != best}
    notes = []
    if edges:
        notes.append(
            f"the best learning rate lies at the edge of its sweep for {len(edges)} model(s), {listed(edges, 4)}: "
            "their losses are bounds from above"
        )
    return rules, notes


def at_best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of a run table at the best learning rate of their model, all seeds."""
    finished = table[table["status"] == "finished"]
    return finished.drop(index=list(worse_rates(finished, "loss", table[:0])[0]))


def several_families(table: pd.DataFrame) -> list[str]:
    """A note if there are runs of several families."""
    families = sorted(table["model.family"].dropna().unique()) if "model.family" in table.columns else []
    return [f"several families in one fit: {', '.join(families)}"] if len(families) > 1 else []


def keys_of(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The values of these columns in each row, as text."""
    return [tuple(map(str, row)) for row in zip(*(table[name] for name in columns), strict=True)] or [()] * len(table)
