"""`seqjax preflight`: compiles a run, or those of a sweep, for an accelerator that is not here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.host.streams import fitted
from seqjax.runs.tree import read_file


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "preflight",
        """
        seqjax preflight configs/english/lstm.yaml --on h100
        seqjax preflight configs/english/transformer.yaml --on 8xh100 --train.batch-size 256
        seqjax preflight configs/figure7/gpu.yaml --on h200
        seqjax preflight runs/lstm/lstm-2x128-0123456789 --on v5e-4
        """,
        fields=True,
        explained="No accelerator is needed, only its compiler: pip install 'seqjax[preflight]' for NVIDIA's cards,\n"
        "'seqjax[tpu]' for TPUs.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG|SWEEP|RUN", help="a config, a sweep file or a run folder")
    known = "h100, 8xh100, h200, b200, a100, v5e-4, v5e-256, v5p-8, v6e-8, ..."
    parser.add_argument("--on", metavar="TARGET", required=True, help=known)
    shared.add_code(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Compile, print."""
    from seqjax.commands.sweep import stay_off_accelerators

    stay_off_accelerators()
    from seqjax.preflight.accelerators import target_named
    from seqjax.preflight.as_text import describe, table

    target = target_named(options.on)
    path = options.config
    if path.is_file() and any(name in read_file(path).values for name in shared.SWEEPS):
        from seqjax.sweeps.grid import read_sweep
        from seqjax.sweeps.search import foreseen

        planned = foreseen(read_sweep(path, shared.config_options(rest)), lambda _: None)
        from seqjax.preflight.sweeping import rows_of

        print(fitted(table(rows_of(planned, target)), sys.stdout))
        return 0
    from seqjax.preflight.needs import batch_that_fits, check

    found = check(shared.config_of(path, rest, options.trust_code), target)
    print(fitted(describe(found, batch_that_fits(found)), sys.stdout))
    return 0
