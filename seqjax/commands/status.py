"""`seqjax status`: the states of the runs of a sweep."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from seqjax.commands.parsing import add_parser as shared_parser
from seqjax.commands.parsing import no_more
from seqjax.errors import UserError
from seqjax.host.streams import fitted, is_terminal

EVERY = 2.0  # seconds between two looks of --watch


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared_parser(
        commands,
        "status",
        """
        seqjax status runs
        seqjax status runs/first --watch
        seqjax status runs/first --json
        """,
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="a sweep folder, one run folder, or a folder of sweeps"
    )
    parser.add_argument("--watch", action="store_true", help="show it again every few seconds, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print JSON, one entry per run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the states."""
    no_more(rest)
    if options.watch:
        if options.json or not is_terminal(sys.stdout):
            raise UserError("command line: --watch: is for a terminal, and not with --json")
        _watch(options.folder)
    print(_json(options.folder) if options.json else _text(options.folder))
    return 0


def _watch(place: Path) -> NoReturn:
    """Show the states until Ctrl-C, no more lines than the terminal has."""
    try:
        while True:
            text = shortened(_text(place), shutil.get_terminal_size().lines - 3)
            print(f"\x1b[H\x1b[J{text}\n\n{time.strftime('%H:%M:%S')}  Ctrl-C ends", flush=True)
            time.sleep(EVERY)
    finally:
        print()  # below the ^C that the terminal shows


def shortened(text: str, most: int) -> str:
    """The first lines of a text, the last of them saying how many more there are."""
    lines = text.split("\n")
    if len(lines) <= most:
        return text
    kept = lines[: max(1, most - 1)]
    return "\n".join([*kept, f"and {len(lines) - len(kept)} more lines"])


def _text(place: Path) -> str:
    """The states of a sweep, or a line for each sweep in the folder."""
    from seqjax.sweeps.aligned import describe_states
    from seqjax.sweeps.overview import best_losses, describe, overview, sweep_folders

    if (found := sweep_folders(place)) and found != [place]:
        width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else math.inf
        return fitted(describe([overview(folder) for folder in found], width), sys.stdout)
    lines = [describe_states(_states(place), _queued(place))]
    if found and (best := best_losses(overview(place))):
        lines.append(f"best loss: {best}")
    return fitted("\n".join(lines), sys.stdout)


def _json(place: Path) -> str:
    """A list of runs; of a folder of sweeps, of the runs of all, each with its sweep."""
    from seqjax.sweeps.overview import sweep_folders

    entries = []
    for folder in sweep_folders(place) or [place]:
        queued, of_many = _queued(folder), {"sweep": folder.name} if folder != place else {}
        entries += [of_many | vars(state) | {"slurm": queued.get(state.run_id)} for state in _states(folder)]
    return json.dumps(entries, indent=2)


def _queued(folder: Path) -> dict[str, str]:
    """Run id -> its Slurm job, for a sweep that was submitted to Slurm; only then is the launcher imported."""
    if not (folder / "slurm").is_dir():
        return {}
    from seqjax.sweeps.launch.jobs import in_queue

    return in_queue(folder)


def _states(folder: Path) -> list[Any]:
    from seqjax.sweeps import folder as folders

    return [folders.state_to_show(run_folder) for run_folder in folders.run_folders(folder)]
