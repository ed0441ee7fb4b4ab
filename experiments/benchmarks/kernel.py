"""The whole-sequence kernel on a GPU or TPU beside the scan: are the results equal, and how long does a step take?

    python experiments/benchmarks/kernel.py --seconds 75 --out DIR   # starts nothing after 75 s
    python experiments/benchmarks/kernel.py --tiny --out DIR         # a few small rows, interpreted on a CPU

A row is one layer of H units over T inputs of H values, for one run or a bundle: outputs, last state and all gradients
of a weighted sum of the outputs. `scan` is the package's other way ("fast"). "differ" is the largest difference between
the two, in units of the largest value of `scan`: of the outputs, and of the gradients (the worst array). "kernel off"
and "scan off" are the differences from a scan with exact float32 products, in the rows that have it.

The most important rows come first. Programs of `TOGETHER` rows are compiled at once, then measured with nothing else
running. DIR/kernel.json is written after each row, and a row that is there is not measured again: start the command
again to go on. A row that fails leaves its error, and the others go on; if the card is lost, in a new process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path += [folder for folder in (str(HERE), str(HERE.parents[1])) if folder not in sys.path]

TOGETHER = 12
REPEATS = 5
SECONDS_A_SYSTEM = 0.5
ENDED = "the process ended in it"
THREAD = threading.local()  # the warps of the row that a thread compiles


class Row(NamedTuple):
    """What is measured. `warps` of a kernel's program; None: as the package has it."""

    family: str
    d_hidden: int
    batch: int
    runs: int
    times: int = 1024
    dtype: str = "bfloat16"
    warps: int | None = None

    @property
    def name(self) -> str:
        warps = "" if self.warps is None else f", {self.warps} warps"
        return f"{self.family} {self.d_hidden}, B {self.batch}, runs {self.runs}, T {self.times}, {self.dtype}{warps}"

    @property
    def cell(self) -> Any:
        """Its equations."""
        from seqjax.families import FAMILIES

        return FAMILIES[self.family](self.d_hidden)

    @property
    def exact(self) -> bool:
        """Whether the row also has the scan with exact products."""
        return self.runs == 1 and self.batch == 16 and self.warps is None


def rows(tiny: bool, tpu: bool = False) -> list[Row]:
    """The most important first: by batch and runs, then the widths; then other numbers of warps, and float32.

    A TPU has no warps; its widths are larger.
    """
    families, widths = ("lstm", "gru"), (1024, 256, 512, 128) if tpu else (128, 64, 110, 32)
    if tiny:
        return [Row("lstm", 5, 16, 1, times=3), Row("gru", 16, 8, 2, times=3, dtype="float32")]
    shapes = ((16, 1), (64, 1), (16, 8), (16, 32), (64, 32), (8, 1), (64, 8), (8, 8), (8, 32))
    found = [Row(family, width, *shape) for shape, width, family in itertools.product(shapes, widths, families)]
    warps = [Row("lstm", width, 16, 1, warps=n) for width, n in ((128, 4), (128, 16), (64, 4), (32, 2), (32, 8))]
    warps = [] if tpu else warps
    single = [Row(family, 64, 16, 1, dtype="float32") for family in families]
    return found[:8] + warps + single + found[8:]


def main() -> int:
    """Measure what is not in the file yet; write and print the table.

    Raises:
      UserError: there is neither an NVIDIA GPU nor a TPU.
    """
    parser = argparse.ArgumentParser(description="The whole-sequence kernel of recurrences beside the scan.")
    parser.add_argument("--seconds", type=float, default=75, help="start nothing after so many seconds [75]")
    parser.add_argument("--tiny", action="store_true", help="a few small rows, also without an accelerator")
    parser.add_argument("--out", type=Path, metavar="DIR", help="[report/kernel, or report/kernel-tiny]")
    options = parser.parse_args()
    began = time.perf_counter()
    from seqjax.errors import UserError
    from seqjax.host.disk import storage_errors
    from seqjax.layers.target import target
    from seqjax.through_time import kernel

    platform = target().platform
    if platform not in ("cuda", "tpu") and not options.tiny:
        raise UserError("the kernel needs an NVIDIA GPU or a TPU, and JAX sees none; --tiny interprets it on a CPU")
    as_it_is = kernel.warps
    kernel.warps = lambda width: getattr(THREAD, "warps", None) or as_it_is(width)
    if platform not in ("cuda", "tpu"):
        kernel.fits = lambda *case: True
    folder = options.out or HERE.parents[1] / "report" / ("kernel-tiny" if options.tiny else "kernel")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        found = measure_all(rows(options.tiny, platform == "tpu"), folder / "kernel.json", began, options)
    print(table(found))
    return 0


