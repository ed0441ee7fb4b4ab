"""Checkpoints of one run share its noise: its seed, its order of data, its learning rate. Here they are recognised.

A column tells (:data:`RUN_COLUMNS`): rows of one value and of several D are of one run. Without one, the residuals of a
fit tell: those of equal N, in the order of D, follow each other, with the correlation

    rho = sum r_i r_i+1 / sqrt(sum r_i^2  sum r_i+1^2)    over neighbours i, i + 1 of equal N

Where noise is independent, rho has a standard deviation of 1 / sqrt(pairs). A law that misses the points in a like
manner at every D leaves such residuals too; there the points of one N do not count as many either.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

RUN_COLUMNS = ("trunk", "run_id", "run", "run_name")
LEAST_RUNS, LEAST_ROWS = 3, 3  # runs of as many rows each, for residuals to tell
FOLLOWS, SURE = 0.25, 4.0  # least rho, and least rho in its standard deviations


def runs_of_rows(table: pd.DataFrame, values: Mapping[str, np.ndarray]) -> tuple[pd.Series, str] | None:
    """The run of each row and the column that tells it, if several rows of one run differ in D, C or steps."""
    for name in RUN_COLUMNS:
        if name not in table.columns or not table[name].duplicated(keep=False)[table[name].notna()].any():
            continue
        alone = pd.Series([f"row {place}" for place in range(len(table))], index=table.index)
        labels = table[name].astype("string").fillna(alone)
        along = [pd.Series(values[v], index=table.index) for v in ("tokens", "flops", "steps") if v in values]
        if any((column.groupby(labels).nunique() > 1).any() for column in along):
            return labels, name
    return None


def followed(params: np.ndarray, tokens: np.ndarray, residuals: np.ndarray) -> float:
    """rho of the residuals where they tell checkpoints of one run from independent runs, else 0. All arrays [n]."""
    order = np.lexsort((tokens, params))
    r, n, d = residuals[order], params[order], tokens[order]
    rows = np.array([len(np.unique(d[n == size])) for size in np.unique(n)])
    if (rows >= LEAST_ROWS).sum() < LEAST_RUNS:
        return 0.0
    pairs = (n[1:] == n[:-1]) & (d[1:] > d[:-1])
    before, after = r[:-1][pairs], r[1:][pairs]
    size = np.sqrt((before**2).sum() * (after**2).sum())
    rho = float((before * after).sum() / size) if size > 0 else 0.0
    return rho if rho >= FOLLOWS and rho * np.sqrt(pairs.sum()) >= SURE else 0.0


def note_of(rho: float) -> str:
    """What is said where points of one N are taken together."""
    return (
        "points of one N count as checkpoints of one run: their residuals follow each other in D (correlation "
        f"{rho:.2f}); if they are runs of their own, name a column with another value in each row: --cluster COLUMN"
    )
