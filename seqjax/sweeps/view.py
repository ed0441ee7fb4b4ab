"""Progress of a sweep: a few lines that are redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from seqjax.host.streams import is_terminal, tell
from seqjax.host.wording import duration
from seqjax.sweeps import folder as folders
from seqjax.sweeps.programs import Unit

LINE_EVERY = 20.0  # seconds between two plain lines
REDRAW_EVERY = 0.5
SHOWN = 12  # units with a line of their own


class View:
    """Runs done, running, failed and left, and the time left.

    Args:
        folder: the sweep folder; the state of the runs is read from it.
        run_ids: all runs of the sweep; `track` replaces them.
    """

    def __init__(self, folder: Path, run_ids: Sequence[str], stream: TextIO | None = None) -> None:
        self.folder = folder
        self.run_ids = list(run_ids)
        self._stream = stream or sys.stderr
        self._terminal = is_terminal(self._stream)
        self._lines = 0  # lines of the block on the screen
        self._shown = -LINE_EVERY
        self._began = time.monotonic()
        self._ended: dict[str, str] = {}  # run id -> finished, diverged
        self._steps: dict[str, int] = {}
        self._done_before: float | None = None

    def track(self, run_ids: Sequence[str]) -> None:
        """Set the runs of the sweep, when the search has added some."""
        self.run_ids = list(run_ids)
        self._done_before = None
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        self._print(text + "\n")

    def show(self, busy: Sequence[Unit], waiting: Sequence[Unit], given_up: Sequence[str] = ()) -> None:
        """Redraw, or print a plain line, if it is time."""
        now = time.monotonic()
        if now - self._shown < (REDRAW_EVERY if self._terminal else LINE_EVERY):
            return
        self._shown = now
        self._look(busy)
        head = self.summary(len({i for unit in busy for i in unit.run_ids} - self._ended.keys()), len(given_up))
        head += self._time_left(busy, waiting)
        if not self._terminal:
            self._print(head + "\n")
            return
        width = shutil.get_terminal_size().columns - 1
        lines = [head, *(f"  {self._unit(unit)}" for unit in busy[:SHOWN])]
        if len(busy) > SHOWN:
            lines.append(f"  and {len(busy) - SHOWN} more")
        self._erase()
        self._print("".join(line[:width] + "\n" for line in lines))
        self._lines = len(lines)

    def summary(self, running: int, failed: int) -> str:
        """The counts of runs by state, in words."""
        finished = sum(name == "finished" for name in self._ended.values())
        diverged = len(self._ended) - finished
        parts = [f"{finished} of {len(self.run_ids)} runs done"]
        parts += [f"{diverged} diverged"] if diverged else []
        parts += [f"{running} running"] if running else []
        parts += [f"{failed} failed"] if failed else []
        return ", ".join(parts)

    def close(self) -> None:
        """Erase the redrawn lines."""
        self._erase()

    def _look(self, busy: Sequence[Unit]) -> None:
        from seqjax import runs

        for run_id in self.run_ids:
            if run_id not in self._ended and (result := runs.read_result(self.folder / run_id)) is not None:
                self._ended[run_id] = result["status"]
        for unit in busy:
            for run_id in unit.run_ids:
                self._steps[run_id] = folders.last_step(self.folder / run_id)

    def _share(self, unit: Unit) -> float:
        """Share of a unit's steps that are done."""
        shares = [
            1.0 if r.run_id in self._ended else self._steps.get(r.run_id, 0) / r.config.train.steps for r in unit.runs
        ]
        return sum(shares) / len(shares)

    def _time_left(self, busy: Sequence[Unit], waiting: Sequence[Unit]) -> str:
        """Time left by the prediction, corrected by the pace so far."""
        units = [*busy, *waiting]
        if not units or any(unit.seconds is None for unit in units):
            return ""
        left = sum((1 - self._share(unit)) * unit.seconds for unit in units)
        if self._done_before is None:
            self._done_before = left
        worked, elapsed = self._done_before - left, time.monotonic() - self._began
        pace = worked / elapsed if worked > 0.05 * self._done_before and elapsed > 5 else max(1, len(busy))
        longest = max((1 - self._share(unit)) * unit.seconds for unit in units) / max(1.0, pace / max(1, len(busy)))
        return f", {duration(max(left / pace, longest))} left"

    def _unit(self, unit: Unit) -> str:
        step = max((self._steps.get(run_id, 0) for run_id in unit.run_ids), default=0)
        steps = unit.runs[0].config.train.steps
        bar = "=" * round(20 * step / steps)
        return f"[{bar:<20}] {step:>{len(str(steps))}}/{steps}  {unit.label}"

    def _erase(self) -> None:
        if self._lines:
            self._print(f"\x1b[{self._lines}F\x1b[J")
            self._lines = 0

    def _print(self, text: str) -> None:
        tell(text, self._stream)
