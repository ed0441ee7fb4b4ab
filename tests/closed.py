"""A folder that must not be entered."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def without_rights(inside: Path) -> Iterator[None]:
    """This process has no more rights than others within the block: root may read and write everywhere."""
    user = os.geteuid()
    if user == 0:
        for folder in [inside, *inside.parents]:
            if folder.stat().st_uid == 0 and folder.stat().st_mode & 0o005 != 0o005:
                folder.chmod(folder.stat().st_mode | 0o055)  # pytest's folders are closed to others
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@contextlib.contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Nobody may list or enter the folder within the block."""
    mode = folder.stat().st_mode
    folder.chmod(0)
    try:
        with without_rights(folder.parent):
            yield
    finally:
        folder.chmod(mode)
