"""Aligned tables, and the states of runs, as text. Nothing here needs JAX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from seqjax.host.wording import counted
from seqjax.sweeps.folder import STATES, State


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table: the first ``left`` columns left-aligned, the others right-aligned; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def aligned_within(
    rows: Sequence[Sequence[str]], width: float, first_out: Sequence[str], left: int = 1
) -> tuple[str, list[str]]:
    """`aligned` without as many of the columns ``first_out`` (headings, in this order) as do not fit; and those."""
    for count in range(len(first_out) + 1):
        out = first_out[:count]
        kept = [i for i, heading in enumerate(rows[0]) if heading not in out]
        text = aligned([[row[i] for i in kept] for row in rows], sum(i < left for i in kept))
        if max(map(len, text.split("\n"))) <= width:
            break
    return text, list(out)


def describe_states(states: Sequence[State], queued: Mapping[str, str] | None = None) -> str:
    """Counts, then a line for every run that is not finished and has begun, is queued, or has failed.

    Args:
        queued: run id -> id and state of its Slurm job.
    """
    queued = queued or {}
    counts = Counter(state.name for state in states)
    of_each = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    lines = [f"{counted(len(states), 'run')}: {of_each}"]
    for state in sorted(states, key=lambda state: STATES.index(state.name)):
        job = queued.get(state.run_id)
        if state.name in ("finished", "imported", "planned") and job is None:
            continue
        place = f"  [Slurm {job}]" if job else ""
        lines.append(f"  {state.name:<9} {state.run_id}  step {state.step:,} of {state.steps:,}  {state.label}{place}")
        if state.name == "damaged":
            lines.append(f"            {state.reason}")
        elif state.reason and state.name != "diverged":
            times = "once" if state.failures == 1 else f"{state.failures} times"
            lines.append(f"            died {times}, last: {state.reason}")
    return "\n".join(lines)
