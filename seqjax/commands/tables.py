"""Options of commands that read points from tables and sweep folders."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqjax.config.plain import number, whole
from seqjax.errors import UserError, did_you_mean
from seqjax.host.optional import need_parquet
from seqjax.host.streams import tell_error, tell_note
from seqjax.host.wording import counted, numbers_by_size

VARIABLES = ("params", "tokens", "loss", "flops", "steps", "position", "unique_tokens", "other_loss")
TOGETHER = "all"  # --by all: no groups
MOST_NAMED = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add options for places, columns, rows and intervals."""
    parser.add_argument("places", type=Path, nargs="*", metavar="TABLE|DIR", help="CSV, parquet, or sweep folders")
    columns = parser.add_argument_group(
        "columns (of a run table: also non-embedding, with-readout, total; kaplan, exact)"
    )
    for name in VARIABLES:
        columns.add_argument(f"--{name.replace('_', '-')}", metavar="COLUMN")
    columns.add_argument("--cluster", metavar="COLUMN", help="rows that share their noise [rows with equal variables]")
    columns.add_argument(
        "--by", metavar="COLUMN", help="separately for each value of it, such as family; all: together"
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument("--where", metavar="EXPRESSION", help="keep the rows for which it is true")
    rows.add_argument(
        "--drop-highest", type=whole(0), default=0, metavar="K", help="leave out the K highest losses [0]"
    )
    rows.add_argument("--frontier", action="store_true", help="keep only runs that are best for their compute")
    rows.add_argument(
        "--critical-batch",
        type=number(),
        nargs=2,
        metavar=("B", "ALPHA"),
        help="turn C into C_min and steps into S_min, with B_crit = B / L^(1 / ALPHA) tokens (Kaplan: 2.1e8 0.21)",
    )
    parser.add_argument("--bootstrap", type=whole(0), default=1000, metavar="R", help="refits for the intervals [1000]")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of the noise of the refits [0]")


def check(options: argparse.Namespace) -> None:
    """Check the options before any table is read."""
    if not options.places:
        raise UserError("command line: expected a TABLE or DIR, such as runs/first or table.csv")
    need_parquet(options.places)
    if options.bootstrap < 0 or options.drop_highest < 0:
        raise UserError("command line: --bootstrap and --drop-highest are counts, 0 or more")
    if not 0 <= options.seed < 2**32:
        raise UserError(f"command line: --seed {options.seed}: expected a whole number from 0 to 2**32 - 1")


def points_by_group(
    options: argparse.Namespace,
    needs: Iterable[str],
    compared: bool = False,
    clusters: Callable[[Any], Any] | None = None,
    only: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The points that the options select, by the value of ``--by``; without it under "".

    A group without points to fit is left out if there are others; see :func:`apart`.

    Args:
        compared: the groups are compared with each other, so their losses must be comparable.
        clusters: table -> the label of each row's cluster, if ``--cluster`` names no column.
        only: the wanted groups, in this order; one that cannot be read is an error.
    Raises:
        UserError: see :func:`seqjax.laws.points.read_points`.
    """
    from seqjax.laws.comparable import refuse_incomparable
    from seqjax.laws.run_rows import has_status, is_run_table
    from seqjax.laws.selecting import select
    from seqjax.laws.variables import listed

    wanted = {*needs}
    wanted |= {"flops"} if options.frontier else set()
    wanted |= {"tokens", "steps"} if options.critical_batch else set()
    table, written = read_once(options)
    # the condition must be true for some row of the whole table
    keep, _ = select(table, options.where, source_of(options.places))
    if compared:
        ended = has_status(table, "finished") if is_run_table(table) else keep
        refuse_incomparable(table[keep & ended], options.loss or "loss", source_of(options.places))
    groups = {"": table}
    if options.by not in (None, TOGETHER):
        named = written[label_column(table, "by", options.by)]
        of_no_group = has_status(table, "damaged") & named.isna().to_numpy()  # its config is damaged
        if of_no_group.any():
            tell_note(f"left out: {counted(of_no_group.sum(), 'damaged run')} of unknown {options.by}")
        grouped = {
            str(value): rows for value, rows in table[~of_no_group].groupby(named[~of_no_group].fillna("(empty)"))
        }
        groups = {name: grouped[name] for name in sorted(grouped, key=numbers_by_size)}
    if only is not None:
        if unknown := next((name for name in only if name not in groups), None):
            near = did_you_mean(unknown, groups)
            raise UserError(f"--families {unknown}: there is no such {options.by}{near}; there are {listed(groups)}")
        groups = {name: groups[name] for name in only}
    else:
        groups = _with_rows(groups, table.index[keep], options)
    if compared:
        _tell_contexts(groups, table.index[keep & ended], options)
    cluster = clusters(table) if clusters else None
    if options.cluster is not None:
        cluster = written[label_column(table, "cluster", options.cluster)]
    found = {}
    for group, rows in groups.items():
        with apart(options, group if len(groups) > 1 and only is None else ""):
            found[group] = _points(rows, options, sorted(wanted), cluster)
    tell_refused(options)
    if not found:
        raise UserError(f"--by {options.by}: none of the {len(groups)} groups has points to fit")
    return found


def apart_by_family(options: argparse.Namespace) -> None:
    """Without ``--by``, take rows of several families apart, and say so: one law does not describe them."""
    if options.by is not None:
        return
    name, found = family_column(options)
    if len(found) > 1:
        options.by = name
        tell_note(f"one fit for each {name}, {', '.join(found)}; --by all fits them together")


def family_column(options: argparse.Namespace) -> tuple[str, list[str]]:
    """What ``--by`` is where it is not said: "family" and the families; none are found in a table without them.

    "kind" where a run table has several forms of one family, such as GPT-2's Transformer and today's.
    """
    from seqjax.laws.run_columns import SHORT
    from seqjax.laws.selecting import select

    table, _ = read_once(options)
    family = "family" if "family" in table.columns else SHORT["family"]
    if family not in table.columns:
        return "family", []
    kept = table.loc[select(table, options.where, source_of(options.places))[0]]
    forms = family != "family" and "kind" in table.columns and kept["kind"].nunique() > kept[family].nunique()
    name, column = ("kind", "kind") if forms else ("family", family)
    return name, sorted(map(str, kept[column].dropna().unique()))


def _with_rows(groups: dict[str, Any], kept: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The groups with a row that ``--where`` keeps; the others are told."""
    found = {name: rows for name, rows in groups.items() if rows.index.isin(kept).any()}
    if gone := [name for name in groups if name not in found]:
        tell_note(f"--where leaves no row of {options.by} {few(gone)}")
    return found


def _tell_contexts(groups: dict[str, Any], kept: Any, options: argparse.Namespace) -> None:
    """A note if the kept rows of groups that are compared differ in their contexts, unless these are the groups."""
    from seqjax.laws.comparable import CONTEXT, contexts_of

    contexts = {name: ", ".join(contexts_of(rows[rows.index.isin(kept)])) for name, rows in groups.items()}
    if options.by not in CONTEXT and len(set(contexts.values())) > 1:
        told = few([f"{name} {found}" for name, found in contexts.items()])
        tell_note(f"the contexts differ, and losses with them: {told}")


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:MOST_NAMED]) + f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED)


