"""Progress of a run: one line that is redrawn on a terminal, plain lines elsewhere; log.txt has lines too."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from seqjax.host.streams import fitted, is_terminal, tell
from seqjax.host.wording import duration, si

LINE_EVERY = 10.0  # seconds between two progress lines that are not on a terminal
REDRAW_EVERY = 0.2


class Progress:
    """Progress of a run on standard error and in ``log.txt``.

    Args:
        log: file for whole lines; None: no file.
        quiet: print nothing to standard error.
    """

    def __init__(self, log: Path | None, quiet: bool = False) -> None:
        self._log = log
        self._quiet = quiet
        self._terminal = is_terminal(sys.stderr)
        self._moving = False
        self._shown = 0.0
        self._logged = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line and write it to the log."""
        self._clear()
        self._print(fitted(text, sys.stderr) + "\n")
        self._write(text)

    def note(self, text: str) -> None:
        """Write a line to the log only."""
        self._write(text)

    def end(self) -> None:
        """Erase the line that is redrawn."""
        self._clear()

    def is_due(self, last: bool) -> bool:
        """Whether it is time to show a step; the last step is always shown."""
        return last or time.monotonic() - self._shown >= (REDRAW_EVERY if self._terminal else LINE_EVERY)

    def step(
        self,
        step: int,
        steps: int,
        loss: float,
        per_second: float,
        unit: str,
        flops_per_second: float | None,
        peak: float | None,
        seconds_left: float,
    ) -> None:
        """Show step, loss, tokens/s, model FLOP/s and its share of the peak, and time left."""
        flops = ""
        if flops_per_second is not None:
            share = f" ({flops_per_second / peak:.1%} of peak)" if peak else ""
            flops = f"{si(flops_per_second)}FLOP/s{share}  "
        self.show(
            f"step {step:>{len(str(steps))}}/{steps}  loss {loss:.4f}  {si(per_second)} {unit}/s  "
            f"{flops}{duration(seconds_left)} left"
        )

    def show(self, text: str) -> None:
        """Redraw the line on a terminal, else print it; every `LINE_EVERY` seconds also write it to ``log.txt``."""
        now = self._shown = time.monotonic()
        self._clear()
        self._moving = self._terminal
        self._print(_short(text) if self._terminal else text + "\n")
        if now - self._logged >= LINE_EVERY:
            self._logged = now
            self._write(text)

    def bytes(self, what: str, done: int, total: int) -> None:
        """Show progress of reading text: ``done`` of ``total`` bytes (0: unknown)."""
        if self.is_due(last=False):
            self.show(f"{what}: {si(done)}B" + (f" of {si(total)}B" if total else ""))

    def _clear(self) -> None:
        if self._moving:
            self._print("\r\x1b[K")
            self._moving = False

    def _print(self, text: str) -> None:
        if not self._quiet:
            tell(text)

    def _write(self, text: str) -> None:
        if self._log is not None:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def _short(text: str) -> str:
    """What fits a line of the terminal: a line that wraps cannot be redrawn."""
    return text[: shutil.get_terminal_size().columns - 1]
