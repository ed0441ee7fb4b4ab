"""Resources of a local sweep: processor cores, accelerators, memory."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import os
import platform
import re
import resource
import shutil
import subprocess
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from seqjax.host.limits import cores_of_quota, memory_left

SHARE_OF_MEMORY = 0.7  # of free memory; the rest is for compilation, checkpoints being written, other programs


@dataclass(frozen=True)
class Machine:
    """The resources of workers.

    Attributes:
        cores: processor cores that this process may use.
        gpus: the accelerator of each worker, by its name in CUDA_VISIBLE_DEVICES; empty: workers run on cores. A name
            that stands there several times is a card that workers share.
        memory: bytes for all workers together; with accelerators, for one worker.
        threads: cores per worker; None: all cores, shared among the programs to train.
        kind: name of the accelerator, or ``cpu``.
    """

    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    memory: float
    threads: int | None = None
    kind: str = "cpu"

    @property
    def sharing(self) -> int:
        """The most workers on one accelerator."""
        return max(Counter(self.gpus).values(), default=1)

    @property
    def slots(self) -> int:
        """Number of workers that can run at once, each with one accelerator or ``threads`` cores (None: 1)."""
        return len(self.gpus) or len(self.cores) // (self.threads or 1)

    @property
    def devices(self) -> int:
        """Number of different accelerators, or of workers on cores."""
        return len(set(self.gpus)) or self.slots

    def describe(self) -> str:
        """The machine in words."""
        what = f"{self.devices} GPU(s)" if self.gpus else f"{len(self.cores)} CPU core(s)"
        shared = f" for each of {self.sharing} workers on one" if self.sharing > 1 else " for runs"
        return f"{what}, {self.memory / 2**30:.1f} GiB{shared}"


def this_machine(workers: int | None = None, threads: int | None = None) -> Machine:
    """This machine, or the part of it for ``workers`` workers with ``threads`` threads.

    More workers than accelerators share them in turn, each with its part of the memory: small programs leave most of a
    card idle, and one worker compiles while another trains. NVIDIA's multi-process service lets their kernels run at
    once.
    """
    cores = _cores(Path("/"))
    gpus = _gpus()
    memory = (_gpu_memory() if gpus else _free_memory()) * SHARE_OF_MEMORY
    if workers:
        cores = cores if gpus else cores[: workers * (threads or 1)]
        shares = math.ceil(workers / len(gpus)) if gpus else 1
        gpus, memory = (gpus * shares)[:workers], memory / shares
    kind = (_nvidia_smi("name") or ["gpu"])[0] if gpus else "cpu"
    return Machine(tuple(cores), tuple(gpus), memory, min(threads, len(cores)) if threads else None, kind)


def _gpus() -> list[str]:
    """NVIDIA devices, if JAX's plugin is installed and JAX_PLATFORMS is not cpu."""
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return []
    if not any(importlib.util.find_spec(name) for name in ("jax_cuda12_plugin", "jax_cuda13_plugin")):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return visible_devices(visible)
    return [str(index) for index in range(len(_nvidia_smi("index")))]


def visible_devices(text: str) -> list[str]:
    """The devices in a value of CUDA_VISIBLE_DEVICES. As in CUDA, the first word that is not a device ends the list.

    So -1, NoDevFiles, or an empty value mean no devices.
    """
    words = (word.strip() for word in text.split(","))
    return list(dict.fromkeys(itertools.takewhile(re.compile(r"[0-9]+|(GPU|MIG)-.+").fullmatch, words)))


def _gpu_memory() -> float:
    """Bytes of the smallest device."""
    sizes = [float(text) * 2**20 for text in _nvidia_smi("memory.total") if text.replace(".", "").isdigit()]
    return min(sizes, default=16 * 2**30)


def _nvidia_smi(field: str) -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs, a file that is not a program
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _cores(root: Path) -> list[int]:
    """Processor cores to run on: the affinity mask, limited to a container's quota."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if (quota := cores_of_quota(root)) >= len(cores):
        return cores
    # containers of one host see the same cores; the container's name decides which ones it takes
    first = zlib.crc32(platform.node().encode()) % len(cores)
    return sorted((cores[first:] + cores[:first])[: max(1, math.ceil(quota))])


def _free_memory(root: Path = Path("/")) -> float:
    """Free bytes, at most the limits of a container, a job, or the shell (``ulimit -v``)."""
    free = 4 * 2.0**30
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = float(line.split()[1]) * 1024
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    of_shell = math.inf if address_space == resource.RLIM_INFINITY else float(address_space)
    return max(min(free, memory_left(root), of_shell), 2.0**28)
