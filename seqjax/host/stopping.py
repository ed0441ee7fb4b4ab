"""Being asked to stop: by Ctrl-C, by the system, by a terminal that closes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPPED = 75  # exit code of a process that saved its state and wants to be started again
ASKS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals that ask a process to stop; SIGUSR1 and SIGUSR2 are how Slurm warns, SIGHUP tells of a closed terminal."""
_left: list[int] = []  # signals that `leave_signals` has raised for
ONE_PRESS = 1.0  # seconds in which a wrapper may forward the Ctrl-C that the process got from the terminal itself


class Interrupted(Exception):
    """Training was asked to stop; the state is saved, and the same command goes on from there."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.signal_number = signal_number
        self.step = step


class Asked(KeyboardInterrupt):
    """Asked to stop where nothing needs to be saved; as with Ctrl-C, everything is left at once."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


def exit_code(signal_number: int) -> int:
    """130 after Ctrl-C, as shells have it; 75 after every other signal: start the command again."""
    return 128 + signal.SIGINT if signal_number == signal.SIGINT else STOPPED


@contextmanager
def leave_signals() -> Iterator[None]:
    """Raise `Asked` at a signal, so that temporary files are removed and the exit code is ours.

    Python drops an exception that a handler raises inside a callback, such as the one JAX has for garbage collection.
    So the signal is also kept for `stop_signals`, and another one more than `ONE_PRESS` later raises again.
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
    """A list that signals of `ASKS` fill, to be looked at where it is safe to stop; another Ctrl-C stops at once.

    Only the main thread can be asked; elsewhere the list stays empty.
    """
    asked = list(_left)  # what asked before, and was not heard
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
    """Install a handler for the signals that may be taken, and put back what was there."""
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
    """Not one that the parent had ignored, as nohup and `&` do; nor a handler of others, such as submitit's."""
    now = signal.getsignal(number)
    if number in (signal.SIGTERM, signal.SIGINT):
        return now not in (signal.SIG_IGN, None)
    return now is signal.SIG_DFL or hasattr(now, "ours")
