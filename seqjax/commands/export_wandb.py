"""`seqjax export-wandb`: replay a run, or all runs of a sweep, into wandb."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands.parsing import add_parser as shared_parser
from seqjax.commands.parsing import no_more
from seqjax.errors import UserError
from seqjax.host.streams import fitted, tell_note
from seqjax.host.wording import counted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared_parser(
        commands,
        "export-wandb",
        """
        seqjax export-wandb runs/lstm/lstm-2x128-0123456789
        seqjax export-wandb runs/first --wandb offline        # every run of the sweep that has begun
        """,
    )
    parser.add_argument("folder", type=Path, metavar="RUN|DIR", help="a run folder, or a sweep folder")
    parser.add_argument(
        "--wandb", metavar="MODE", help="online or offline [WANDB_MODE; else online if a key is found, else offline]"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Replay; print the number of lines of each run, and how to upload them if wandb is offline."""
    no_more(rest)
    from seqjax.training.tracking import choose_mode, export, sync_command

    begun = begun_runs(options.folder)
    for folder in begun:
        lines = export(folder, options.wandb, lambda text: print(text, file=sys.stderr))
        print(fitted(f"{lines:,} lines of {folder / 'metrics.jsonl'} replayed into wandb", sys.stdout))
    if choose_mode(options.wandb) == "offline":
        print(f"wandb is offline; to upload:\n  {sync_command(begun[0], len(begun) > 1)}")
    return 0


def begun_runs(place: Path) -> list[Path]:
    """The folders of runs that have begun, of a run folder or a sweep folder; the others are told.

    Raises:
        UserError: no run has begun.
    """
    from seqjax.runs import has_begun
    from seqjax.sweeps.folder import run_folders

    found = run_folders(place)
    begun = [folder for folder in found if has_begun(folder)] if found != [place] else found
    if not begun:
        raise UserError(f"{place}: no run in it has begun")
    if left := len(found) - len(begun):
        tell_note(f"left out: {counted(left, 'run')} not begun")
    return begun
