"""Being asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPPED = 75  # exit code of a process that saved its state and wants to be started again


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that SIGTERM and Ctrl-C fill, to be looked at where it is safe to stop; another Ctrl-C stops at once.

    Only the main thread can be asked; elsewhere the list stays empty.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _frame: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
