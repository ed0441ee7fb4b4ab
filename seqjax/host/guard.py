"""The end of a command or script: mistakes in one line, and the exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from seqjax.errors import UserError, printable
from seqjax.host.out_of_memory import is_out_of_memory, reason
from seqjax.host.stopping import Asked, Interrupted, exit_code, leave_signals
from seqjax.host.streams import Forgiving, forgiving_streams, tell_error

MISTAKE = 2


def guarded(work: Callable[[], int], name: str = "", keeps: bool = True) -> int:
    """Run `work` and return the exit code. Errors of standard output (a closed pipe or terminal, a full disk, a missing
    letter of the encoding) do not end it.

    0: done; 2: a user's mistake, reported in one line; 75: stopped by a signal, start it again; 130: stopped by Ctrl-C;
    other codes are returned by `work`.

    Args:
        name: of the command, for errors without a file.
        keeps: the results are in files, so lost output does not matter. If False, lost output makes the code 141 (the
            reader of a pipe has ended) or 2.
    """
    with forgiving_streams() as output:
        code = _outcome(work, name, keeps)
        output.flush()
        return code or (0 if keeps else _undelivered(output))


def _outcome(work: Callable[[], int], name: str, keeps: bool) -> int:
    try:
        with leave_signals():
            return work()
    except UserError as error:
        return _mistake(str(error))
    except OSError as error:  # a full disk, a folder without permission: not a fault of the program
        if error.errno is None:
            raise
        if isinstance(error, FileNotFoundError) and not _has_working_folder():
            return _mistake("the working folder was deleted; change to another")
        return _mistake(f"{printable(str(error.filename or name))}: {error.strerror}")
    except Interrupted as stop:
        print(f"{stop}; the same command resumes from here", file=sys.stderr)
        return exit_code(stop.signal_number)
    except KeyboardInterrupt as stop:
        if keeps:
            print("stopped; the same command resumes from here", file=sys.stderr)
        return exit_code(stop.signal_number if isinstance(stop, Asked) else signal.SIGINT)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _mistake(f"{f'{name}: ' if name else ''}{reason(error)}: give it less at once, or a smaller model")


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _mistake(text: str) -> int:
    tell_error(text)
    return MISTAKE


def _undelivered(output: Forgiving) -> int:
    if not output.lost:
        return 0
    if isinstance(output.lost[0], BrokenPipeError):
        return 128 + signal.SIGPIPE
    return _mistake(f"standard output: {getattr(output.lost[0], 'strerror', None) or output.lost[0]}")
