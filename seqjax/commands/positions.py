"""`seqjax positions`: loss per token by position in the context, and the position where it stops falling."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import number, whole
from seqjax.errors import UserError


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "positions",
        "loss per token by position: the law E + A / T^alpha, the late gain, the plateau",
        """
        seqjax positions runs/first/lstm-1x27-9d3c4b8c1e runs/first/transformer-2x16-05a1d2f0aa --plot positions.png
        seqjax positions runs/first --late 16 64
        """,
    )
    parser.add_argument("places", type=Path, nargs="+", metavar="RUN|DIR", help="run folders, or sweep folders")
    parser.add_argument(
        "--late", type=whole(), nargs=2, metavar=("EARLY", "LATE"), help="[a tenth of the context, its end]"
    )
    parser.add_argument("--margin", type=number(), default=0.02, help="nats that count as no improvement [0.02]")
    parser.add_argument("--bootstrap", type=whole(0), default=500, metavar="R", help="refits for the intervals [500]")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves (png, svg, pdf)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print one line per run; draw the figure."""
    shared.no_more(rest)
    if options.plot:
        from seqjax.plots.fits import check_name

        check_name(options.plot)
    if not options.margin > 0 or options.bootstrap < 0:
        raise UserError("command line: --margin is above 0, and --bootstrap a count, 0 or more")
    from seqjax.laws.position import fit_position, late_gain, plateau

    curves = _curves(options.places)
    width = max(map(len, curves))
    print(f"{'run':<{width}}  {'E + A / T^alpha':<32}{'gain, nats (95 %)':<34}plateau (95 %)")
    fits, plateaus = {}, {}
    for name, (loss, error) in curves.items():
        early, late = options.late or (max(1, len(loss) // 10), len(loss))
        gain = late_gain(loss, error, early, late)
        plateaus[name] = found = plateau(loss, error, options.margin)
        law = "too few positions for a law"
        if len(loss) >= 16:
            fits[name] = fit_position(loss, error, bootstrap=options.bootstrap)
            c = fits[name].constants
            law = f"{c['E']:.3f} + {c['A']:.3f} / T^{c['alpha']:.3f}"
        gained = f"{early} to {late}: {gain.nats:.3f} ({gain.low:.3f} to {gain.high:.3f})"
        where = "none: falls to the end"
        if found.position is not None:
            high = "end" if found.high == float("inf") else f"{found.high:.0f}"
            where = f"from {found.position:.0f} on ({found.low:.0f} to {high})"
        print(f"{name:<{width}}  {law:<32}{gained:<34}{where}", flush=True)
    if options.plot:
        from seqjax.plots.fits import draw_positions

        shared.write_figure(draw_positions(curves, fits, plateaus), options.plot)
    return 0


def _curves(places: list[Path]) -> dict[str, tuple[list[float], list[float]]]:
    """Losses by position and their errors of every finished run, by readable name."""
    import pandas as pd

    from seqjax.laws.comparable import differences
    from seqjax.runs import read_result
    from seqjax.sweeps.folder import read_plan, run_folders, state_to_show
    from seqjax.sweeps.table import row_of

    found, rows = {}, []
    for folder in (folder for place in places for folder in run_folders(place)):
        if (state := state_to_show(folder)).name == "damaged":
            print(f"note: left out: {state.reason}", file=sys.stderr)
            continue
        validation = (read_result(folder) or {}).get("validation") or {}
        if "by_position" in validation:
            if None in validation["by_position_se"]:
                raise UserError(f"{folder}: evaluated on one window, its losses have no standard error")
            rows.append(row_of(folder))
            name = read_plan(folder).get("label", folder.name)
            found[name if name not in found else folder.name] = (
                validation["by_position"],
                validation["by_position_se"],
            )
    if not found:
        raise UserError(f"{places[0]}: has no finished run with losses by position")
    for column, values in differences(pd.DataFrame(rows)).items():
        print(f"note: losses that cannot be compared: {column} is {', '.join(values)}", file=sys.stderr)
    return found
