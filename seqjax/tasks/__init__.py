"""What is learnt: one file a task. Import a task from its file; `seqjax.tasks.task` says what it has to hold.

A task may also come from a file outside of the package, see `seqjax.tasks.own`.
"""

from __future__ import annotations

import importlib
from typing import Any

from seqjax.host.own_code import is_own
from seqjax.tasks import own

TASKS = ("text", "delays", "lines", "sentiment", "steering", "translation")


def task_module(name: str) -> Any:
    """What the file of a task holds: `Config`, `check`, `load`, `make_task`.

    Args:
        name: in `TASKS`, or that of one of the user's own.
    Raises:
        UserError: the code of a task of the user's own is not loaded.
    """
    if not is_own(name):
        return importlib.import_module(f"seqjax.tasks.{name}")
    if (found := own.shelf.known(name)) is None:
        raise own.refuse(name)
    return found


def task_of(words: str) -> Any:
    """As `task_module`, of a file of the user's own too: ``FILE.py`` or ``PACKAGE.MODULE``; its code is run.

    Raises:
        UserError: there is no such file, or its code fails.
    """
    return task_module(own.shelf.load(words) if own.shelf.names_file(words) else words)
