"""Errors that the user can fix: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a file, an option or the environment that the user can fix.

    The message is one line: what was wrong, where (file, key path, line), what is allowed, and a similar name.
    The command line prints it after ``error:`` and exits with code 2.
    """


def printable(name: str) -> str:
    r"""A file name as one line of valid UTF-8: invalid bytes and control characters become ``\xe9`` and the like."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda c: c[0].encode("unicode_escape").decode(), text)


def utf8(text: str, where: str) -> bytes:
    """Text of the command line as UTF-8. Raises UserError if it has invalid bytes, as some file names do."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: '{printable(text)}' is not UTF-8; of a file, rename it or make a link to it"
        ) from None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the most similar choice, or ``""`` if none is similar."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
