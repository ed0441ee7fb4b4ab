"""`seqjax fit`: a scaling law through a table of runs, with intervals and every reason to doubt it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.errors import UserError, did_you_mean

VARIABLES = ("params", "tokens", "loss", "flops", "steps", "position", "unique_tokens")
SHORT = {"family": "model.family", "layers": "model.n_layers", "corpus": "data.corpus"}


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "fit",
        "fit a scaling law to a table of runs, yours or a published one",
        """
        seqjax fit runs/isoflop --law chinchilla
        seqjax fit runs/first --law kaplan-n --by family --plot laws.png
        seqjax fit table.csv --law chinchilla --params 'Model Size' --flops 'Training FLOP' --loss loss \\
            --drop-highest 5 --json fit.json
        seqjax fit runs/first --law offset-c --flops exact --where '`model.n_layers` > 1' --checklist
        seqjax fit --laws
        """,
    )
    parser.add_argument("places", type=Path, nargs="*", metavar="TABLE|DIR", help="CSV, parquet, or sweep folders")
    parser.add_argument("--law", metavar="LAW", help="[chinchilla]; --laws lists them", default="chinchilla")
    parser.add_argument("--laws", action="store_true", help="list the laws")
    columns = parser.add_argument_group(
        "columns (of a run table: also non-embedding, with-readout, total; kaplan, exact)"
    )
    for name in VARIABLES:
        columns.add_argument(f"--{name.replace('_', '-')}", metavar="COLUMN")
    columns.add_argument("--cluster", metavar="COLUMN", help="what is resampled together [rows with equal variables]")
    columns.add_argument("--by", metavar="COLUMN", help="one fit for each value of it, such as family")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--where", metavar="EXPRESSION", help="keep the rows for which it is true")
    rows.add_argument("--drop-highest", type=int, default=0, metavar="K", help="leave out the K highest losses [0]")
    rows.add_argument("--frontier", action="store_true", help="keep runs that no run with less compute beats")
    how = parser.add_argument_group("fitting")
    how.add_argument("--objective", choices=("huber", "lad", "least-squares"), default="huber", help="of log L [huber]")
    how.add_argument("--delta", type=float, help="of Huber, in log L [1e-3]")
    how.add_argument("--bootstrap", type=int, default=1000, metavar="R", help="refits for the intervals [1000]")
    how.add_argument("--seed", type=int, default=0, help="of the resampling [0]")
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE", help="write the fit(s): for seqjax predict and optimal")
    out.add_argument("--plot", type=Path, metavar="FILE", help="draw points, law and residuals (png, svg, pdf)")
    out.add_argument("--checklist", action="store_true", help="print the checklist of Li et al. 2025, filled in")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Read, fit, print, write."""
    shared.no_more(rest)
    from seqjax.scaling.laws import LAWS, law_named

    if options.laws:
        width = max(map(len, LAWS))
        print("\n".join(f"{law.name:<{width}}  {law.equation}\n{'':<{width}}  {law.source}" for law in LAWS.values()))
        return 0
    if not options.places:
        raise UserError("command line: expected a TABLE or DIR, such as runs/first or table.csv")
    if options.bootstrap < 0 or options.drop_highest < 0:
        raise UserError("command line: --bootstrap and --drop-highest are counts, 0 or more")
    law = law_named(options.law)
    if options.plot is not None:
        from seqjax.report.figures import check_name

        check_name(options.plot)
    from seqjax.scaling.files import write_fits
    from seqjax.scaling.fitting import fit
    from seqjax.scaling.summary import checklist, describe

    fits = {}
    for group, table in _groups(_read(options.places), options.by).items():
        points = _points(table, options, law.variables, options.places[0])
        if group:
            print(f"== {options.by} {group}")
        fits[group] = fit(
            points,
            law,
            objective=options.objective,
            delta=options.delta,
            bootstrap=options.bootstrap,
            seed=options.seed,
        )
        print(describe(fits[group]))
        if options.checklist:
            print(f"\n{checklist(fits[group])}")
        print(flush=True)
    if options.json:
        write_fits(options.json, fits)
        print(f"wrote {options.json}", file=sys.stderr)
    if options.plot:
        from seqjax.report.figures import draw_fits, save

        save(draw_fits(fits), options.plot)
        print(f"wrote {options.plot}", file=sys.stderr)
    return 0


def _points(table: Any, options: argparse.Namespace, needs: tuple[str, ...], source: Path) -> Any:
    from seqjax.scaling.families import frontier
    from seqjax.scaling.points import read_points

    columns = {name: getattr(options, name) for name in VARIABLES if getattr(options, name) is not None}
    points = read_points(
        table,
        columns,
        (*needs, "flops") if options.frontier else needs,
        where=options.where,
        drop_highest=options.drop_highest,
        cluster=options.cluster,
        source=str(source),
    )
    return frontier(points) if options.frontier else points


def _read(places: list[Path]) -> Any:
    """The run table of sweep folders, or any table in a file."""
    import pandas as pd

    if any(place.is_dir() for place in places):
        from seqjax.sweeps.table import gather

        return gather(places)
    parts = []
    for place in places:
        readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
        if place.suffix not in readers:
            raise UserError(f"{place}: expected a sweep folder, or a table whose name ends in .csv or .parquet")
        try:
            parts.append(readers[place.suffix](place))
        except FileNotFoundError:
            raise UserError(f"{place}: there is no such table") from None
        except ImportError:
            raise UserError(f"{place}: reading parquet needs pyarrow: pip install 'seqjax[parquet]'") from None
        except (ValueError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{place}: cannot be read as a table: {reason}") from None
    return pd.concat(parts, ignore_index=True)


def _groups(table: Any, by: str | None) -> dict[str, Any]:
    if by is None:
        return {"": table}
    column = by if by in table.columns else SHORT.get(by, by)
    if column not in table.columns:
        near = did_you_mean(by, [*map(str, table.columns), *SHORT])
        raise UserError(f"--by {by}: there is no such column{near}")
    return {str(value): rows for value, rows in table.groupby(column, sort=True)}