@contextlib.contextmanager
def apart(options: argparse.Namespace, group: str) -> Iterator[None]:
    """Keep an error of a group for :func:`tell_refused`, and continue with the others; the exit code will be 2.

    Without groups (``group`` is "") the error is raised."""
    try:
        yield
    except UserError as error:
        if not group:
            raise
        options.refused = getattr(options, "refused", {})
        options.refused.setdefault(str(error), []).append(group)


def tell_refused(options: argparse.Namespace) -> None:
    """Tell the errors of groups that were not told yet, each once, with the groups that have it."""
    for error, groups in getattr(options, "refused", {}).items():
        if groups:
            tell_error(f"{options.by} {few(groups)}: {error}")
            groups.clear()


def exit_code(options: argparse.Namespace) -> int:
    """0, or 2 if a group was refused; what was not told yet is."""
    tell_refused(options)
    return 2 if getattr(options, "refused", {}) else 0


def _points(rows: Any, options: argparse.Namespace, needs: list[str], cluster: Any) -> Any:
    from seqjax.laws.kaplan import adjusted
    from seqjax.laws.points import read_points
    from seqjax.laws.ratios import frontier

    names = (*VARIABLES, "seconds")
    columns = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    points = read_points(
        rows,
        columns,
        needs,
        where=options.where,
        drop_highest=options.drop_highest,
        cluster=cluster,
        weights=getattr(options, "weights", None),
        source=source_of(options.places),
    )
    if options.critical_batch:
        batch = points.variables["tokens"] / points.variables["steps"]
        points = adjusted(points, batch, *options.critical_batch)
    return frontier(points) if options.frontier else points


def source_of(places: list[Path]) -> str:
    """The name of the table in errors."""
    return str(places[0]) if len(places) == 1 else f"{len(places)} tables"


def read_once(options: argparse.Namespace) -> tuple[Any, Any]:
    """As `read`; the second time from memory."""
    if not hasattr(options, "read"):
        options.read = read(options.places)
    return options.read


def read(places: list[Path]) -> tuple[Any, Any]:
    """The run table of sweep folders, or any table in files; and its cells as text."""
    from seqjax.laws.table_file import read_file
    from seqjax.sweeps.table import gather

    if any(place.is_dir() for place in places):
        table = gather(places)
        return table, table.astype("string")
    table, written = read_file(places, "a sweep folder or a table")
    if not table.index.is_unique:  # a file is named twice
        table, written = table.reset_index(drop=True), written.reset_index(drop=True)
    return table, written


def label_column(table: Any, option: str, name: str) -> str:
    from seqjax.laws.run_columns import SHORT
    from seqjax.laws.variables import listed

    column = name if name in table.columns else SHORT.get(name, name)
    if column not in table.columns:
        near = did_you_mean(name, [*map(str, table.columns), *SHORT])
        raise UserError(f"--{option} {name}: there is no such column{near or f'; it has {listed(table.columns)}'}")
    return column
