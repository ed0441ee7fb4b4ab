"""`seqjax positions`: loss per token by position in the context, and the position where it stops falling."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqjax.commands import options as shared
from seqjax.config.plain import number, whole
from seqjax.errors import UserError
from seqjax.host.streams import tell_note
from seqjax.host.wording import counted

if TYPE_CHECKING:
    from seqjax.laws.position import Curve


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "positions",
        """
        seqjax positions runs/first/lstm-1x27-9d3c4b8c1e runs/first/transformer-2x16-05a1d2f0aa --plot positions.png
        seqjax positions runs/first --late 16 64
        seqjax positions runs/map --where 'tokens > 5e6 and (family == "lstm" or N > 9e4)' --plot positions.png
        """,
    )
    parser.add_argument("places", type=Path, nargs="+", metavar="RUN|DIR", help="run folders, or sweep folders")
    parser.add_argument("--where", metavar="EXPRESSION", help="only the runs for which it is true")
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
    from seqjax.laws.position import fit_position, is_determined, late_gain, plateau, power_words

    chosen = _chosen(options.places, options.where)
    curves, groups = _curves(chosen), _groups(chosen)
    fits, plateaus = {}, {}
    for name, (loss, error, bin_error) in curves.items():
        early, late = options.late or (max(1, len(loss) // 10), len(loss))
        gain = late_gain(loss, error, early, late)
        plateaus[name] = found = plateau(loss, error, options.margin, bin_error)
        law = "too few positions for E + A / T^alpha"
        if len(loss) >= 16:
            fitted = fit_position(loss, error, bootstrap=options.bootstrap)
            law = power_words(fitted)
            if is_determined(fitted):
                fits[name] = fitted
            else:
                law = "not determined by these losses: E + A / T^alpha"
        where = "none: falls to the end"
        if found.position is not None:
            high = "end" if found.high == float("inf") else f"{found.high:.0f}"
            where = f"from {found.position:.0f} on ({found.low:.0f} to {high})"
        print(
            f"{name}\n  law      {law}\n"
            f"  gain     {early} to {late}: {gain.nats:.3f} nats ({gain.low:.3f} to {gain.high:.3f})\n"
            f"  plateau  {where}",
            flush=True,
        )
    print("in brackets: 95 % intervals; of the law, that of its exponent")
    if options.plot:
        from seqjax.plots.positions import draw_positions

        shared.write_figure(draw_positions(curves, fits, plateaus, groups), options.plot)
    return 0


def _chosen(places: list[Path], where: str | None = None) -> dict[str, dict[str, Any]]:
    """The rows of finished runs by readable name, each with its result: of a sweep those at the chosen rates."""
    import pandas as pd

    from seqjax.laws.comparable import differences
    from seqjax.laws.run_rows import at_best_rates
    from seqjax.laws.selecting import select

    found = [row for place in places for row in _with_positions(place)]
    if all(row["status"] == "diverged" for row in found):
        raise UserError(f"{places[0]}: has no finished run with losses by position")
    keep, _ = select(pd.DataFrame(found), where, "the runs with losses by position")
    rows = []
    for place in places:
        own = [row for row, true in zip(found, keep, strict=True) if true and row["place"] == place]
        if len(own) > 1:
            best = at_best_rates(pd.DataFrame(own)).index
            if gone := sum(row["status"] != "diverged" for row in own) - len(best):
                tell_note(f"{place}: left out: {counted(gone, 'run')} at other learning rates than the best")
            own = [own[i] for i in best]
        rows += [row for row in own if row["status"] != "diverged"]
    if not rows:
        raise UserError(f"{places[0]}: a run of every learning rate has diverged")
    for column, values in differences(pd.DataFrame(rows)).items():
        tell_note(f"losses that cannot be compared: {column} is {', '.join(values)}")
    named: dict[str, dict[str, Any]] = {}
    for row in sorted(_mean_of_seeds(rows), key=_order):
        named[row["label"] if row["label"] not in named else row["folder"].name] = row
    return _told_apart(named)


def _with_positions(place: Path) -> list[dict[str, Any]]:
    """The rows of a place whose runs have losses by position, each with its folder and its evaluation; and those of
    diverged runs."""
    from seqjax.runs import read_result
    from seqjax.sweeps.folder import run_folders
    from seqjax.sweeps.table import row_of

    found = []
    for folder in run_folders(place):
        row = row_of(folder)
        if row["status"] == "damaged":
            tell_note(f"left out: {row['reason']}")
        elif row["status"] == "diverged":
            found.append(row | {"place": place, "folder": folder})
        elif "by_position" in (validation := (read_result(folder) or {}).get("validation") or {}):
            if None in validation["by_position_se"]:
                raise UserError(f"{folder}: evaluated on one window or stream, its losses have no standard error")
            found.append(row | {"place": place, "folder": folder, "validation": validation})
    return found


def _told_apart(named: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The names without words that all names of a family have, such as ``norm=rmsnorm``.

    Where a family has several forms, the form's name stands for the words of its fields.
    """
    from seqjax.families import FAMILIES, parts_of

    words: dict[str, list[set[str]]] = {}
    forms: dict[str, set[str]] = {}
    for name, row in named.items():
        family, form = parts_of(row["kind"])
        words.setdefault(family, []).append({word for word in name.split() if "=" in word})
        forms.setdefault(family, set()).add(form)
    same = {family: set.intersection(*found) if len(found) > 1 else set() for family, found in words.items()}
    short = []
    for name, row in named.items():
        family, form = parts_of(row["kind"])
        several = len(forms[family]) > 1
        defined = FAMILIES[family].forms.get(form, {}) if several else {}
        known = {f"{field}={value}" for field, value in defined.items()}
        first, *rest = (word for word in name.split() if word not in known | same[family])
        short.append(" ".join(filter(None, (first, form if several else "", *rest))))
    return dict(zip(short, named.values(), strict=True)) if len(set(short)) == len(named) else named


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    numbers = (row[name] or 0 for name in ("params_non_embedding", "tokens", "optimizer.learning_rate", "train.seed"))
    return (row["kind"], *numbers, row["label"])


def _mean_of_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for the runs that differ in seed only, with the mean of their losses at each position.

    Its standard error is the mean of theirs: all are evaluated on the same windows, so that seeds do not lower it.
    """
    import numpy as np

    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        config = tuple(sorted((name, str(row[name])) for name in row if "." in name and name != "train.seed"))
        alike.setdefault(config, []).append(row)
    found = []
    for group in alike.values():
        lengths = {len(row["validation"]["by_position"]) for row in group}
        if len({row["train.seed"] for row in group}) < len(group) or len(lengths) > 1:  # differ in something else
            found += group
        elif len(group) == 1:
            found.append(group[0])
        else:
            found_in = [row["validation"] for row in group]
            columns = set.intersection({"by_position", "by_position_se", "by_bin_se"}, *map(set, found_in))
            means = {name: np.mean([one[name] for one in found_in], axis=0).tolist() for name in columns}
            label = re.sub(r" seed=\d+", "", group[0]["label"])
            found.append(group[0] | {"label": f"{label} ({len(group)} seeds)", "validation": means})
    return found


def _curves(rows: dict[str, dict[str, Any]]) -> dict[str, Curve]:
    """Losses by position."""
    columns = ("by_position", "by_position_se", "by_bin_se")
    return {name: tuple(map(row["validation"].get, columns)) for name, row in rows.items()}


def _groups(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[str, float]]:
    """Family, with its form, and parameters, for the look of each curve."""
    return {name: (row["kind"], float(row["params_non_embedding"] or 0)) for name, row in rows.items()}
