"""`seqjax export-tensorboard`: the curves of a run, or of all runs of a sweep, as event files for TensorBoard."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands.export_wandb import begun_runs
from seqjax.commands.parsing import add_parser as shared_parser
from seqjax.commands.parsing import no_more
from seqjax.host.wording import counted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared_parser(
        commands,
        "export-tensorboard",
        """
        seqjax export-tensorboard runs/first           # again while it trains: TensorBoard goes on reading
        seqjax export-tensorboard runs/lstm/lstm-2x128-0123456789 --output events
        """,
    )
    parser.add_argument("folder", type=Path, metavar="RUN|DIR", help="a run folder, or a sweep folder")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("tensorboard"), help="[tensorboard]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write the files, and print the command that shows them."""
    no_more(rest)
    from seqjax.host.disk import storage_errors, write_bytes_atomically
    from seqjax.host.tensorboard import NAME, event_file

    begun = begun_runs(options.folder)
    for folder in begun:
        place = options.output / folder.resolve().parent.name / folder.name
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(place / NAME, event_file(*_curves(folder)))
    print(f"{counted(len(begun), 'run')} written; to see them:\n  tensorboard --logdir {options.output}")
    return 0


def _curves(folder: Path) -> tuple[float, list[tuple[int, float, dict[str, float]]]]:
    """When the run was planned, and the numbers of each line of its metrics.jsonl, with step and time."""
    from seqjax import runs

    began = (folder / "config.json").stat().st_mtime
    found = []
    for record in runs.read_metrics(folder):
        numbers = {name: float(value) for name, value in record.items() if name != "step" and runs.is_number(value)}
        found.append((record["step"], began + numbers.get("seconds", 0.0), numbers))
    return began, found
