"""The `seqjax` command."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from seqjax import __version__
from seqjax.commands import COMMANDS
from seqjax.commands.words import split_config_options
from seqjax.errors import UserError, did_you_mean
from seqjax.host.guard import guarded
from seqjax.host.memory import keep_freed_memory
from seqjax.host.numerics import pinned

ON_PROCESSOR = (
    "fit",
    "report",
    "predict",
    "optimal",
    "frontier",
    "compare",
    "crossing",
    "show",
)  # never on an accelerator
DESCRIPTION = "How the loss of RNNs, LSTMs, GRUs and Transformers falls with parameters, tokens, compute and context."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0: done; 2: a user's mistake, reported in one line; 3: the run diverged; 4: runs of a sweep were given up; 75:
    stopped by a signal (SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU) with its state saved, start it again; 130: stopped
    by Ctrl-C with its state saved; 76: another process of the run has ended early, start all again; 141: the reader of
    the output has ended. `train` and `sweep` continue without a reader and keep the exit code of the training.
    """
    words, config_words = split_config_options(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in words if not word.startswith("-")), "seqjax")
    return guarded(lambda: _run(words, config_words, name), name, keeps=name in ("train", "sweep"))


def _run(words: Sequence[str], config_words: Sequence[str], name: str) -> int:
    keep_freed_memory()
    parser = _Parser(prog="seqjax", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"seqjax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    if name not in COMMANDS:
        for other, (_, summary) in COMMANDS.items():
            commands.add_parser(other, help=summary)
        if name != "seqjax" and words[0] == name:
            raise UserError(f"command line: {name}: there is no such command{did_you_mean(name, COMMANDS)}; see --help")
        parser.parse_args(words)
        return 0
    importlib.import_module(f"seqjax.commands.{COMMANDS[name][0]}").add_parser(commands)
    return _parsed(parser, words, config_words)


@pinned()
def _parsed(parser: argparse.ArgumentParser, words: Sequence[str], config_words: Sequence[str]) -> int:
    """Parse the words for one command, and run it."""
    options, rest = parser.parse_known_args(words)
    if options.command in ON_PROCESSOR:
        from seqjax.commands.sweep import stay_off_accelerators

        stay_off_accelerators()
    return options.run(options, [*config_words, *rest])


class _Parser(argparse.ArgumentParser):
    """Raises UserError for mistakes on the command line."""

    def error(self, message: str) -> NoReturn:
        option, _, complaint = message.removeprefix("argument ").partition(": ")
        if complaint == "expected one argument":  # argparse takes a word that begins with a dash for an option
            complaint = f"expected a value; one that begins with a dash needs an equals sign: {option}=-VALUE"
        raise UserError(f"command line: {option}" + f": {complaint}" * bool(complaint))
