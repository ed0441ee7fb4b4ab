"""What experiments that are one sweep and one analysis share: options, the sweep, the record."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from seqjax.cli import main as seqjax
from seqjax.errors import UserError
from seqjax.report.style import save
from seqjax.runs import read_result, storage_errors, write_json
from seqjax.sweeps.table import gather

ROOT = Path(__file__).resolve().parent.parent
Analysis = Callable[[pd.DataFrame, Path], tuple[dict[str, Any], dict[str, Any]]]
"""(run table, sweep folder) -> (what was found, figures by name)."""


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
    words = ["sweep", str(ROOT / "configs" / "sweeps" / f"{sweep}.yaml"), "--runs", str(options.runs), *rest]
    try:
        code = seqjax([*words, "--dry-run"] if options.dry_run else words)
        if code or options.dry_run:
            return code
        folder = options.runs / sweep
        found, figures = analyse(gather([folder]), folder)
        write(ROOT / "experiments" / "results" / name if options.record else options.report, folder, found, figures)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write(target: Path, folder: Path, found: dict[str, Any], figures: dict[str, Any]) -> None:
    """Figures as SVG and PNG, and what was found with hardware, versions and date."""
    results = [result for place in sorted(folder.iterdir()) if (result := read_result(place)) is not None]
    last = max(results, key=lambda result: result["ended"])
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save(figure, target / f"{name}.svg")
            save(figure, target / f"{name}.png")
        about = {"runs": len(results), "hardware": last["hardware"], "versions": last["versions"]}
        write_json(target / "results.json", {**found, **about, "date": time.strftime("%Y-%m-%d", time.gmtime())})
    print(f"figures and results.json: {target}")


def constants(fit: Any) -> dict[str, Any]:
    """Constants and intervals of a fit, for results.json; None where a bound is infinite."""
    finite = lambda x: float(x) if abs(x) < 1e300 else None  # noqa: E731
    return {
        "law": fit.law.equation,
        "points": len(fit.points),
        "constants": {name: finite(value) for name, value in fit.constants.items()},
        "intervals": {name: [finite(low), finite(high)] for name, (low, high) in fit.intervals.items()},
        "flags": list(fit.flags),
    }
