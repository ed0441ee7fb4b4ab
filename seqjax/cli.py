"""The `seqjax` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from seqjax.commands import (
    bench,
    compare,
    crossing,
    data,
    evaluate,
    export,
    fit,
    frontier,
    inspection,
    optimal,
    plan,
    positions,
    predict,
    runs,
    sample,
    show,
    status,
    sweep,
    train,
)
from seqjax.commands.options import split_config_options
from seqjax.errors import UserError
from seqjax.host.guard import guarded
from seqjax.host.memory import keep_freed_memory
from seqjax.host.numerics import pinned

COMMANDS = (
    train, sweep, plan, status, runs,
    fit, predict, optimal, frontier, compare, crossing, positions,
    evaluate, sample, inspection, data, show, bench, export,
)  # fmt: skip
ON_PROCESSOR = ("fit", "predict", "optimal", "frontier", "compare", "crossing", "show")  # never on an accelerator
DESCRIPTION = "How the loss of RNNs, LSTMs, GRUs and Transformers falls with parameters, tokens, compute and context."


@pinned()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0: done; 2: a user's mistake, reported in one line; 3: the run diverged; 4: runs of a sweep were given up; 75:
    stopped by a signal (SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU) with its state saved, start it again; 130: stopped
    by Ctrl-C with its state saved; 141: the reader of the output has ended. `train` and `sweep` continue without a
    reader and keep the exit code of the training.
    """
    words, config_words = split_config_options(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in words if not word.startswith("-")), "seqjax")
    return guarded(lambda: _run(words, config_words), name, keeps=name in ("train", "sweep"))


def _run(words: Sequence[str], config_words: Sequence[str]) -> int:
    keep_freed_memory()
    parser = _Parser(prog="seqjax", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    options, rest = parser.parse_known_args(words)
    if options.command in ON_PROCESSOR:
        sweep.stay_off_accelerators()
    return options.run(options, [*config_words, *rest])


class _Parser(argparse.ArgumentParser):
    """Raises UserError for mistakes on the command line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message.removeprefix('argument ')}")


def _version() -> str:
    from seqjax import __version__

    return f"seqjax {__version__}"
