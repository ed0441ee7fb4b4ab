"""What a sweep may use: the limits of containers and jobs, the devices that are to be seen."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

import pytest

from seqjax.host.limits import cores_of_quota, memory_left
from seqjax.sweeps import machine
from seqjax.sweeps.launch import local, process

GIB = 2**30
NONE = "9223372036854771712"  # how version 1 writes that there is no limit
V2 = "40 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)
BOUND = V1.replace("/ /sys", "/docker/c1 /sys")  # a container that sees its own group alone
HYBRID = V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def a_root(folder: Path, mounts: str, cgroup: str, files: dict[str, str]) -> Path:
    """A tree with ``proc`` and ``sys``; ``files`` are named from /sys/fs/cgroup."""
    texts = {"proc/self/mountinfo": mounts, "proc/self/cgroup": cgroup, "proc/meminfo": "MemAvailable: 67108864 kB\n"}
    for name, text in (texts | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def v1(group: str, limit: str, used: int = 0, stat: str = "") -> dict[str, str]:
    return {
        f"memory{group}/memory.limit_in_bytes": f"{limit}\n",
        f"memory{group}/memory.usage_in_bytes": f"{used}\n",
        f"memory{group}/memory.stat": stat,
    }


@pytest.mark.parametrize(("mounts", "cgroup", "files", "gib"), [
    (V2, "0::/\n", {"memory.max": f"{8 * GIB}\n", "memory.current": f"{2 * GIB}\n"}, 6),
    (V2, "0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, math.inf),
    (V2, "0::/\n", {}, math.inf),
    (V2, "0::/a/b\n", {"a/memory.max": f"{4 * GIB}", "a/memory.current": f"{GIB}", "a/b/memory.max": "max"}, 3),
    (V2, "0::/a/b\n", {"a/memory.max": f"{9 * GIB}", "a/b/memory.max": "max", "a/b/memory.high": f"{2 * GIB}"}, 2),
    (V2, "0::/a\n", {"a/memory.max": f"{4 * GIB}", "a/memory.current": f"{3 * GIB}",
                     "a/memory.stat": f"anon 5\ninactive_file {2 * GIB}\n"}, 3),
    (V2, "0::/gone\n", {"memory.max": f"{GIB}"}, 1),
    (V2, "0::/\n", {"memory.max": f"{GIB}", "memory.current": f"{2 * GIB}"}, 0),
    (V2, "0::/\n", {"memory.max": "nonsense", "memory.current": "", "memory.stat": "\nx\n"}, math.inf),
    (V1, "4:memory:/\n", v1("", str(4 * GIB), GIB), 3),
    (V1, "4:memory:/slurm/job_7/step_0\n", v1("", NONE) | v1("/slurm/job_7", str(2 * GIB), GIB), 1),
    (V1, "4:memory:/a\n", v1("", NONE) | v1("/a", str(4 * GIB), 3 * GIB, f"total_inactive_file {GIB}\n"), 2),
    (BOUND, "4:memory:/docker/c1\n", v1("", str(2 * GIB)), 2),
    (BOUND, "4:memory:/docker/c1/inner\n", v1("", str(8 * GIB)) | v1("/inner", str(3 * GIB)), 3),
    (BOUND, "4:memory:/\n", v1("", str(2 * GIB)), 2),
    (HYBRID, "4:memory:/a\n0::/u\n", v1("/a", str(3 * GIB)), 3),
    ("", "", {"memory.max": "1"}, math.inf),
    ("what\nis this - \n", "x\n::\n", {}, math.inf),
])  # fmt: skip
def test_memory_that_may_be_taken(tmp_path: Path, mounts: str, cgroup: str, files: dict[str, str], gib: float) -> None:
    root = a_root(tmp_path, mounts, cgroup, files)
    assert memory_left(root) / GIB == gib or (gib == math.inf and memory_left(root) > 1e6 * GIB)
    assert machine._free_memory(root) == max(min(gib, 64), 0.25) * GIB  # of the 64 GiB that are free


def cfs(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    place = f"cpu,cpuacct{group}"
    return {f"{place}/cpu.cfs_quota_us": f"{quota}\n", f"{place}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(("mounts", "cgroup", "files", "quota", "cores"), [
    (V2, "0::/\n", {"cpu.max": "200000 100000\n"}, 2, 2),
    (V2, "0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, 2),
    (V2, "0::/\n", {"cpu.max": "5000 100000\n"}, 0.05, 1),
    (V2, "0::/\n", {"cpu.max": "max 100000\n"}, math.inf, 8),
    (V2, "0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3, 3),
    (V2, "0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "50000 50000"}, 1, 1),
    (V2, "0::/\n", {"cpu.max": "6400000 100000\n"}, 64, 8),
    (V2, "0::/\n", {"cpu.max": "400000\n"}, 4, 4),
    (V2, "0::/\n", {"cpu.max": "\n"}, math.inf, 8),
    (V1, "3:cpu,cpuacct:/\n", cfs("", 250_000), 2.5, 3),
    (V1, "3:cpu,cpuacct:/\n", cfs("", -1), math.inf, 8),
    (V1, "3:cpuacct,cpu:/pod/c\n", cfs("", -1) | cfs("/pod", 400_000) | cfs("/pod/c", 100_000, 50_000), 2, 2),
])  # fmt: skip
def test_cores_that_a_quota_pays_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mounts: str,
    cgroup: str,
    files: dict[str, str],
    quota: float,
    cores: int,
) -> None:
    root = a_root(tmp_path, mounts, cgroup, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8, 16)))
    assert cores_of_quota(root) == quota
    found = machine._cores(root)
    assert len(found) == cores and set(found) <= set(range(8, 16)) and found == sorted(found)


def test_limits_that_may_not_be_read_limit_nothing(tmp_path: Path) -> None:
    root = a_root(tmp_path, V2, "0::/\n", {"memory.current": "0"})
    (root / "sys/fs/cgroup/memory.max").mkdir()  # reading it fails, also as root
    assert memory_left(root) == math.inf


def test_a_limit_of_the_shell_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * GIB, resource.RLIM_INFINITY))
    assert machine._free_memory(a_root(tmp_path, "", "", {})) == 3 * GIB


@pytest.mark.parametrize(("text", "names"), [
    ("0,1", ["0", "1"]),
    ("0, 1", ["0", "1"]),
    ("-1", []),
    ("", []),
    (" ", []),
    (",", []),
    ("NoDevFiles", []),
    ("none", []),
    ("void", []),
    ("2,-1,0", ["2"]),
    ("1,1", ["1"]),
    ("GPU-8932f937-d72c,MIG-GPU-3/1/0", ["GPU-8932f937-d72c", "MIG-GPU-3/1/0"]),
])  # fmt: skip
def test_devices_that_are_to_be_seen(monkeypatch: pytest.MonkeyPatch, text: str, names: list[str]) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _: True)
    assert machine._gpus() == names


@pytest.mark.parametrize("program", ["#!/no/such/shell\n", "not a program", "#!/bin/sh\nexit 9\n"])
def test_a_broken_nvidia_smi_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    (tmp_path / "nvidia-smi").write_text(program)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._nvidia_smi("name") == []


def test_more_workers_than_gpus_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part of the memory, and the next worker goes to the GPU with the fewest."""
    monkeypatch.setattr(machine, "_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(machine, "_gpu_memory", lambda: 80e9)
    assert machine.this_machine(2).sharing == 1 and machine.this_machine(2).memory == pytest.approx(56e9)
    shared = machine.this_machine(5)
    assert shared.gpus == ("0", "1", "0", "1", "0") and (shared.slots, shared.devices, shared.sharing) == (5, 2, 3)
    assert shared.memory == pytest.approx(56e9 / 3) and "17.4 GiB for each of 3 workers on one" in shared.describe()
    started = []
    monkeypatch.setattr(process.subprocess, "Popen", lambda *_, env, **__: started.append(env))
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    pool = local.Pool(None, shared)
    while (worker := pool._take(1)) is not None:
        pool.busy[worker] = None
    found = [(env["CUDA_VISIBLE_DEVICES"], env["XLA_PYTHON_CLIENT_MEM_FRACTION"]) for env in started]
    assert found == [("0", "0.300"), ("0", "0.300"), ("1", "0.300"), ("0", "0.300"), ("1", "0.300")]
