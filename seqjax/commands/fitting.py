"""Options of commands that fit laws: the objective, weights, and constants that are held."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from seqjax.commands import tables
from seqjax.config.plain import number
from seqjax.host.streams import tell_note


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    how = parser.add_argument_group("fitting")
    how.add_argument("--objective", choices=("huber", "lad", "least-squares"), default="huber", help="[huber]")
    how.add_argument("--delta", type=number(above=0), help="of Huber, in log L or nats [1e-3]")
    how.add_argument(
        "--errors", choices=("relative", "nats"), default="relative", help="of log L, or of L in nats [relative]"
    )
    how.add_argument("--weights", metavar="COLUMN", help="weight of each row [1]")
    held = {"nargs": "+", "action": "extend", "default": [], "metavar": "A=B"}
    how.add_argument("--fix", **held, help="hold a constant at a value: E=1.9")
    how.add_argument("--tie", **held, help="hold a constant at another one: beta=alpha")
    how.add_argument("--bound", **held, help="hold a constant between ends: alpha=0:1, E=1.5: or E=:2")


def add_law(parser: argparse.ArgumentParser) -> None:
    """Add ``--law``."""
    parser.add_argument("--law", metavar="LAW", help="--laws lists them; or FILE.py:LAW [one that the table can bear]")


def each(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Fit the law to each group of points: (group, fit). A group that cannot be fitted is told, and left out.

    Raises:
        UserError: the only group cannot be fitted.
    """
    law = law_of(options) if options.law else None
    from seqjax.laws.choosing import law_for, refused_if_impossible
    from seqjax.laws.fits import fit
    from seqjax.sweeps.program_cache import share_compilations

    share_compilations()
    tables.apart_by_family(options)
    groups = tables.points_by_group(options, law.variables if law else ())
    if law is None:
        law, why = law_for([*groups.values()])
        tell_note(f"{law.name}, {law.equation}" + f" ({why})" * bool(why), "law")
        law = law_of(options, law)
    for group, points in groups.items():
        with tables.apart(options, group), refused_if_impossible(points, law):
            yield group, fit(points, law, seed=options.seed, **how(options))


def law_of(options: argparse.Namespace, chosen: Any = None) -> Any:
    """The law that is fitted, with what is held of it.

    Args:
        chosen: a law; None: the one that ``--law`` names.
    Raises:
        UserError: there is no such law or constant, or it cannot be held so.
    """
    from seqjax.laws.holding import held, read_holds
    from seqjax.laws.own import law_named

    law = chosen or law_named(options.law)
    return held(law, read_holds(law, options.fix, options.tie, options.bound))


def how(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of :func:`seqjax.laws.fits.fit` but the seed."""
    names = ("objective", "delta", "errors", "bootstrap")
    return {name: getattr(options, name) for name in names}
