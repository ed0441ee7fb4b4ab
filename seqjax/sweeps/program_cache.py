"""The folder of compiled programs: it stays below a bound, and those used longest ago go first."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST_BYTES = 2 * 2**30


def trim(folder: Path, most_bytes: float = MOST_BYTES) -> int:
    """Delete the files used longest ago, until the rest takes three quarters of the bound; return how many went.

    Below the bound nothing is done. A program that is deleted is compiled again when it is needed. Other processes may
    read, write and trim meanwhile.
    """
    files = []
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file():
                    seen = path.stat()
                    files.append((max(seen.st_atime, seen.st_mtime), seen.st_size, path))
    total, gone = sum(size for _, size, _ in files), 0
    if total <= most_bytes:
        return 0
    for _, size, path in sorted(files):
        if total <= 0.75 * most_bytes:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            total, gone = total - size, gone + 1
    return gone
