"""Whether this process had its cores for itself: a time that was measured beside other work is too long."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from seqjax.host.wording import counted

SHARED = 0.1
"""A larger share of the time spent waiting for a core means that other work ran beside."""


class Waiting:
    """Seconds that this process waits for cores which other work has, from now on.

    Its own threads wait for each other too. So it is never more than the seconds that others had the cores.
    """

    def __init__(self) -> None:
        self._began, self._since = time.perf_counter(), (seconds_waited(), seconds_of_others())

    def seconds(self) -> float | None:
        """None where the system does not tell. It can exceed the time that passed: several threads may wait at once."""
        waited, others = seconds_waited(), seconds_of_others()
        if None in (waited, others, *self._since):
            return None
        return max(0.0, min(waited - self._since[0], others - self._since[1]))

    def share(self) -> float | None:
        """Those seconds over the time that passed; above `SHARED` other work ran beside. None as for `seconds`."""
        waited = self.seconds()
        return None if waited is None else waited / (time.perf_counter() - self._began)


def beside(shares: Iterable[float | None], what: str, told: str) -> list[str]:
    """A note if some waited for a core more than `SHARED` of their time; else nothing.

    Args:
      shares: of each, see `Waiting.share`; None or NaN where it is not known.
      what: one of them, such as "run".
      told: what is wrong then.
    """
    shares = list(shares)
    if not (count := sum(share is not None and share > SHARED for share in shares)):
        return []
    return [
        f"other work ran beside {count} of {counted(len(shares), what)}, which waited for a core more than a tenth of "
        f"their time: {told}"
    ]


def seconds_of_others() -> float | None:
    """Seconds that the cores of this process worked for others, since the system began; None where it does not tell.

    Linux counts the time of each core by what it did (``/proc/stat``), in ticks.
    """
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        times = [list(map(int, line.split()[1:9])) for line in lines if line.split()[0] in ours]
    except (OSError, IndexError, ValueError, AttributeError):
        return None
    ticks = sum(sum(core) - core[3] - core[4] for core in times)  # without idle, and waiting for a disk
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time() if times else None


def seconds_waited() -> float | None:
    """Seconds that the threads of this process were ready to run and waited for a core, since they began.

    Linux counts them for each thread (second number of ``schedstat``). None where the system does not tell.
    """
    found = []
    try:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                found.append(int((thread / "schedstat").read_text().split()[1]))
    except (OSError, IndexError, ValueError):
        return None
    return sum(found) / 1e9 if found else None
