"""The files of a comparison (:mod:`seqjax.comparison.collect`) in memory, and in words what was measured where."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from seqjax.comparison import measured as comparison
from seqjax.comparison.collect import longest
from seqjax.errors import UserError
from seqjax.families import parts_of
from seqjax.host.wording import counted, duration, si, with_and
from seqjax.laws.run_rows import at_best_rates


@dataclass(frozen=True)
class Material:
    """The contents of the files of one comparison.

    Attributes:
        table: all runs; horizons: those at their best rates, with the context of the comparison; chosen: those of the
            longest training among them.
    """

    table: pd.DataFrame
    horizons: pd.DataFrame
    chosen: pd.DataFrame
    comparison: comparison.Comparison
    curves: dict[str, Any]
    search: list[dict[str, Any]]
    where: dict[str, Any]


def read_material(folder: Path, draws: int = 2000) -> Material:
    """Read the files of :func:`seqjax.comparison.collect.collect`.

    Raises:
        UserError: a file is missing or damaged.
    """
    from seqjax.sweeps.table import read_table

    try:
        curves, search, where = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("curves.json", "search.json", "where.json")
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: is not a folder of collected results: {error}") from None
    table = read_table(folder / "runs.csv")
    of_runs, chains, characters = comparison.load(folder / "positions.npz")
    forms = {row["run_id"]: parts_of(row["kind"])[1] for _, row in table.iterrows()}
    of_runs = [dataclasses.replace(run, form=forms.get(run.run_id, "")) for run in of_runs]
    found = comparison.compare(of_runs, chains, characters, draws)
    best = at_best_rates(table)
    main = best[(best["train.context_length"] == chains.context) & (best["data.batching"] == "windows")]
    return Material(table, main, longest(main).reset_index(drop=True), found, curves, search, where)


def corpus_of(m: Material) -> str:
    """The text, tokenizer, context and tokens."""
    first = m.chosen.iloc[0]
    budgets = sorted({float(f"{tokens:.2g}") for tokens in m.chosen["tokens"].astype(float)})
    spent = with_and([si(budget).strip() for budget in budgets])
    return (
        f"corpus '{first['data.corpus']}', tokenizer {first['data.tokenizer']} "
        f"({m.comparison.characters_per_token:.2f} characters a token), context {m.comparison.chains.context} tokens, "
        f"{spent} training tokens a run, zero state in every window"
    )


def machine_of(m: Material) -> str:
    """The devices and the processor."""
    hardware, cores = m.where["hardware"], m.where["cores"]
    on = "" if hardware["platform"] == "cpu" else f"{hardware['devices']} x {hardware['device']}, "
    return f"{on}{hardware['processor']}, {cores} core{'s' * (cores != 1)}"


def made_where(m: Material) -> str:
    """The machine, versions and date."""
    versions = m.where["versions"]
    return f"{machine_of(m)}; jax {versions['jax']}, seqjax {versions['seqjax']}; {m.where['ended'][:10]}"


def made_how(m: Material) -> str:
    """The time of all runs, and how losses by position were measured."""
    chains = m.comparison.chains
    return (
        f"{counted(len(m.table), 'run')} took {duration(m.where['run_seconds'])} of workers' time in all. "
        f"Loss by position: {chains.chains} chains of {chains.windows} windows of the validation split, "
        f"{chains.stride} tokens apart; "
        f"the first {chains.short} positions are measured on more and shorter windows of the same chains."
    )
