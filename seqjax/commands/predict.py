"""`seqjax predict`: the loss that a fitted law predicts, with its interval."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import number
from seqjax.errors import UserError
from seqjax.host.wording import si

VARIABLES = ("params", "tokens", "flops", "steps", "position", "unique_tokens", "other_loss")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "predict",
        """
        seqjax predict fit.json --params 1e9 --tokens 2e10
        seqjax predict laws.json --group lstm --params 1e6 1e7 1e8
        """,
    )
    parser.add_argument("fit", type=Path, metavar="FIT.json", help="written by seqjax fit --json")
    shared.add_law(parser)
    for name in VARIABLES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=number(), nargs="+", metavar="X")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print a line per value, for each fit in the file."""
    shared.no_more(rest)
    import numpy as np

    from seqjax.laws.files import read_fits

    given = {name: getattr(options, name) for name in VARIABLES if getattr(options, name) is not None}
    lengths = {len(values) for values in given.values()} - {1}
    if len(lengths) > 1:
        raise UserError(f"command line: {', '.join(given)}: give each the same number of values, or one")
    for group, fit in read_fits(options.fit, options.law, options.trust_code, options.group).items():
        found = fit.predict(**{name: np.array(values) for name, values in given.items()})
        at = np.broadcast_arrays(*(np.array(given[name]) for name in fit.law.variables))
        for row in range(len(found.loss)):
            where = ", ".join(
                f"{name} {si(values[row]).strip()}" for name, values in zip(fit.law.variables, at, strict=True)
            )
            sure = f"  95 %: {found.low[row]:.4f} to {found.high[row]:.4f}" if np.isfinite(found.low[row]) else ""
            beyond = _beyond(fit, {name: values[row] for name, values in zip(fit.law.variables, at, strict=True)})
            print(f"{group + ': ' if group else ''}{where}: {found.loss[row]:.4f} nats/token{sure}{beyond}")
    return 0


def _beyond(fit: Any, at: dict[str, float]) -> str:
    factors = []
    for name, value in at.items():
        measured = fit.points.variables[name]
        if value > measured.max():
            factors.append(f"{name} {si(value / measured.max()).strip()} times the largest measured")
        elif value < measured.min():
            factors.append(f"{name} {si(measured.min() / value).strip()} times below the smallest measured")
    from seqjax.laws.summary import too_narrow

    return f"  (extrapolated: {'; '.join(filter(None, [*factors, too_narrow(fit)]))})" if factors else ""
