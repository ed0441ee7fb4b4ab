"""`seqjax export-wandb`: replay a run into wandb."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "export-wandb",
        """
        seqjax export-wandb runs/lstm/lstm-2x128-0123456789
        seqjax export-wandb RUN --wandb offline
        """,
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--wandb", metavar="MODE", help="online or offline [WANDB_MODE; else online if a key is found, else offline]"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Replay and print the number of lines."""
    shared.no_more(rest)
    from seqjax.training.tracking import export

    lines = export(options.folder, options.wandb, lambda text: print(text, file=sys.stderr))
    print(f"{lines:,} lines of {options.folder / 'metrics.jsonl'} replayed into wandb")
    return 0
