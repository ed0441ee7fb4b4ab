"""`seqjax status`: the states of the runs of a sweep."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "status",
        """
        seqjax status runs/first
        seqjax status runs/first --json
        """,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a sweep folder, or one run folder")
    parser.add_argument("--json", action="store_true", help="print JSON, one entry per run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the states."""
    shared.no_more(rest)
    from seqjax.sweeps import folder as folders
    from seqjax.sweeps.launch.jobs import in_queue
    from seqjax.sweeps.printed import describe_states

    states = [folders.state_to_show(run_folder) for run_folder in folders.run_folders(options.folder)]
    queued = in_queue(options.folder)
    if options.json:
        entries = [{**vars(state), "slurm": queued.get(state.run_id)} for state in states]
        print(json.dumps(entries, indent=2))
        return 0
    print(describe_states(states, queued))
    return 0
