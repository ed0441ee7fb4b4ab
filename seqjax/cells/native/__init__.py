"""The recurrences in C++ for CPUs: used where a C++ compiler is at hand, never required.

recurrence.cc is compiled once for this machine, into the cache folder. It computes what `seqjax.cells.recurrence` and
the cells compute in JAX (the same products, kept activations and deltas), equal up to rounding.
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
from jax.typing import DTypeLike

from seqjax.folders import cache_folder

SOURCE = Path(__file__).with_name("recurrence.cc")
FUNCTIONS = tuple(f"{family}_{way}" for family in ("elman", "lstm", "gru") for way in ("forward", "backward"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")

Params = dict[str, Array]
State = Any


def usable(family: str, params: Params, dtype: DTypeLike, mask_TxB: Array | None) -> bool:
    """Whether these functions know the case: float32, no mask, reset gate after the product; and are there at all."""
    known = family in ("elman", "lstm", "gru") and "W_hn" not in params
    arrays = [leaf for name, leaf in params.items() if name in ("W_h", "b_hn")]
    float32 = jnp.dtype(dtype) == jnp.float32 and all(leaf.dtype == jnp.float32 for leaf in arrays)
    return known and float32 and mask_TxB is None and compiled()


@functools.cache
def compiled() -> bool:
    """Whether the compiled functions are there; compiles (6 s, once on a machine) and registers them at the first call.

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
        reason = getattr(error, "stderr", None) or str(error)
        print(f"note: recurrences run without their C++ form: {reason.strip().splitlines()[-1]}", file=sys.stderr)
        return False
    return True


def _shared_library(compiler: str) -> Path:
    """The compiled file of this source, for this compiler, processor and version of XLA's interface."""
    include = Path(jax.ffi.include_dir())
    cpuinfo = Path("/proc/cpuinfo")
    cpu = next((line for line in cpuinfo.read_text().splitlines() if "flags" in line), "") if cpuinfo.is_file() else ""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    parts = (SOURCE.read_text(), " ".join(FLAGS), version, platform.machine(), platform.processor(), cpu, str(include))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = cache_folder() / "native" / f"recurrence-{key}.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # renamed when whole: others may compile too
            made = Path(folder) / path.name
            command = [compiler, *FLAGS, "-fPIC", "-shared", f"-I{include}", str(SOURCE), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            made.replace(path)
    return path


def forward(family: str, params: Params, gates_x_TxBxG: Array, state: State) -> tuple[State, State, Any]:
    """The last state, the states after every step, and what the backward pass needs: as a scan of `Cell.advance`."""
    h_TxBxH = _like(gates_x_TxBxG, jax.tree.leaves(state)[0].shape[-1])
    weights = params["W_h"]
    if family == "elman":
        (states,), kept = _call("elman_forward", (h_TxBxH,), gates_x_TxBxG, weights, state), None
    elif family == "lstm":
        *states, kept = _call("lstm_forward", (h_TxBxH, h_TxBxH, gates_x_TxBxG), gates_x_TxBxG, weights, *state)
        states = tuple(states)
    else:
        d_hidden = weights.shape[0]
        bias = params.get("b_hn", jnp.zeros(d_hidden, jnp.float32))
        results = (h_TxBxH, _like(gates_x_TxBxG, 2 * d_hidden), h_TxBxH, h_TxBxH)
        states, *kept = _call("gru_forward", results, gates_x_TxBxG, weights, bias, state)
        kept = tuple(kept)
    return jax.tree.map(lambda h_TxBxH: h_TxBxH[-1], states), states, kept


def backward(
    family: str, params: Params, first: State, states: State, kept: Any, d_h_TxBxH: Array, d_last: State
) -> tuple[State, Any]:
    """The gradient of the first state, and the deltas of every step: as a scan of `Cell.retreat`."""
    weights, d_first = params["W_h"], jax.tree.map(_same, d_last)
    if family == "elman":
        deltas, d_first = _call("elman_backward", (states, d_first), states, weights, d_h_TxBxH, d_last)
        return d_first, deltas
    if family == "lstm":
        arguments = (kept, weights, first[1], states[1], d_h_TxBxH, *d_last)
        deltas, *d_first = _call("lstm_backward", (kept, *d_first), *arguments)
        return tuple(d_first), deltas
    results = (_like(d_h_TxBxH, weights.shape[1]), d_h_TxBxH, d_first)
    *deltas, d_first = _call("gru_backward", results, first, states, *kept, weights, d_h_TxBxH, d_last)
    return d_first, tuple(deltas)


def _same(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, jnp.float32)


def _like(x_TxBx: Array, width: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*x_TxBx.shape[:-1], width), jnp.float32)


def _call(name: str, results: tuple[Any, ...], *arguments: Array) -> list[Array]:
    """One compiled function; under `vmap` all of its arrays get the axis of runs in front."""
    shapes = tuple(_same(result) for result in results)
    return list(jax.ffi.ffi_call(f"seqjax_{name}", shapes, vmap_method="broadcast_all")(*arguments))
