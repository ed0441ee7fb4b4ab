"""A setting of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation, instead of returning it to the kernel.

    On a CPU XLA allocates the temporary arrays of a program at every call. If memory is returned, each page costs a
    page fault and is filled with zeros: a third of the time of a step of a Transformer with 0.8 M parameters
    (`experiments/benchmarks/pieces.py`). The price: the process never shrinks. Call it before threads start. Without
    glibc it does nothing.
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
