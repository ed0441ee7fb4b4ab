"""The whole-sequence kernel compiled for an H100 or a TPU v5e on a machine without one: what it needs of the chip.

    python experiments/benchmarks/kernel_compiled.py                          # for an H100, two minutes
    python experiments/benchmarks/kernel_compiled.py --on v5e                 # three minutes of CPU time
    python experiments/benchmarks/kernel_compiled.py --only lstm:32:bfloat16  # one cell, width and dtype

Needs the CUDA plugin of JAX (extra `preflight`) or libtpu (extra `tpu`) and, for registers and spills, ptxas on the
path. A row is the kernel of a forward or backward pass, B = 64, T = 1024. H100: its programs and threads, bytes of
shared memory, registers of a thread, bytes spilled, and in the loop over time, barriers and a thread's loads from
memory (none of W_h). TPU: rows and time steps of a block; bytes of vector memory by the rule that chooses them
(`expected`, of the larger pass; the compiler refuses a kernel that needs more) and as compiled (`vmem`), and bytes of
operands that XLA has put there before, as W_h (`ahead`).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "kernel"
CASES = {
    "h100": tuple(f"{family}:{width}:bfloat16" for family in ("lstm", "gru") for width in (128, 64, 32)),
    "v5e": (
        *("lstm:2048:bfloat16", "lstm:1024:bfloat16", "lstm:512:bfloat16", "lstm:128:bfloat16", "lstm:1536:float32"),
        "gru:2432:bfloat16",
    ),
}
"""On v5e the widest that fit, and others."""
COLUMNS = {
    "h100": ("programs", "threads", "shared", "registers", "spilled", "barriers", "loads"),
    "v5e": ("rows", "steps", "expected", "vmem", "ahead"),
}
FILES = {"h100": "compiled.json", "v5e": "compiled_v5e.json"}
NAMES = {"h100": "NVIDIA H100 80GB HBM3", "v5e": "TPU v5e"}
BATCH, TIMES = 64, 1024
PTXAS = """#!/bin/sh
case "$1" in --version) exec "{ptxas}" "$@";; esac
log=$(mktemp "{logs}/XXXXXX") && cp "$1" "$log.ptx" && exec "{ptxas}" -v "$@" 2> "$log.log"
"""


def main() -> int:
    """Compile each case in a process of its own, print and record."""
    parser = argparse.ArgumentParser(description="The whole-sequence kernel compiled for an accelerator.")
    parser.add_argument("--on", choices=CASES, default="h100", help="[h100]")
    parser.add_argument("--only", metavar="CELL:WIDTH:DTYPE", help="one case")
    parser.add_argument("--out", type=Path, metavar="FILE", help="[in experiments/results/kernel]")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        compile_one(options.on, options.only)
        return 0
    sys.path.append(str(HERE.parents[1]))
    from seqjax.host.disk import write_json

    rows, columns = [], COLUMNS[options.on]
    out = options.out or RESULTS / FILES[options.on]
    out.parent.mkdir(parents=True, exist_ok=True)
    print(" " * 28 + "".join(f"{name:>10}" for name in columns))
    for case in [options.only] if options.only else CASES[options.on]:
        for row in measured(options.on, case):
            rows.append(row)
            name = " ".join([row["kernel"], *case.split(":")[1:]])
            print(f"{name:<28}" + "".join(f"{row.get(name, '-'):>10}" for name in columns), flush=True)
            write_json(out, {"target": NAMES[options.on], "batch": BATCH, "context": TIMES, "rows": rows})
    return 0


def measured(on: str, case: str) -> list[dict[str, Any]]:
    """The rows of a cell, width and dtype, compiled in a process of its own."""
    return on_a_card(case) if on == "h100" else on_a_tpu(case)


def compiled(on: str, case: str, **here: str) -> None:
    """Compile a case in a process with these environment variables."""
    command = [sys.executable, __file__, "--compile", "--on", on, "--only", case]
    here |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    subprocess.run(command, env=os.environ | here, check=True)


def on_a_tpu(case: str) -> list[dict[str, Any]]:
    """Rows from the compiled program: it says how much vector memory a kernel has, without its operands that XLA put
    there before."""
    sys.path.append(str(HERE.parents[1]))
    from seqjax.families import FAMILIES
    from seqjax.through_time import kernel_tpu

    family, width, dtype = case.split(":")
    kernel = FAMILIES[family](int(width)).backprop.kernel
    cut = kernel_tpu.cut(kernel, int(width), BATCH, dtype)
    expected = kernel_tpu.bytes_needed(kernel, int(width), dtype, cut)
    with tempfile.TemporaryDirectory() as folder:
        compiled("v5e", case, KERNEL_PROGRAM=f"{folder}/program")
        program = Path(folder, "program").read_text()
    sizes = {"bf16": 2, "f32": 4}
    ahead = {
        name: sizes[kind] * math.prod(map(int, shape.split(",")))
        for name, kind, shape in re.findall(r"(%[\w.-]+) = (bf16|f32)\[([\d,]+)\]\{[^}]*S\(1\)\}", program)
    }
    rows = []
    for line in filter(lambda line: "tpu_custom_call" in line, program.splitlines()):
        offset, end = (
            int(re.search(rf'"{name}":\[\{{[^}}]*"{field}":"(\d+)"', line)[1])
            for name, field in (("scoped_memory_configs", "offset"), ("used_scoped_memory_configs", "size"))
        )
        operands = set(re.findall(r"%[\w.-]+", re.search(r" custom-call\((.*?)\), custom_call_target", line)[1]))
        before = sum(ahead.get(name, 0) for name in operands)
        name = re.search(rf"{family}_(forward|backward)", line)[0]
        took = {"expected": expected, "vmem": end - offset, "ahead": before}
        rows.append({"case": case, "kernel": name, **cut._asdict(), **took})
    return rows


def on_a_card(case: str) -> list[dict[str, Any]]:
    """Rows from what XLA and ptxas write while they compile it."""
    with tempfile.TemporaryDirectory() as name:
        folder, ptxas = Path(name), shutil.which("ptxas")
        flags = f"--xla_dump_to={folder}/dump"
        if ptxas:
            (folder / "bin").mkdir()
            (folder / "bin" / "ptxas").write_text(PTXAS.format(ptxas=ptxas, logs=folder))
            (folder / "bin" / "ptxas").chmod(0o755)
            flags += f" --xla_gpu_cuda_data_dir={folder} --xla_gpu_enable_libnvptxcompiler=false"
        path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
        compiled("h100", case, XLA_FLAGS=flags, PATH=path)
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


def compile_one(on: str, case: str) -> None:
    """Values and gradients of one layer, for the target. The program is written where KERNEL_PROGRAM says."""
    sys.path.append(str(HERE.parents[1]))
    import jax
    import jax.numpy as jnp
    from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

    from seqjax.families import FAMILIES
    from seqjax.layers.target import compiled_for, target_of
    from seqjax.preflight.accelerators import target_named
    from seqjax.preflight.compiling import devices_of
    from seqjax.through_time.nonlinear import unroll

    family, width, dtype = case.split(":")
    cell = FAMILIES[family](int(width))
    device = devices_of(target_named({"v5e": "v5e-4"}.get(on, on)))[0]

    def loss(params: Any, x: Any, state: Any) -> Any:
        return unroll(cell, params, x, state, dtype, "kernel")[0].astype(jnp.float32).sum()

    def arguments() -> Any:
        x = jnp.zeros((TIMES, BATCH, cell.d_model), dtype)
        return cell.init_cell(jax.random.key(0), cell.d_model), x, cell.cell_state(BATCH)

    def placed(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device))

    described = {"device_kind": device.device_kind, "num_cores": None}
    platform = target_of(device).platform
    if "platform" in AbstractDevice.__dataclass_fields__:  # from jax 0.11
        described["platform"] = "gpu" if platform == "cuda" else platform
    mesh = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(**described))  # Pallas asks it for the card
    with compiled_for(target_of(device)), jax.sharding.use_abstract_mesh(mesh):
        shapes = jax.tree.map(placed, jax.eval_shape(arguments))
        traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).trace(*shapes)
        lowered = traced.lower(lowering_platforms=(platform,))
    program = lowered.compile()
    if "KERNEL_PROGRAM" in os.environ:
        Path(os.environ["KERNEL_PROGRAM"]).write_text(program.as_text())


if __name__ == "__main__":
    sys.exit(main())
