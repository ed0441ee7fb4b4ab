"""The whole-sequence kernel compiled for an H100 on a machine without one: what it needs of the chip.

    python experiments/benchmarks/kernel_compiled.py                 # two minutes
    python experiments/benchmarks/kernel_compiled.py --only lstm:32  # one cell and width

Needs the CUDA plugin of JAX (extra `preflight`) and, for registers and spills, ptxas on the path. A row is the kernel
of a forward or backward pass, B = 64, T = 1024, bfloat16: its programs and threads, bytes of shared memory, registers
of a thread, bytes spilled, and in the loop over time, barriers and a thread's loads from memory (none of W_h).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "kernel" / "compiled.json"
CASES = tuple(f"{family}:{width}" for family in ("lstm", "gru") for width in (128, 64, 32))
BATCH, TIMES = 64, 1024
COLUMNS = ("programs", "threads", "shared", "registers", "spilled", "barriers", "loads")
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
PTXAS = """#!/bin/sh
case "$1" in --version) exec "{ptxas}" "$@";; esac
log=$(mktemp "{logs}/XXXXXX") && cp "$1" "$log.ptx" && exec "{ptxas}" -v "$@" 2> "$log.log"
"""


def main() -> int:
    """Compile each case in a process of its own, print and record."""
    parser = argparse.ArgumentParser(description="The whole-sequence kernel compiled for an H100.")
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="[experiments/results/kernel]")
    parser.add_argument("--compile", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        compile_one(*options.compile.split(":"))
        return 0
    sys.path.append(str(HERE.parents[1]))
    from seqjax.host.disk import write_json

    rows: list[dict[str, Any]] = []
    print(" " * 20 + "".join(f"{name:>10}" for name in COLUMNS))
    for case in [options.only] if options.only else CASES:
        for row in measured(case):
            rows.append(row)
            name = f"{row['kernel']} {case.split(':')[1]}"
            print(f"{name:<20}" + "".join(f"{row.get(name, '-'):>10}" for name in COLUMNS))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"target": "NVIDIA H100 80GB HBM3", "batch": BATCH, "context": TIMES, "rows": rows})
    return 0


def measured(case: str) -> list[dict[str, Any]]:
    """The rows of a cell and width, from what XLA and ptxas write while they compile it."""
    with tempfile.TemporaryDirectory() as name:
        folder, ptxas = Path(name), shutil.which("ptxas")
        flags = f"--xla_dump_to={folder}/dump"
        if ptxas:
            (folder / "bin").mkdir()
            (folder / "bin" / "ptxas").write_text(PTXAS.format(ptxas=ptxas, logs=folder))
            (folder / "bin" / "ptxas").chmod(0o755)
            flags += f" --xla_gpu_cuda_data_dir={folder} --xla_gpu_enable_libnvptxcompiler=false"
        path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
        here = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PATH": path, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        subprocess.run([sys.executable, __file__, "--compile", case], env=os.environ | here, check=True)
        thunks = "\n".join(file.read_text() for file in folder.glob("dump/*thunk_sequence.txt"))
        rows = [found(case, line) for line in thunks.splitlines() if re.search(r"(forward|backward) grid:", line)]
        for log in folder.glob("*.log"):
            for row in rows:
                if f"entry function '{row['kernel']}'" in (told := log.read_text()):
                    stores, loads = map(int, re.search(r"(\d+) bytes spill stores, (\d+) bytes spill", told).groups())
                    ptx = log.with_suffix(".ptx").read_text()
                    row |= {"registers": int(re.search(r"Used (\d+) registers", told)[1]), "spilled": stores + loads}
                    loop = re.search(r"\n(\$L__BB\d+_\d+):(.*?)\bbra(?:\.uni)?\s+\1;", ptx, re.DOTALL)[2]
                    row |= {"barriers": loop.count("bar.sync"), "loads": loop.count("ld.global")}
        return rows


def found(case: str, line: str) -> dict[str, Any]:
    """A line of XLA's list of kernels."""
    numbers = re.search(r"(\w+) grid: \[(\d+), (\d+), 1\] threads: \[(\d+), 1, 1\]\s+shared_memory: (\d+)", line)
    kernel, *sizes = numbers.groups()
    x, y, threads, shared = map(int, sizes)
    return {"case": case, "kernel": kernel, "programs": x * y, "threads": threads, "shared": shared}


def compile_one(family: str, width: str) -> None:
    """Values and gradients of one layer, for the target."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

    sys.path.append(str(HERE.parents[1]))
    from seqjax.families import FAMILIES
    from seqjax.layers.target import compiled_for, target_of
    from seqjax.through_time.nonlinear import unroll

    cell = FAMILIES[family](int(width))
    device = topologies.get_topology_desc("h100", "cuda", target_config=H100, topology="1x1x1").devices[0]

    def loss(params: Any, x: Any, state: Any) -> Any:
        return unroll(cell, params, x, state, "bfloat16", "kernel")[0].astype(jnp.float32).sum()

    def arguments() -> Any:
        x = jnp.zeros((TIMES, BATCH, cell.d_model), "bfloat16")
        return cell.init_cell(jax.random.key(0), cell.d_model), x, cell.cell_state(BATCH)

    def placed(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device))

    described = {"device_kind": device.device_kind, "num_cores": None}
    if "platform" in AbstractDevice.__dataclass_fields__:  # from jax 0.11
        described["platform"] = "gpu"
    mesh = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(**described))  # Pallas asks it for the card
    with compiled_for(target_of(device)), jax.sharding.use_abstract_mesh(mesh):
        shapes = jax.tree.map(placed, jax.eval_shape(arguments))
        traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).trace(*shapes)
        lowered = traced.lower(lowering_platforms=("cuda",))
    lowered.compile()


if __name__ == "__main__":
    sys.exit(main())
