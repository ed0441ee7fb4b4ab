"""The tasks, one file each. Import a task from its file; `seqjax.tasks.task` lists what the file contains.

A task may also come from a file outside the package, see `seqjax.tasks.own`.
"""

from __future__ import annotations

import importlib
from typing import Any

from seqjax.host.own_code import is_own
from seqjax.tasks import own

TASKS = ("text", "abilities", "delays", "lines", "sentiment", "steering", "translation")


def task_module(name: str) -> Any:
    """The module of a task, with `Config`, `check`, `load` and `make_task`.

    Args:
        name: one in `TASKS`, or the name of a task of the user's own.
    Raises:
        UserError: the code of a task of the user's own is not loaded.
    """
    if not is_own(name):
        return importlib.import_module(f"seqjax.tasks.{name}")
    if (found := own.shelf.known(name)) is None:
        raise own.refuse(name)
    return found


def task_of(words: str) -> Any:
    """As `task_module`, and also for ``FILE.py`` or ``PACKAGE.MODULE`` of the user's own. That code is run.

    Raises:
        UserError: there is no such file, or its code fails.
    """
    return task_module(own.shelf.load(words) if own.shelf.names_file(words) else words)
