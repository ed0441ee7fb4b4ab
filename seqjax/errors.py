"""Errors that are the user's to mend: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a file, an option or the surroundings that the user can mend.

    The message is one line: what was wrong, where (file, key path, line), what is allowed and what is near.
    The command line prints it after ``error:`` and exits with code 2.
    """


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest choice, or ``""`` when none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
