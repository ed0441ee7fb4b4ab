"""A task's evaluation of one run, step by step as the loop does it."""

from __future__ import annotations

from typing import Any

import jax

from seqjax.tasks.task import Found, Task


def evaluate(task: Task, params: Any) -> Found:
    score = jax.jit(task.objective.score)
    return task.summary([jax.device_get(score(params, batch, None)[0]) for batch in task.held_out(False)], False)
