"""`seqjax plan`: a grid of sizes and tokens that fits a time budget."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.commands import sweep as sweep_command
from seqjax.config.plain import number, whole
from seqjax.errors import UserError
from seqjax.host.disk import check_place, storage_errors, write_atomically
from seqjax.host.streams import fitted
from seqjax.host.wording import counted, duration, quoted


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "plan",
        """
        seqjax plan configs/sweeps/first.yaml --budget 20m
        seqjax plan configs/sweeps/first.yaml --budget 2h --sizes 4 --lengths 3 --output mine.yaml
        """,
        fields=True,
    )
    sweep_command.add_sweep_arguments(parser)
    parser.add_argument("--budget", metavar="TIME", required=True, help="wall time, such as 20m or 1h30m")
    parser.add_argument("--sizes", type=whole(), default=3, help="model sizes, a factor 4 apart [3]")
    parser.add_argument("--lengths", type=whole(), default=2, help="numbers of tokens, a factor 4 apart [2]")
    parser.add_argument("--ratio", type=number(), default=20.0, help="tokens per parameter of the largest model [20]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="[standard output]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Measure step times, search for the largest sizes that fit, print the sweep file."""
    seconds = sweep_command.duration_option("--budget", options.budget)
    for name in ("sizes", "lengths", "ratio"):
        if not getattr(options, name) > 0:
            raise UserError(f"command line: --{name} {getattr(options, name)}: must be above 0")
    if options.output:
        check_place(options.output)
    sweep_command.stay_off_accelerators()
    from seqjax.sweeps.budget import GridShape, as_yaml, probes, propose
    from seqjax.sweeps.grid import read_sweep
    from seqjax.sweeps.sweep import measured_speeds

    over = shared.config_options(rest)
    sweep = read_sweep(options.sweep, over)
    machine = sweep_command.machine_of(options)
    shape = GridShape(options.sizes, options.lengths, ratio=options.ratio)
    bundle = not options.no_bundle
    speeds = measured_speeds(probes(sweep, seconds, shape), machine, bundle, lambda text: print(text, file=sys.stderr))
    if speeds is None:
        raise UserError(f"{options.sweep}: sizes are proposed for runs on text, whose steps can be measured beforehand")
    found = propose(sweep, seconds, shape, machine, speeds, bundle)
    heading = [
        f"Proposed by `seqjax plan {options.sweep} --budget {options.budget}` on {time.strftime('%Y-%m-%d')}:",
        f"{counted(len(found.planned), 'run')}, predicted {duration(found.seconds)} on {machine.describe()}.",
    ]
    if sweep.search and sweep.search.extend:
        heading.append("A search that has to extend its rates takes longer.")
    text = as_yaml(options.sweep, over, found, heading, options.output)
    if options.output:
        with storage_errors(options.output):
            write_atomically(options.output, text)
        told = f"wrote {options.output}; look at it with: seqjax sweep {quoted(options.output)} --dry-run"
        print(fitted(told, sys.stderr), file=sys.stderr)
    else:
        print(text, end="")
    return 0
