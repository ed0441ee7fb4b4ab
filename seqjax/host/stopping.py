"""Signals to stop: Ctrl-C, the system, a terminal that closes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPPED = 75  # exit code of a process that saved its state and should be started again
ASKS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals that ask a process to stop. Slurm warns by SIGUSR1 or SIGUSR2; SIGHUP means a closed terminal."""
_left: list[int] = []  # signals that `leave_signals` has raised for
ONE_PRESS = 1.0  # seconds: a second Ctrl-C within them may be the same one, forwarded by a wrapper


class Interrupted(Exception):
    """Training was asked to stop; the state is saved, and the same command resumes it."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.signal_number = signal_number
        self.step = step


class Asked(KeyboardInterrupt):
    """A signal to stop while nothing needs to be saved: the process ends at once, as by Ctrl-C."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


def exit_code(signal_number: int) -> int:
    """130 after Ctrl-C, as in shells; 75 after every other signal: start the command again."""
    return 128 + signal.SIGINT if signal_number == signal.SIGINT else STOPPED


@contextmanager
def leave_signals() -> Iterator[None]:
    """Raise `Asked` at a signal, so that temporary files are removed and the exit code is set.

    Python drops an exception that a handler raises inside a callback, such as JAX's callback for garbage collection.
    So the signal is also kept for `stop_signals`, and a signal more than `ONE_PRESS` later raises again.
    """
    raised: list[float] = []

    def leave(number: int, _frame: Any) -> None:
        if raised and number != signal.SIGINT and time.monotonic() - raised[-1] < ONE_PRESS:
            return
        raised.append(time.monotonic())
        _left.append(number)
        raise Asked(number)

    try:
        with _handled(leave):
            yield
    finally:
        _left.clear()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list to which signals of `ASKS` are added, to check where it is safe to stop. A second Ctrl-C stops at once.

    In other threads than the main thread the list stays empty.
    """
    asked = list(_left)  # earlier signals whose exception was dropped
    pressed: list[float] = []

    def ask(number: int, _frame: Any) -> None:
        asked.append(number)
        if number == signal.SIGINT:
            pressed.append(time.monotonic())
            if pressed[-1] - pressed[0] > ONE_PRESS:
                raise KeyboardInterrupt

    with _handled(ask):
        yield asked


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Install a handler for the signals that may be handled, and restore the earlier handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler.__dict__["ours"] = True
    before = {number: signal.signal(number, handler) for number in ASKS if _may_be_taken(number)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _may_be_taken(number: int) -> bool:
    """False for a signal that the parent ignores (nohup, `&`), or that has another handler, such as submitit's."""
    now = signal.getsignal(number)
    if number in (signal.SIGTERM, signal.SIGINT):
        return now not in (signal.SIG_IGN, None)
    return now is signal.SIG_DFL or hasattr(now, "ours")
