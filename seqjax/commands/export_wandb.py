"""`seqjax export-wandb`: replay a run, or all runs of a sweep, into wandb."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.errors import UserError
from seqjax.host.streams import fitted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
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
    shared.no_more(rest)
    from seqjax.sweeps.folder import has_begun, run_folders
    from seqjax.training.tracking import choose_mode, export, sync_command

    found = run_folders(options.folder)
    begun = [folder for folder in found if has_begun(folder)] if found != [options.folder] else found
    if not begun:
        raise UserError(f"{options.folder}: no run in it has begun")
    for folder in begun:
        lines = export(folder, options.wandb, lambda text: print(text, file=sys.stderr))
        print(fitted(f"{lines:,} lines of {folder / 'metrics.jsonl'} replayed into wandb", sys.stdout))
    if left := len(found) - len(begun):
        print(f"note: left out: {left} run(s) that have not begun", file=sys.stderr)
    if choose_mode(options.wandb) == "offline":
        print("wandb is offline; to upload:\n" + "\n".join(f"  {sync_command(folder)}" for folder in begun))
    return 0
