"""The `seqjax` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from seqjax.commands import bench, data, evaluate, export, sample, show, train
from seqjax.errors import UserError

COMMANDS = (train, evaluate, sample, data, show, bench, export)
DESCRIPTION = "How the loss of RNNs, LSTMs, GRUs and Transformers falls with parameters, tokens, compute and context."
PREEMPTED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0: done; 2: a mistake of the user's, told in one line; 3: the run diverged; 75: stopped by SIGTERM with its state
    saved, start it again; 130: stopped by Ctrl-C with its state saved.
    """
    parser = argparse.ArgumentParser(prog="seqjax", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    options, rest = parser.parse_known_args(arguments)
    try:
        return options.run(options, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _version() -> str:
    from seqjax import __version__

    return f"seqjax {__version__}"
