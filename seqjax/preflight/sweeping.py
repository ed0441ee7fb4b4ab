"""The runs of a sweep on a target: those that share a program are compiled once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from seqjax.config import run_id
from seqjax.errors import UserError
from seqjax.host.streams import fitted, is_terminal, tell
from seqjax.preflight.accelerators import Target, target_named
from seqjax.preflight.as_text import Row, table
from seqjax.preflight.needs import check, program_of
from seqjax.sweeps.grid import Planned


def rows_of(planned: Sequence[Planned], target: Target) -> list[Row]:
    """The checks of runs; on a terminal each is told before it is made."""
    groups: dict[str, list[Planned]] = {}
    for one in planned:
        groups.setdefault(program_of(one.config), []).append(one)
    rows = []
    for number, members in enumerate(groups.values(), start=1):
        config = members[0].config
        if is_terminal(sys.stderr):
            tell(f"compiling {number} of {len(groups)} for {target.name}: {run_id(config).rpartition('-')[0]}\n")
        steps = sum(one.config.train.steps - one.shared for one in members)
        rows.append(Row(check(config, target), len(members), steps))
    return rows


def refuse_misfits(planned: Sequence[Planned], name: str) -> None:
    """Print the table of runs, before any of them is started.

    Raises:
        UserError: one does not fit.
    """
    rows = rows_of(planned, target_named(name, "command line: --preflight"))
    if not rows:
        return
    print(fitted(table(rows), sys.stdout), flush=True)
    if misfits := sum(not row.found.fits for row in rows):
        raise UserError(f"--preflight {name}: {misfits} programs do not fit (! above); nothing was started")
