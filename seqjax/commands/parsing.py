"""The parser of a command: its summary, examples, and unknown words. Nothing here needs JAX."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from seqjax.commands import COMMANDS
from seqjax.errors import UserError


def no_more(rest: Sequence[str]) -> None:
    """Raise UserError if there are unknown words."""
    if rest:
        kind = "option" if rest[0].startswith("-") else "word; this command takes no more of them"
        raise UserError(f"command line: {rest[0]}: unknown {kind}")


def add_parser(commands: Any, name: str, examples: str, explained: str = "") -> argparse.ArgumentParser:
    """A subcommand with its line of `COMMANDS` and examples.

    Args:
        explained: text after the examples.
    """
    summary = COMMANDS[name][1]
    epilog = f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}"
    if explained:
        epilog += f"\n\n{explained.strip()}"
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
