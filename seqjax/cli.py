"""The `seqjax` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from seqjax.commands import (
    bench,
    compare,
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
from seqjax.memory import keep_freed_memory
from seqjax.numerics import pinned

COMMANDS = (
    train, sweep, plan, status, runs,
    fit, predict, optimal, frontier, compare, positions,
    evaluate, sample, inspection, data, show, bench, export,
)  # fmt: skip
DESCRIPTION = "How the loss of RNNs, LSTMs, GRUs and Transformers falls with parameters, tokens, compute and context."


@pinned()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0: done; 2: a mistake of the user's, told in one line; 3: the run diverged; 75: stopped by SIGTERM with its state
    saved, start it again; 130: stopped by Ctrl-C with its state saved.
    """
    keep_freed_memory()
    parser = argparse.ArgumentParser(prog="seqjax", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    words, config_words = split_config_options(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(words)
    try:
        return options.run(options, config_words + rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder without permission: the surroundings, not a fault of the program
        if error.errno is None:
            raise
        print(f"error: {error.filename or options.command}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _version() -> str:
    from seqjax import __version__

    return f"seqjax {__version__}"
