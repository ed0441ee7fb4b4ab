"""What is said where the memory of the machine or of a device does not suffice."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqjax.errors import UserError

_SAYS_SO = re.compile(r"RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY|out of memory|bad_alloc", re.IGNORECASE)
TRAINING = {
    "train.accumulation": "raise",
    "train.batch_size": "lower",
    "train.context_length": "lower",
    "train.remat": "turn on",
}
EVALUATION = {"evaluation.batch_size": "lower"}
SHARED = {"train.mesh.fsdp": "raise"}


class OutOfMemory(UserError):
    """A run does not fit; the message names the keys to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or XLA (whose error is a RuntimeError) found no memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_SAYS_SO.search(str(error))))


def reason(error: BaseException) -> str:
    """``out of memory (<what was asked for>)``."""
    asked = (str(error).splitlines() or [""])[0].removeprefix("RESOURCE_EXHAUSTED: ")[:200].rstrip(". ")
    return f"out of memory ({asked})" if asked else "out of memory"


@contextlib.contextmanager
def memory_errors(
    folder: Path, config: Mapping[str, Any], keys: Mapping[str, str], lanes: int, last: Callable[[], int | None]
) -> Iterator[None]:
    """Turn memory that ran out into one line.

    Args:
        config: value of each dotted key.
        keys: what to do with which of them; those that the config lacks, or has turned on, are left out.
        lanes: runs in the program.
        last: () -> step of the last checkpoint.
    Raises:
        OutOfMemory: in the place of a MemoryError or of XLA's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        known = [key for key in keys if key in config and config[key] is not True]
        advice = [f"{keys[key]} {key} (now {config[key]})" for key in known]
        together = f" of {lanes} runs in one program" if lanes > 1 else ""
        step = last()
        kept = "no checkpoint was written yet" if step is None else f"the checkpoint of step {step} is kept"
        raise OutOfMemory(
            f"{folder}: {reason(error)}{together}; {', or '.join([*advice, 'take a smaller model'])}; {kept}"
        ) from error
