"""What is learnt: one file a task. Import a task from its file; `seqjax.tasks.task` says what it has to hold."""

from __future__ import annotations

import importlib
from types import ModuleType

TASKS = ("text", "delays", "lines", "sentiment", "steering", "translation")


def task_module(name: str) -> ModuleType:
    """The file of a task of this package."""
    return importlib.import_module(f"seqjax.tasks.{name}")
