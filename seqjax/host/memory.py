"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next allocation, instead of giving it back to the kernel.

    On a CPU XLA allocates the temporary arrays of a program at every call. Given back and taken again, each of their
    pages is a page fault and a page of zeros: a third of the time of a single step of a Transformer of 0.8 M parameters
    (`experiments/benchmarks/pieces.py`). The price is that the process stays as large as it once was. To be called
    before threads start; elsewhere than on glibc it does nothing.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_ARENA_MAX, 1)  # only the first arena keeps large pieces without mmap
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