def measure_all(wanted: list[Row], file: Path, began: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows that are not in the file, while there is time; all that the file has then."""
    from accelerator import about

    known = json.loads(file.read_text())["rows"] if file.is_file() else []
    left = [row for row in wanted if row.name not in [one["row"] for one in known]]

    def write(found: list[dict[str, Any]]) -> None:
        from seqjax.host.disk import write_json

        write_json(file, {**about(), "rows": found})

    def over() -> bool:
        return time.perf_counter() - began > options.seconds

    while left and not over():
        now, left = left[:TOGETHER], left[TOGETHER:]
        with ThreadPoolExecutor(min(len(now), os.cpu_count() or 1)) as pool:
            programs = list(pool.map(prepared, now))
        for row, program in zip(now, programs, strict=True):
            if over():
                break
            write([*known, {"row": row.name, "error": ENDED}])
            known.append({"row": row.name, **row._asdict(), **measured(row, program)})
            write(known)
            print(f"{time.perf_counter() - began:5.1f} s  {in_short(known[-1])}", file=sys.stderr, flush=True)
            if "error" in known[-1] and lost():
                rest = str(options.seconds - (time.perf_counter() - began))
                os.execv(sys.executable, [sys.executable, *sys.argv, "--seconds", rest])
    return known


Programs = dict[str, Any]


def prepared(row: Row) -> Programs:
    """The compiled programs of a row by name; in "error" why there are none."""
    from accelerator_rows import in_a_line

    try:
        import jax

        draw = drawing(row)
        arguments = jax.eval_shape(draw, jax.random.key(0))
        THREAD.warps = row.warps
        kernel = jax.jit(outcome(row, "kernel", row.dtype)).lower(*arguments)
        scan = jax.jit(outcome(row, "fast", row.dtype)).lower(*arguments)
        found = {"kernel": kernel.compile(), "scan": scan.compile()}
        if row.exact:
            with jax.default_matmul_precision("highest"):
                found["exact"] = jax.jit(outcome(row, "fast", "float32")).lower(*arguments).compile()
        differ = jax.jit(differences).lower(scan.out_info, scan.out_info).compile()
        return {"draw": jax.jit(draw).lower(jax.random.key(0)).compile(), "differ": differ, "systems": found}
    except Exception as error:  # the other rows go on
        return {"error": in_a_line(error)}


def drawing(row: Row) -> Callable[[Any], Any]:
    """A function of a key that draws (params, x, first state, weights), each with a leading axis of runs."""
    import jax
    import jax.numpy as jnp

    def of_a_run(key: Any) -> Any:
        keys = jax.random.split(key, 3)
        x_TxBxD, weights_TxBxH = jax.random.normal(keys[0], (2, row.times, row.batch, row.d_hidden))
        state = jax.tree.map(lambda leaf: 0.5 * jax.random.normal(keys[1], leaf.shape), row.cell.cell_state(row.batch))
        x_TxBxD = x_TxBxD.astype(row.dtype).astype(jnp.float32)
        return row.cell.init_cell(keys[2], row.d_hidden), x_TxBxD, state, weights_TxBxH

    return lambda key: jax.vmap(of_a_run)(jax.random.split(key, row.runs))


def outcome(row: Row, how: str, dtype: str) -> Callable[..., Any]:
    """(params, x, first state, weights) -> {"values": outputs and last state, "gradients": of the first three}."""
    import jax
    import jax.numpy as jnp

    from seqjax.through_time.nonlinear import unroll

    def loss(params: Any, x: Any, state: Any, weights: Any) -> Any:
        h, last = unroll(row.cell, params, x.astype(dtype), state, dtype, how)
        return (h * weights).sum() + sum(leaf.sum() for leaf in jax.tree.leaves(last)), (h, last)

    def of_a_run(*arguments: Any) -> Any:
        (_, values), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), {"values": values, "gradients": gradients})

    return jax.vmap(of_a_run)


def differences(one: Any, other: Any) -> Any:
    """By name, the worst array's largest difference in units of the other's largest value."""
    import jax
    import jax.numpy as jnp

    def worst(a: Any, b: Any) -> Any:
        return jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1e-30)

    return {name: jnp.stack(jax.tree.leaves(jax.tree.map(worst, one[name], other[name]))).max() for name in one}


def measured(row: Row, programs: Programs) -> dict[str, Any]:
    """Times and differences of a row, or in "error" why there are none."""
    from accelerator_rows import in_a_line

    if "error" in programs:
        return programs
    import jax

    try:
        arguments = programs["draw"](jax.random.key(0))
        results, found = {}, {}
        for name, program in programs["systems"].items():
            results[name] = jax.block_until_ready(program(*arguments))
            if name != "exact":
                found[f"{name}_ms"] = milliseconds(program, arguments)
        pairs = [("differ", "kernel", "scan")] + [(f"{name} off", name, "exact") for name in ("kernel", "scan")]
        for name, one, other in pairs:
            if other in results:
                off = {what: float(x) for what, x in programs["differ"](results[one], results[other]).items()}
                if not all(map(math.isfinite, off.values())):
                    return {"error": f"{name}: {off}"}
                found[name] = off
        return found
    except Exception as error:  # the other rows go on
        return {"error": in_a_line(error)}


def milliseconds(program: Callable[..., Any], arguments: Any) -> float:
    """The median of up to `REPEATS` calls, after one that is not counted."""
    import jax

    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < SECONDS_A_SYSTEM:
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def lost() -> bool:
    """Whether the card does not answer any more: a failed kernel takes the process's context with it."""
    import jax

    try:
        jax.block_until_ready(jax.device_put(1.0) + 1.0)
    except Exception:  # whatever it is, nothing can be measured here
        return True
    return False


def in_short(row: dict[str, Any]) -> str:
    """A row in one line."""
    if "error" in row:
        return f"{row['row']:<52} {row['error']}"
    speed = f"{row['kernel_ms']:8.2f} {row['scan_ms']:8.2f} {row['scan_ms'] / row['kernel_ms']:6.1f}"
    pairs = [row[name] for name in ("differ", "kernel off", "scan off") if name in row]
    return f"{row['row']:<52}{speed}" + "".join(f"  {one['values']:.0e} {one['gradients']:.0e}" for one in pairs)


def table(found: list[dict[str, Any]]) -> str:
    """The rows under a head: milliseconds, how many times as fast, differences of values and gradients."""
    off = [f"{name + ' off':>14}" for name in ("kernel", "scan")]
    head = f"{'':<52}{'kernel':>8} {'scan':>8} {'ratio':>6}{'differ':>14}" + "".join(off)
    return "\n".join([head, *map(in_short, found)])


if __name__ == "__main__":
    from accelerator import prepare

    prepare()
    from seqjax.host.guard import guarded

    sys.exit(guarded(main))
