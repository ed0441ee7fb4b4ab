"""Options of commands that fit laws: the objective, weights, and constants that are held."""

from __future__ import annotations

import argparse
from typing import Any

from seqjax.config.plain import number


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
