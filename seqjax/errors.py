"""Errors that are the user's to mend: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a file, an option or the surroundings that the user can mend.

    The message is one line: what was wrong, where (file, key path, line), what is allowed and what is near.
    The command line prints it after ``error:`` and exits with code 2.
    """


def printable(name: str) -> str:
    r"""A file name as text that any UTF-8 file holds and one line shows: its other bytes and controls as ``\xe9``."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda c: c[0].encode("unicode_escape").decode(), text)


def utf8(text: str, where: str) -> bytes:
    """Text of the command line as UTF-8; UserError where it came as other bytes, as some file names do."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: '{printable(text)}' is not UTF-8; of a file, rename it or make a link to it"
        ) from None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest choice, or ``""`` when none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
