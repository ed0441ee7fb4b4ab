"""Which runs of a table share their noise."""

from __future__ import annotations

import pandas as pd

SEEDS = ("train.seed", "seed")
TRUNK = "trunk"


def clusters_of(table: pd.DataFrame, params: str | None = None) -> pd.Series:
    """Which rows share their noise: branches of a trunk, else runs of one size and seed, else each run alone.

    Args:
        params: the column of sizes, where the user named one.
    """
    rows = pd.Series([f"row {i}" for i in range(len(table))], index=table.index, dtype="string", name="cluster")
    if TRUNK in table.columns and table[TRUNK].notna().any():
        return table[TRUNK].astype("string").fillna(rows)
    seed = next((name for name in SEEDS if name in table.columns and table[name].nunique() > 1), None)
    if seed is None:
        return rows
    sizes = next((name for name in (params, "params_non_embedding", "params") if name in table.columns), None)
    if sizes is None:
        return rows
    named = table[sizes].astype("string") + " seed " + table[seed].astype("string")
    return named.fillna(rows)
