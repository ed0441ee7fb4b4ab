"""Small files of a finished sweep for a comparison of families, to keep beside its figures.

runs.csv        the run table with every run, also diverged ones
search.json     the learning-rate curves
curves.json     run id -> training tokens and held-out loss, for the runs at the chosen rates
positions.npz   loss by position of these runs on the same tokens (`seqjax.comparison.measured`)
where.json      the sweep file, the command, hardware and versions of the run that ended last
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from seqjax import runs
from seqjax.comparison import measured as comparison
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.wording import quoted
from seqjax.laws.comparable import refuse_incomparable
from seqjax.laws.run_rows import at_best_rates
from seqjax.sweeps.folder import folders_by_id
from seqjax.sweeps.table import render
from seqjax.trained.by_position import read_positions
from seqjax.trained.chains import Chains

SAME_HORIZON = 1.2  # runs of one horizon have the same tokens within this factor: whole steps of other batches


def to_measure(table: pd.DataFrame) -> pd.DataFrame:
    """The runs for loss by position: finished, at the best rate, of the longest training, with batches of windows."""
    return longest(at_best_rates(table)).query("`data.batching` == 'windows'")


def longest(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with the most training tokens. Other horizons are for the map; tokens of one horizon differ a little."""
    return table[table["tokens"].astype(float) > table["tokens"].max() / SAME_HORIZON]


def collect(
    folder: Path, table: pd.DataFrame, target: Path, chains: Chains, characters_per_token: float, command: str
) -> None:
    """Write the files of one sweep into ``target``, each atomically.

    Args:
        table: the runs of the sweep, without other runs of its folder.
        command: the command that trained them, for the report.

    Raises:
        UserError: no finished run, a run without loss by position, or a folder that cannot be written.
    """
    chosen = to_measure(table)
    if chosen.empty:
        raise UserError(f"{folder}: no run has finished; `seqjax status {quoted(folder)}` tells how they stand")
    refuse_incomparable(chosen, source=str(folder))
    places = folders_by_id(folder)
    measured, curves = [], {}
    for _, row in chosen.iterrows():
        place = places[row["run_id"]]
        losses = read_positions(place, chains)
        if losses is None:
            raise UserError(f"{place}: its loss by position was not measured")
        measured.append(
            comparison.Measured(
                run_id=row["run_id"],
                family=row["model.family"],
                layers=int(row["model.n_layers"]),
                params=float(row["params_non_embedding"]),
                tokens=float(row["tokens"]),
                flops=float(row["flops_exact"]),
                context=int(row["train.context_length"]),
                seed=int(row["train.seed"]),
                loss_CxP=chains.binned(*losses),
                late_Cx2=chains.early_and_late(losses[0]),
            )
        )
        curves[row["run_id"]] = _curve(place)
    searched, where = _search(folder), {**_where(folder, table), "command": command}
    with disk.storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        disk.write_bytes_atomically(target / "runs.csv", render(table, "csv"))
        disk.write_json(target / "search.json", searched)
        disk.write_atomically(target / "curves.json", json.dumps(curves) + "\n")
        comparison.save(target / "positions.npz", measured, chains, characters_per_token)
        disk.write_json(target / "where.json", where)


def _curve(place: Path) -> tuple[list[float], list[float]]:
    """Tokens and held-out loss along training, all on the same windows."""
    points = [(r["tokens"], r["validation_loss"]) for r in runs.read_curve(place)]
    return [tokens for tokens, _ in points], [loss for _, loss in points]


def _search(folder: Path) -> Sequence[Any]:
    path = folder / "search.json"
    return disk.read_json(path, list) if path.is_file() else []


def _where(folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    """The contents of where.json, of the run that ended last."""
    last = table.dropna(subset=["ended"]).sort_values("ended")["run_id"].iloc[-1]
    result = runs.read_result(folders_by_id(folder)[last]) or {}
    return {
        "sweep": disk.read_json(folder / "sweep.json"),
        "hardware": result["hardware"],
        "versions": result["versions"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ended": result["ended"],
        "run_seconds": float(table["seconds"].astype(float).div(table["runs_in_program"].astype(float)).sum()),
    }
