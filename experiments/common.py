"""What experiments share: a sweep trained to its end and read, the record of it, mistakes told in one line."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from seqjax.cli import main as seqjax
from seqjax.commands.options import config_options, split_config_options
from seqjax.commands.sweep import FAILED
from seqjax.errors import UserError
from seqjax.host.disk import storage_errors, write_json
from seqjax.laws.files import to_dict
from seqjax.laws.fitting import Fit
from seqjax.plots.style import save
from seqjax.runs import read_result
from seqjax.sweeps.folder import state
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.search import search
from seqjax.sweeps.sweep import results_of
from seqjax.sweeps.table import gather
from seqjax.training.hardware import describe_hardware, describe_versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
Analysis = Callable[[pd.DataFrame, Path], tuple[dict[str, Any], dict[str, Any]]]
"""(run table, sweep folder) -> (what was found, figures by name)."""


def sweep_table(path: Path, runs: Path, options: Sequence[str] = ()) -> tuple[int, pd.DataFrame | None]:
    """Train a sweep file, or go on with it: the exit code, and the table of its runs once all of them have ended.

    Runs in the folder that this sweep does not have (of an older version of its file, say) are left out. Runs that
    were given up are in the table, and the code says so.

    Raises:
        UserError: as the sweep; or it has left runs to others that have not ended.
    """
    code = seqjax(["sweep", str(path), "--runs", str(runs), *options])
    if code not in (0, FAILED):
        return code, None
    folder = runs / path.stem
    sweep = read_sweep(path, config_options(split_config_options(list(options))[1]))
    planned, curves = search(sweep, results_of(folder))
    states = {run.run_id: state(folder / run.run_id).name for run in planned}
    if left := [run_id for run_id, name in states.items() if name not in ("finished", "diverged", "failed")]:
        raise UserError(f"{folder}: {len(left)} runs have not ended, such as {left[0]}; see seqjax status {folder}")
    if code == 0 and not all(curve.settled for curve in curves):
        raise UserError(f"{folder}: the search of learning rates has not ended; start the same command again")
    table = gather([folder])
    return code, table[table["run_id"].isin(states)].reset_index(drop=True)


def writable(target: Path) -> Path:
    """The folder, made and tried: what cannot be written is told before hours of training.

    Raises:
        UserError: it cannot be made, or no file be written in it.
    """
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target) as file:
            file.write(b"tried")
            file.flush()
    return target


def surroundings() -> dict[str, Any]:
    """Where and when: hardware, versions and date, for results.json."""
    return {
        "hardware": describe_hardware(),
        "versions": describe_versions(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def run(name: str, sweep: str, doc: str, analyse: Analysis) -> int:
    """Train a sweep of configs/sweeps/, or go on with it, analyse it, and write figures and results.json.

    With ``--record`` they go to experiments/results/NAME, else to report/NAME.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the predicted time, and stop")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="parent of the sweep folder [runs]")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / name, help=f"for the figures [report/{name}]")
    parser.add_argument("--record", action="store_true", help=f"write to experiments/results/{name} instead")
    options, rest = parser.parse_known_args()
    sweep_file = ROOT / "configs" / "sweeps" / f"{sweep}.yaml"
    if options.dry_run:
        return seqjax(["sweep", str(sweep_file), "--runs", str(options.runs), *rest, "--dry-run"])
    target = writable(RESULTS / name if options.record else options.report)
    code, table = sweep_table(sweep_file, options.runs, rest)
    if table is None:
        return code
    found, figures = analyse(table, options.runs / sweep)
    write(target, table, options.runs / sweep, found, figures)
    return code


def write(target: Path, table: pd.DataFrame, folder: Path, found: dict[str, Any], figures: dict[str, Any]) -> None:
    """Figures as SVG and PNG, and what was found with hardware, versions and date."""
    ended = table.dropna(subset=["ended"]).sort_values("ended")
    last = read_result(folder / ended["run_id"].iloc[-1])
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save(figure, target / f"{name}.svg")
            save(figure, target / f"{name}.png")
        about = {"runs": len(ended), "hardware": last["hardware"], "versions": last["versions"]}
        write_json(target / "results.json", {**found, **about, "date": time.strftime("%Y-%m-%d", time.gmtime())})
    print(f"figures and results.json: {target}")


def constants(fit: Fit) -> dict[str, Any]:
    """What results.json keeps of a fit."""
    saved = to_dict(fit)
    return {key: saved[key] for key in ("law", "equation", "n_rows", "params", "intervals", "flags")}
