"""`seqjax frontier`: the best size for each compute, from IsoFLOP profiles or from the envelope of training curves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.commands import tables
from seqjax.config.plain import number
from seqjax.errors import UserError
from seqjax.host.streams import fitted
from seqjax.host.wording import amount, power, si


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "frontier",
        """
        seqjax frontier runs/isoflop --by family --plot isoflop.png
        seqjax frontier table.csv --params 'Model Size' --flops 'Training FLOP' --where 'kind == "isoflop"'
        seqjax frontier runs/first --envelope --by family
        seqjax frontier checkpoints.csv --envelope --params N --tokens D --loss loss
        """,
    )
    tables.add_options(parser)
    parser.add_argument(
        "--envelope",
        action="store_true",
        help="approach 1: from the validation curves of run folders, or a table of checkpoints",
    )
    parser.add_argument(
        "--window",
        type=number(above=1),
        metavar="FACTOR",
        help="fit parabolas to the sizes within this factor of the best, where sizes span more than its square [4]",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the profiles (png, svg, pdf); a file a group")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the profiles, their minima, and the power laws through them."""
    shared.no_more(rest)
    tables.check(options)
    if options.envelope and options.window:
        raise UserError("command line: --window is of IsoFLOP profiles: leave --envelope or --window out")
    if options.plot:
        from seqjax.plots.fits import check_name

        check_name(options.plot)
    tables.apart_by_family(options)
    groups = tables.points_by_group(options, ("params", "tokens", "flops"))
    plot = options.plot
    for group, points in groups.items():
        name = f"{options.by} {group}" if group else ""
        notes = [f"  note: {note}" for note in points.notes]
        print(fitted("\n".join([name or "all runs", *notes]), sys.stdout), flush=True)
        if plot and len(groups) > 1:
            options.plot = shared.beside(plot, group)
        with tables.apart(options, group):
            (_print_envelope if options.envelope else _print_isoflops)(points, name, options)
    return tables.exit_code(options)


def _print_isoflops(points: Any, name: str, options: argparse.Namespace) -> None:
    import numpy as np

    from seqjax.laws.isoflop import WINDOW, isoflops

    try:
        found = isoflops(points, options.bootstrap, options.seed, options.window or WINDOW)
    except UserError as error:
        raise UserError(f"{error}; --envelope takes the points as training curves instead") from None
    print(f"  {'C':>11}{'sizes':>7}{'best N':>11}{'Akima':>11}{'D/N':>9}{'loss':>9}")
    for profile in found.profiles:
        best = profile.best_params
        akima = f"{si(profile.akima_params).strip() if np.isfinite(profile.akima_params) else '':>11}"
        if profile.problem:
            row = f"  {power(profile.flops):>10} {len(profile.params):>7}{'':>11}{akima}  {profile.problem}"
            print(fitted(row, sys.stdout))
            continue
        print(
            f"  {power(profile.flops):>10} {len(profile.params):>7}{si(best).strip():>11}{akima}"
            f"{profile.best_tokens / best:>9.3g}{profile.best_loss:>9.4f}"
        )
    print(f"  N ~ C^a, a = {_exponent(found.params)}; of equal weights {found.unweighted:.3f}")
    print(f"  D ~ C^b, b = {_exponent(found.tokens)}; C: {points.conventions['flops']}")
    print("  by Akima splines " + (f"a = {_exponent(found.akima)}" if found.akima else "too few minima"))
    without = [profile.problem for profile in found.profiles if profile.problem]
    flags = [flag for flag in found.flags if not flag.endswith(tuple(without))] if without else list(found.flags)
    if without:
        flags.insert(0, f"isoflop: {len(without)} of {len(found.profiles)} budgets have no minimum, see above")
    print(fitted("\n".join(f"  FLAG {flag}" for flag in flags) or "  no flags", sys.stdout), flush=True)
    if options.plot:
        from seqjax.plots.fits import draw_isoflops

        shared.write_figure(draw_isoflops(found, points.conventions.get("params", "as given"), name), options.plot)


def _exponent(law: Any) -> str:
    low, high = law.interval
    return f"{law.exponent:.3f} " + (f"(95 %: {low:.3f} to {high:.3f})" if low == low else "(no interval)")


def _print_envelope(points: Any, name: str, options: argparse.Namespace) -> None:
    from seqjax.laws.frontier import curves_of, envelope

    folders = any(place.is_dir() for place in options.places)
    curves = _curves(options.places, points) if folders else curves_of(points)
    found = envelope(curves, bootstrap=options.bootstrap, seed=options.seed)
    print(f"  {len(curves)} training curves, envelope from {power(found.x.min())} to {power(found.x.max())} FLOPs")
    print(f"  N ~ C^a, a = {_exponent(found)}")
    if found.interval[0] != found.interval[0]:
        print(fitted("  no interval: of so few sizes many draws have no two between their ends", sys.stdout))
    remark = "  the loss inside a decaying schedule lies above that of a run that ends there: a is biased by it"
    print(fitted(remark, sys.stdout))
    if options.plot:
        from seqjax.plots.fits import draw_envelope

        shared.write_figure(draw_envelope(curves, found, points.conventions.get("params", ""), name), options.plot)


def _curves(places: list[Path], points: Any) -> dict[float, Any]:
    """The validation curves of the runs of these points: size -> (FLOPs, loss)."""
    import numpy as np

    from seqjax.runs import read_curve
    from seqjax.sweeps.folder import folders_by_id

    folders = {name: folder for place in places if place.is_dir() for name, folder in folders_by_id(place).items()}
    found = {}
    for row, n, d, c in zip(points.rows, *(points.variables[v] for v in ("params", "tokens", "flops")), strict=True):
        run_id = row.partition("(")[2].rstrip(")")
        folder = folders.get(run_id)
        if folder is None:
            raise UserError(f"{row}: has no run folder in {places[0]}: training curves are read from run folders")
        curve = [(r["tokens"] * c / d, r["validation_loss"]) for r in read_curve(folder)]
        if float(n) in found:
            raise UserError(
                f"{row}: is another run of N = {amount('params', n)}: keep one of each size, e.g. "
                "--where '`train.seed` == 0'"
            )
        if len(curve) > 1:
            found[float(n)] = tuple(np.array(column) for column in zip(*curve, strict=True))
    return found
