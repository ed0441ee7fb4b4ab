"""A folder of sweeps at a glance: runs by state, the best loss of each family, rate and time left of what runs."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqjax import runs
from seqjax.errors import UserError
from seqjax.host.wording import duration, si
from seqjax.sweeps import folder as folders
from seqjax.sweeps.aligned import aligned
from seqjax.sweeps.columns import data_of, incomparable


@dataclass(frozen=True)
class Overview:
    """A sweep, or the runs of one config, in one folder.

    Attributes:
        name: of the folder; counts: runs by state.
        best: family -> the lowest held-out loss of its finished runs; empty if these cannot be compared.
        differ: the columns in which they differ then.
        rate: tokens per second of the runs that are training, together; None if none is.
        left: seconds until the last of them ends; None if none is training, or has shown its rate.
    """

    name: str
    counts: Counter[str]
    best: dict[str, float]
    rate: float | None = None
    left: float | None = None
    differ: tuple[str, ...] = ()


def sweep_folders(place: Path) -> list[Path]:
    """The folders with run folders, up to two levels down, sorted; a run folder itself; empty if there is none."""
    found = runs.runs_in(place, 3)
    return found if found == [place] else sorted({run.parent for run in found})


def overview(folder: Path) -> Overview:
    """The state of the runs in one sweep folder, from their folders alone."""
    counts: Counter[str] = Counter()
    best: dict[str, float] = {}
    rates: list[float] = []
    left: list[float] = []
    data: list[dict[str, Any]] = []
    for run_folder in folders.run_folders(folder):
        state = folders.state_to_show(run_folder)
        counts[state.name] += 1
        result = runs.read_result(run_folder) if state.name == "finished" else None
        if result and (loss := _loss(result)) is not None:
            family, _ = runs.read_facts(run_folder)
            best[family] = min(loss, best.get(family, loss))
            data.append(data_of(run_folder, result))
        elif state.name == "running" and (pace := _pace(run_folder)) is not None:
            rates.append(pace[0])
            left.append((state.steps - state.step) * pace[1])
    differ = incomparable(data)
    rate = sum(rates) if rates else None
    return Overview(folder.name, counts, {} if differ else best, rate, max(left, default=None), differ)


def _loss(result: Mapping[str, Any]) -> float | None:
    found = (result.get("validation") or {}).get("loss")
    return float(found) if runs.is_number(found) else None


def _pace(run_folder: Path) -> tuple[float, float] | None:
    """Tokens per second, and seconds per step, by the last line of the training curve; None before the first."""
    try:
        last: dict[str, Any] = [line for line in runs.read_metrics(run_folder) if line.get("seconds")][-1]
        return last["tokens"] / last["seconds"], last["seconds"] / last["step"]
    except (UserError, IndexError, KeyError, ZeroDivisionError):
        return None


def describe(found: Sequence[Overview], width: float) -> str:
    """A line for each sweep; where that is wider than ``width``, the best losses stand on lines of their own below."""
    heading = ("sweep", "runs", "done", "running", "other", "best loss", "rate", "left")
    rows = [heading, *map(_cells, found)]
    text = aligned(rows)
    if max(map(len, text.split("\n"))) <= width:
        return text
    at = heading.index("best loss")
    first, *lines = aligned([row[:at] + row[at + 1 :] for row in rows]).split("\n")
    below = [textwrap.indent(textwrap.fill(f"best loss: {row[at]}", int(width) - 4), "    ") for row in rows[1:]]
    return "\n".join([first, *(f"{line}\n{losses}" for line, losses in zip(lines, below, strict=True))])


def best_losses(one: Overview) -> str:
    """The lowest loss of each family in words; "" while none has finished."""
    several = f"(several {', '.join(one.differ)})" if one.differ else ""
    return ", ".join(f"{family} {loss:.3f}" for family, loss in sorted(one.best.items())) or several


def _cells(one: Overview) -> tuple[str, ...]:
    others = [
        f"{one.counts[name]} {name}" for name in folders.STATES[4:] + ("diverged", "imported") if one.counts[name]
    ]
    return (
        one.name,
        str(one.counts.total()),
        str(one.counts["finished"]),
        str(one.counts["running"] or "-"),
        ", ".join(others) or "-",
        best_losses(one) or "-",
        f"{si(one.rate)}/s" if one.rate else "-",
        duration(one.left) if one.left is not None else "-",
    )
