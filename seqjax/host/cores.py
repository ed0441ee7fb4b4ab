"""Whether this process had its cores for itself: a time that was measured beside other work is too long."""

from __future__ import annotations

from pathlib import Path

SHARED = 0.1
"""A larger share of the time spent waiting for a core means that other work ran beside."""


def seconds_waited() -> float | None:
    """Seconds that the threads of this process were ready to run and waited for a core, since they began.

    Linux counts them for each thread (second number of ``schedstat``). None where the system does not tell.
    """
    found = 0
    try:
        for thread in Path("/proc/self/task").iterdir():
            try:
                found += int((thread / "schedstat").read_text().split()[1])
            except ProcessLookupError:  # it has just ended
                continue
    except (OSError, IndexError, ValueError):
        return None
    return found / 1e9
