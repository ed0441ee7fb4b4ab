"""`seqjax crossing`: the map of two families: which leads at each (parameters, tokens), and where they cross."""

from __future__ import annotations

import argparse
import itertools
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.commands import tables
from seqjax.config.plain import number
from seqjax.errors import UserError
from seqjax.host.streams import fitted
from seqjax.host.wording import counted, power, si

BUDGETS = {"tokens": "D", "flops": "C", "seconds": "s"}
POOR_FIT = 0.005  # root mean square of the residuals of log L above which a surface is doubted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "crossing",
        """
        seqjax crossing runs/map --families lstm transformer --plot map.png
        seqjax crossing runs/map --families lstm transformer --flops exact --seconds training_seconds
        seqjax crossing table.csv --params N --tokens D --loss L --by model --families A B

        from a table with the columns family, params, tokens, loss and seed:
          lstm vs transformer, over tokens
               N   both trained at       crossing D     95 %
          50.0 k   500 k to 8 M              1.42 M     1.18 M to 1.69 M
                   lstm, then transformer; lstm by 0.242 nats at the first D, transformer
                   by 0.196 nats at the last
        a crossing outside of what was trained is marked "beyond"; an interval with an open end has "<" or ">"
        """,
    )
    tables.add_options(parser)
    parser.add_argument(
        "--families", nargs=2, metavar=("A", "B"), help="two groups of --by, the one overtaken first [each two]"
    )
    parser.add_argument("--seconds", metavar="COLUMN", help="training time of a run: the map over seconds as well")
    parser.add_argument(
        "--at", type=number(), nargs="+", metavar="N", help="sizes to say the crossing at [those that both have]"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the map (png, svg, pdf); two families only")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Fit a surface to each family; say where each two of them cross, over tokens and other budgets."""
    shared.no_more(rest)
    tables.check(options)
    options.by = options.by or tables.family_column(options)[0]
    from seqjax.laws.clusters import clusters_of
    from seqjax.laws.surfaces import fit_surface

    if options.plot:
        from seqjax.plots.fits import check_name

        check_name(options.plot)
    for n in options.at or ():
        if n <= 0:
            raise UserError(f"command line: --at {n:g}: expected a number of parameters above 0")
    if options.families and len(set(options.families)) < 2:
        raise UserError(f"--families {' '.join(options.families)}: expected two different ones")
    clusters = partial(clusters_of, params=options.params)
    groups = tables.points_by_group(options, ("params", "tokens"), True, clusters, options.families)
    if len(groups) < 2:
        raise UserError(f"--by {options.by}: there is one group only, {', '.join(groups)}; two are needed")
    surfaces = {}
    for seed, (name, points) in enumerate(groups.items()):
        with tables.apart(options, "" if options.families else name):
            surfaces[name] = fit_surface(points, options.bootstrap, options.seed + seed)
            print(fitted(_surface_line(name, surfaces[name]), sys.stdout), flush=True)
    if len(surfaces) < 2:
        raise UserError(f"--by {options.by}: only {' and '.join(surfaces) or 'none'} can be fitted; two are needed")
    if options.plot and len(surfaces) > 2:
        raise UserError(f"command line: --plot draws two families, there are {len(surfaces)}: say --families A B")
    for a, b in itertools.combinations(surfaces, 2):
        with tables.apart(options, f"{a} and {b}"):
            how = {"at": options.at, "draws": options.bootstrap, "seed": options.seed}
            for line in compared((a, b), (surfaces[a], surfaces[b]), **how):
                print(fitted(line, sys.stdout), flush=True)
    if options.plot:
        from seqjax.plots.crossing import draw_map

        a, b = surfaces
        made = draw_map((surfaces[a], surfaces[b]), (a, b), budgets_of(*surfaces.values()))
        shared.write_figure(made, options.plot)
    return tables.exit_code(options)


def budgets_of(a: Any, b: Any) -> list[str]:
    """Tokens; FLOPs; seconds where both families have them."""
    return [name for name in BUDGETS if all(name in surface.points.variables for surface in (a, b))]


def _surface_line(name: str, surface: Any) -> str:
    from seqjax.laws.reference import reference
    from seqjax.laws.surfaces import sizes_of

    c, variables = surface.constants, surface.points.variables
    sizes, tokens = int(sizes_of(variables["params"]).max()) + 1, len(set(variables["tokens"]))
    n, d = (reference(variables[name]) for name in ("params", "tokens"))
    of_n, of_d = c["A"] / n ** c["alpha"], c["B"] / d ** c["beta"]
    lines = [
        f"{name}: {counted(len(surface.points), 'run')}, {sizes} N, {tokens} D; "
        f"clusters beyond the fit: {surface.left}",
        f"  L = {c['E']:.3f} + {of_n:.3g} ({power(n, 1)} / N)^{c['alpha']:.3f} + {of_d:.3g} ({power(d, 1)} / "
        f"D)^{c['beta']:.3f}; "
        f"residuals {100 * surface.error:.2f} %",
    ]
    lines += [f"  note: {note}" for note in surface.points.notes]
    if sizes < 3:
        lines.append("  fewer than 3 sizes: alpha and E are guesses, trust no other size")
    if surface.error > POOR_FIT:
        lines.append("  FLAG the law misses the runs: trust the direct reading more")
    if surface.left == 0:
        lines.append("  FLAG noise unknown: no run is left over to measure it by; train more seeds")
    return "\n".join(lines)


def compared(
    names: tuple[str, str],
    surfaces: tuple[Any, Any],
    at: Sequence[float] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Iterator[str]:
    """The lines that say where two families cross, for each budget.

    Args:
        at: sizes; None: those that both families have.
        draws, seed: of the direct reading.
    """
    from seqjax.laws.crossing import common_sizes, crossings, direct, disagree

    points = [surface.points for surface in surfaces]
    shared_sizes = [n for n, _, _ in common_sizes(*points)]
    sizes = at or shared_sizes
    if not sizes:
        raise UserError("have no size in common (within 25 %): name sizes with --at")
    for budget in budgets_of(*surfaces):
        counted = points[0].conventions.get(budget, "as given")
        yield f"\n{names[0]} vs {names[1]}, over {budget}" + f" ({counted})" * (budget != "tokens")
        yield f"{'N':>9}  {'both trained at':<20}{'crossing ' + BUDGETS[budget]:>16}  95 %"
        by_law = crossings(*surfaces, names, sizes, budget)
        if not by_law:
            yield "  at no size were both trained with budgets in common"
        for place in by_law:
            yield from _lines(place, budget, names)
        read = direct(*points, names, budget, draws, seed)
        if read:
            yield "  read directly, without a law:"
        for place in read:
            yield from _lines(place, budget, names)
            other = next((p for p in by_law if abs(p.params / place.params - 1) < 1e-6), None)
            if other is not None and disagree(other, place):
                yield f"{'':9}  FLAG the law and the direct reading disagree at this size"


def _lines(place: Any, budget: str, names: tuple[str, str]) -> Iterator[str]:
    first, last = (si(x).strip() for x in place.span)
    at = "none found" if not 0 < place.x < float("inf") else si(place.x).strip() + " beyond" * place.beyond
    yield f"{si(place.params).strip():>9}  {f'{first} to {last}':<20}{at:>16}  {_interval(place)}"
    if place.outside:
        return  # what the laws say there is no finding
    leads = [f"{names[gap > 0]} by {abs(gap):.3f} nats" for gap in place.gaps]
    text = f"{place.verdict}; {leads[0]} at the first {BUDGETS[budget]}, {leads[1]} at the last"
    yield textwrap.fill(text, 80, initial_indent=" " * 11, subsequent_indent=" " * 11)


def _interval(place: Any) -> str:
    """Ends within the data as numbers, others as open."""
    if place.low != place.low:
        return "unknown"
    first, last = place.span
    if place.outside:
        return "beyond the sizes"
    if place.high < first or place.low > last:
        return f"< {si(first).strip()}" if place.high < first else f"> {si(last).strip()}"
    low = f"< {si(first).strip()}" if place.low < first else si(place.low).strip()
    high = f"> {si(last).strip()}" if place.high > last else si(place.high).strip()
    return f"{low} to {high}"
