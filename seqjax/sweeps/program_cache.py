"""The folder of compiled programs that processes share. It stays below a bound; those used longest ago go first."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST_BYTES = 2 * 2**30


def share_compilations(*others: str) -> None:
    """Share compiled programs between all processes on this kind of machine, unless the user has chosen a folder.

    Args:
        others: see `machine_key`.
    """
    import jax

    from seqjax.data import cache_folder
    from seqjax.training.hardware import machine_key

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        trim(cache_folder() / "xla")
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla" / machine_key(*others)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


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
