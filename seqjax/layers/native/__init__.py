"""C++ for CPUs: recurrences and attention, used where a C++ compiler is at hand, never required.

The sources are compiled once for this machine, into the cache folder, and registered with JAX as XLA custom calls. They
compute what seqjax computes in JAX, equal up to rounding.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from seqjax.folders import cache_folder

FOLDER = Path(__file__).parent
SOURCES = ("recurrence.cc", "attention.cc")
FUNCTIONS = tuple(f"{what}_{way}" for what in ("elman", "lstm", "gru", "attention") for way in ("forward", "backward"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")


@functools.cache
def compiled() -> bool:
    """Whether the compiled functions are there; compiles (once on a machine, 10 s) and registers at the first call.

    They are not there on another backend than a CPU, without a C++ compiler (`$CXX`, c++ or g++), where it fails, and
    where the environment says `SEQJAX_NATIVE=0`.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    wanted = os.environ.get("SEQJAX_NATIVE", "1") != "0"
    if not (wanted and compiler and jax.default_backend() == "cpu"):
        return False
    try:
        functions = ctypes.CDLL(str(_shared_library(compiler)))
        for name in FUNCTIONS:
            capsule = jax.ffi.pycapsule(getattr(functions, name))
            jax.ffi.register_ffi_target(f"seqjax_{name}", capsule, platform="cpu")
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().rpartition("\n")[2]
        print(f"note: recurrences and attention run without their C++ form: {reason}", file=sys.stderr)
        return False
    return True


def _shared_library(compiler: str) -> Path:
    """The compiled file of this source, for this compiler, processor and version of XLA's interface."""
    include = Path(jax.ffi.include_dir())
    cpuinfo = Path("/proc/cpuinfo")
    cpu = next((line for line in cpuinfo.read_text().splitlines() if "flags" in line), "") if cpuinfo.is_file() else ""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    text = "".join((FOLDER / name).read_text() for name in ("common.h", *SOURCES))
    parts = (text, " ".join(FLAGS), version, platform.machine(), platform.processor(), cpu, str(include))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = cache_folder() / "native" / f"seqjax-{key}.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # renamed when whole: others may compile too
            made = Path(folder) / path.name
            sources = [str(FOLDER / name) for name in SOURCES]
            command = [compiler, *FLAGS, "-fPIC", "-shared", f"-I{include}", *sources, "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            made.replace(path)
    return path


def like(x: Array, width: int) -> jax.ShapeDtypeStruct:
    """The shape of `x` with another last axis, float32."""
    return jax.ShapeDtypeStruct((*x.shape[:-1], width), jnp.float32)


def call(name: str, results: Any, *arguments: Array) -> list[Array]:
    """One compiled function: results shaped as the given ones; under `vmap` all arrays get another axis in front."""
    shapes = tuple(jax.ShapeDtypeStruct(result.shape, jnp.float32) for result in results)
    return list(jax.ffi.ffi_call(f"seqjax_{name}", shapes, vmap_method="broadcast_all")(*arguments))
