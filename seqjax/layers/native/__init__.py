"""C++ for CPUs: recurrences, attention, norms and activations. Optional: used if a C++ compiler is installed.

The sources are compiled once per machine, into the cache folder, and registered with JAX as XLA custom calls. Their
results equal the JAX implementations up to rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from seqjax.host.folders import cache_folder
from seqjax.host.streams import tell_note
from seqjax.layers.target import target

FOLDER = Path(__file__).parent
HEADERS = ("common.h", "head.h")
SOURCES = ("recurrence.cc", "attention.cc", "rows.cc")
KINDS = ("elman", "lstm", "gru", "attention", "swiglu", "gelu", "norm")
FUNCTIONS = tuple(f"{kind}_{way}" for kind in KINDS for way in ("forward", "backward"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")


UNROLLED = 8
"""Unrolled steps of a recurrence's loop on an accelerator. An LSTM 1x256, B 64, T 1024 in bfloat16 on an H200 takes
27.4 ms a train step with 1, 15.7 with 4, 14.0 with 8, 13.3 with 16 (experiments/results/accelerator)."""


def steps_in_a_turn() -> int:
    """Unrolled steps of a recurrence's loop. On an accelerator an iteration costs more time than its arithmetic."""
    return 1 if target().platform == "cpu" else UNROLLED


def in_use() -> bool:
    """Whether a program traced now may call the compiled functions: it is for one CPU device, and they are available.

    XLA would have every device of a mesh compute all rows.
    """
    return target().platform == "cpu" and target().mesh is None and compiled()


@functools.cache
def compiled() -> bool:
    """Whether the compiled functions are available. The first call compiles (6 s, once per machine) and loads them.

    They need a C++ compiler (`$CXX`, c++ or g++). If it fails, a note goes to standard error. The
    environment variable `SEQJAX_NATIVE=0` disables them.
    """
    if os.environ.get("SEQJAX_NATIVE", "1") == "0":
        return False
    try:
        compiler = _compiler()
        if not compiler:
            return False
        functions = ctypes.CDLL(str(_shared_library(compiler)))
        for name in FUNCTIONS:
            capsule = jax.ffi.pycapsule(getattr(functions, name))
            jax.ffi.register_ffi_target(f"seqjax_{name}", capsule, platform="cpu")
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)  # bytes after a timeout
        told = told.decode("utf-8", "replace") if isinstance(told, bytes) else told
        reason = told.strip().rpartition("\n")[2]
        tell_note(f"recurrences and attention run without C++: {reason}")
        return False
    return True


def _compiler() -> list[str]:
    """The words of `$CXX` (``ccache g++``, or a path with spaces in it), else c++ or g++; empty if there is none."""
    named = os.environ.get("CXX", "")
    found = shutil.which(named) or shutil.which("c++") or shutil.which("g++")
    return shlex.split(named) if named.strip() and not shutil.which(named) else [found] if found else []


def form() -> str | None:
    """The implementation in use, "C++" or "XLA"; None before the first use. Their last digits differ."""
    if target().platform != "cpu":
        return "XLA"
    return {True: "C++", False: "XLA"}[compiled()] if compiled.cache_info().currsize else None


def version() -> str:
    """A digest of the source of the functions in use; "none" where XLA does their work."""
    return hashlib.sha256(_source().encode()).hexdigest()[:16] if in_use() else "none"


def _source() -> str:
    return "".join((FOLDER / name).read_text() for name in (*HEADERS, *SOURCES))


def _shared_library(compiler: Sequence[str]) -> Path:
    """The compiled file of this source, for this compiler, processor and version of XLA's interface.

    The digest of the file is in its name and is checked: loading a truncated file would end the process. Of several
    processes that need it one compiles, and the others wait.
    """
    include = Path(jax.ffi.include_dir())
    cpuinfo = Path("/proc/cpuinfo")
    cpu = next((line for line in cpuinfo.read_text().splitlines() if "flags" in line), "") if cpuinfo.is_file() else ""
    of_compiler = _run([*compiler, "--version"], seconds=60)
    parts = (_source(), *compiler, *FLAGS, of_compiler, platform.machine(), platform.processor(), cpu, str(include))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = cache_folder() / "native"
    if made := _made(folder, key):
        return made
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as lock:
        with contextlib.suppress(OSError):  # without file locks several processes may compile at once
            fcntl.flock(lock, fcntl.LOCK_EX)
        return _made(folder, key) or _make(folder, key, [*compiler, *FLAGS, "-fPIC", f"-I{include}"])


def _made(folder: Path, key: str) -> Path | None:
    """The library of this key, if it is whole. One that is not is deleted."""
    for path in folder.glob(f"seqjax-{key}-*.so"):
        if path.stem.rpartition("-")[2] == _digest(path):
            return path
        path.unlink(missing_ok=True)
    return None


def _make(folder: Path, key: str, command: Sequence[str]) -> Path:
    """Compile the files side by side, and link them; the library gets its name when it is complete."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary, ThreadPoolExecutor() as pool:
        objects = {FOLDER / name: Path(temporary) / f"{name}.o" for name in SOURCES}
        of_one = [[*command, "-c", str(source), "-o", str(made)] for source, made in objects.items()]
        list(pool.map(lambda words: _run(words, seconds=300), of_one))
        made = Path(temporary) / "seqjax.so"
        _run([*command, "-shared", *map(str, objects.values()), "-o", str(made)], seconds=60)
        return made.replace(folder / f"seqjax-{key}-{_digest(made)}.so")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _run(command: Sequence[str], seconds: float) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=True, timeout=seconds
    )
    return done.stdout


def like(x: Array, width: int) -> jax.ShapeDtypeStruct:
    """The shape of `x` with last axis `width`, float32."""
    return jax.ShapeDtypeStruct((*x.shape[:-1], width), jnp.float32)


def call(name: str, results: Any, *arguments: Array, **numbers: np.float32) -> list[Array]:
    """Call a compiled function. Its results have the shapes of `results`. Under `vmap` arrays get a leading axis."""
    shapes = tuple(jax.ShapeDtypeStruct(result.shape, jnp.float32) for result in results)
    return list(jax.ffi.ffi_call(f"seqjax_{name}", shapes, vmap_method="broadcast_all")(*arguments, **numbers))
