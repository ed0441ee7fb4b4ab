"""Seconds of a train step, measured in calls of several steps as in training."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

State = TypeVar("State")
CALL_SECONDS = 0.1  # aim for the duration of one call


def step_times(call: Callable[[State, int], State], state: State, at_once: int) -> Iterator[float]:
    """Seconds per step, call after call: two calls of a single step (the first may compile), then of many at once.

    Args:
        call: ``(state, count) -> state``, returns when ``count`` steps are done.
        at_once: the most steps in a call.
    """
    count = 1
    for number in itertools.count():
        began = time.perf_counter()
        state = call(state, count)
        of_one = (time.perf_counter() - began) / count
        if number == 1:
            count = int(min(at_once, max(1, CALL_SECONDS / of_one)))
        yield of_one
