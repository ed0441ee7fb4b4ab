"""Memory and processor limits of a container or job: control groups (cgroups), version 1 and 2.

The kernel counts memory in bytes and processor time in microseconds per period. The limits of a process's own group and
of all groups above it apply. A missing or unreadable file means no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMORY_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
MEMORY_USED = ("memory.current", "memory.usage_in_bytes")
GIVEN_BACK = ("inactive_file", "total_inactive_file")  # cached files, which the kernel drops when memory is short


def memory_left(root: Path = Path("/")) -> float:
    """Bytes that can still be allocated under the limits; infinite without limits.

    Args:
        root: the folder of ``proc`` and ``sys``.
    """
    return min((_left(group) for group in _groups(root, "memory")), default=math.inf)


def cores_of_quota(root: Path = Path("/")) -> float:
    """Number of processor cores that the quotas allow; infinite without quotas."""
    return min((_quota(group) for group in _groups(root, "cpu")), default=math.inf)


def _left(group: Path) -> float:
    limits = [number for name in MEMORY_LIMITS if (number := _number(_text(group / name))) is not None]
    used = next((number for name in MEMORY_USED if (number := _number(_text(group / name))) is not None), 0.0)
    counters = dict(line.split()[:2] for line in _text(group / "memory.stat").splitlines() if len(line.split()) >= 2)
    spare = max(_number(counters.get(name, "")) or 0.0 for name in GIVEN_BACK)
    return max(0.0, min(limits, default=math.inf) - max(0.0, used - spare))


def _quota(group: Path) -> float:
    words = _text(group / "cpu.max").split() or [
        _text(group / "cpu.cfs_quota_us").strip(),
        _text(group / "cpu.cfs_period_us").strip(),
    ]
    quota, period = (_number(word) for word in (words + [""])[:2])
    return quota / (period or 100_000) if quota else math.inf


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's groups for a controller, and of the groups above them, if they are mounted."""
    paths = {}  # controller, or "" of version 2 -> path of the group
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, rest = line.partition(" - ")
        fields, system = mount.split(), rest.split()
        if len(fields) < 5 or len(system) < 3:
            continue
        if system[0] == "cgroup2":
            path = paths.get("")
        elif system[0] == "cgroup" and controller in system[2].split(","):
            path = paths.get(controller)
        else:
            continue
        place = root / fields[4].lstrip("/")
        yield place
        below = PurePosixPath(path or "/")
        if below.is_relative_to(fields[3]):  # else the mount shows another part of the tree: only its top is known
            for name in below.relative_to(fields[3]).parts:
                place = place / name
                yield place


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(text: str) -> float | None:
    """A count of the kernel; None for ``max``, -1 and other texts."""
    text = text.strip()
    return float(text) if text.isascii() and text.isdigit() else None
