"""The attention kernels of an accelerator: are they right on the device, and how fast are they?

    python experiments/benchmarks/attention_kernels.py --seconds 60   # on a GPU or a TPU
    python experiments/benchmarks/attention_kernels.py --tiny         # every kind of row on a CPU, with its kernels

Four kinds of rows. "right": values and gradients in bfloat16 of several runs side by side, against whole scores in
float32 of the same numbers: the largest difference over the largest number. Also whether a second call has equal bits.
"layer": milliseconds of attention forward and backward, queries, keys and values being given. "step": milliseconds of a
train step of a Transformer with two blocks, of one run or of a bundle. "train": the last losses of 600 steps, and the
first step that is not finite, with the kernel and with whole scores.

Each row is written to DIR/rows.jsonl when it is measured. One that fails leaves its error there, and the others go on.
No row starts after the given seconds. A row that does not end stops the process: rows that are there are kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import accelerator
from attention_training import trained

ROOT = Path(__file__).resolve().parents[2]
FORMS = {"causal": {}, "window": {"window": 100}, "grouped": {"grouped": True}, "padding": {"padded": True},
         "both ways": {"padded": True, "causal": False}}  # fmt: skip
BATCH, TIMES = 12, 1408
LAYERS = [(runs, heads, width) for heads, width in ((2, 18), (4, 64), (2, 64), (12, 64)) for runs in (9, 1)]
STEPS = [(9, 2, 18), (9, 4, 64), (1, 2, 18), (1, 4, 64)]
TIMED_SECONDS = 0.3  # of a system in a row of layers


class Row(NamedTuple):
    """A name, and what measures it."""

    name: str
    measure: Callable[[], dict[str, Any]]


def rows(tiny: bool) -> list[Row]:
    """The most important first."""
    batch, n_times = (2, 33) if tiny else (BATCH, TIMES)

    def right(width: int, form: str) -> Row:
        return Row(f"right, {form}: K {width}, T {n_times}", partial(errors, n_times, width, **FORMS[form]))

    def layer(runs: int, heads: int, width: int) -> Row:
        name = f"layer: runs {runs}, B {batch}, T {n_times}, heads {heads} x {width}"
        return Row(name, partial(layers, runs, batch, n_times, heads, width))

    def step(runs: int, heads: int, width: int) -> Row:
        name = f"step: runs {runs}, B {batch}, T {n_times}, heads {heads} x {width}"
        return Row(name, partial(steps, runs, batch, n_times, heads, width))

    def train(form: str, width: int) -> Row:
        batch, n_times, n_steps = (2, 33, 20) if tiny else (16, 512, 600)
        name = f"train, {form}: 2 x {width}, B {batch}, T {n_times}, {n_steps} steps"
        return Row(name, partial(trained, form, width, batch, n_times, n_steps))

    if tiny:
        return [right(18, "padding"), layer(2, 2, 18), step(2, 2, 18), train("modern", 16)]
    first = [right(18, "causal"), *(train(form, width) for width in (64, 36) for form in ("modern", "gpt2"))]
    others = [right(18, form) for form in FORMS][1:]
    first += [
        right(25, "causal"),
        step(*STEPS[0]),
        *map(layer, *zip(*LAYERS[:3], strict=True)),
        right(64, "causal"),
        *others,
    ]
    return first + [step(*STEPS[1]), *map(layer, *zip(*LAYERS[3:], strict=True)), *(step(*s) for s in STEPS[2:])]


def kernel(width: int, n_times: int) -> str | None:
    """The kernel of this device."""
    from seqjax.layers.fused_attention import fused_kernel
    from seqjax.layers.target import target

    return fused_kernel(target(), "bfloat16", n_times, width)


def systems(width: int, n_times: int) -> dict[str, Callable[..., Any]]:
    """Causal attention of q, k, v, BxNxTxK in bfloat16, by name: that of the device, whole scores, blocks."""
    import jax.numpy as jnp
    import numpy as np

    from seqjax.layers.attention import attend_heads
    from seqjax.layers.blockwise import blockwise_attention
    from seqjax.layers.fused_attention import fused_attention

    mask = np.tril(np.ones((1, n_times, n_times), bool))
    found: dict[str, Callable[..., Any]] = {}
    if name := kernel(width, n_times):
        found[name] = lambda q, k, v: fused_attention(name, q, k, v, None, True)
    found["whole"] = lambda q, k, v: attend_heads(q, k, v, jnp.asarray(mask), "bfloat16")
    found["blocks"] = lambda q, k, v: blockwise_attention(q, k, v, "bfloat16")
    return found


def errors(
    n_times: int, width: int, causal: bool = True, window: int | None = None, padded: bool = False,
    grouped: bool = False, runs: int = 3, batch: int = 4, heads: int = 4,
) -> dict[str, Any]:  # fmt: skip
    """Errors of the device's kernel (if there is none, of whole scores in bfloat16)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from seqjax.layers.attention import attend_heads
    from seqjax.layers.fused_attention import fused_attention

    rng = np.random.default_rng(0)
    of_keys = heads // 2 if grouped else heads
    shapes = [(runs, batch, n, n_times, width) for n in (heads, of_keys, of_keys, heads)]
    arrays = [jnp.asarray(rng.standard_normal(shape), "bfloat16") for shape in shapes]
    length_B = np.linspace(max(1, n_times // 3), n_times, batch).astype(np.int32)
    mask_BxT = np.arange(n_times)[None] < length_B[:, None] if padded else np.ones((batch, n_times), bool)
    back = np.arange(n_times)[:, None] - np.arange(n_times)[None]
    seen = (back >= 0) & (back < (window or n_times)) if causal else np.ones((n_times, n_times), bool)
    seen = jnp.asarray(seen[None] & mask_BxT[:, None])
    real = jnp.asarray(mask_BxT[:, None, :, None])

    def whole(dtype: str, q: Any, k: Any, v: Any) -> Any:
        k, v = (jnp.repeat(x, heads // of_keys, axis=1) for x in (k, v))
        return attend_heads(q.astype(dtype), k.astype(dtype), v.astype(dtype), seen, dtype)

    def fused(q: Any, k: Any, v: Any) -> Any:
        mask = jnp.asarray(mask_BxT) if padded else None
        return fused_attention(kernel(width, n_times), q, k, v, mask, causal, window)

    def results(f: Callable[..., Any]) -> Any:
        def one(q: Any, k: Any, v: Any, weights: Any) -> list[Any]:
            y, pull = jax.vjp(lambda *qkv: jnp.where(real, f(*qkv).astype("float32"), 0.0), q, k, v)
            return [x.astype("float32") for x in (y, *pull(weights.astype("float32")))]

        return jax.jit(jax.vmap(one))

    def distances(got: list[Any], want: list[Any]) -> dict[str, float]:
        names = ("value", "d_q", "d_k", "d_v")
        return {
            name: float(jnp.abs(g - w).max() / jnp.abs(w).max()) for name, g, w in zip(names, got, want, strict=True)
        }

    with jax.default_matmul_precision("highest"):
        want = results(partial(whole, "float32"))(*arrays)
    name = kernel(width, n_times)
    f = results(fused if name else partial(whole, "bfloat16"))
    got, again = f(*arrays), f(*arrays)
    far = distances(got, want)
    same = all(bool((x == y).all()) for x, y in zip(got, again, strict=True))
    return {name or "whole": far, "right": all(e < 0.03 for e in far.values()), "same bits again": same}


def layers(runs: int, batch: int, n_times: int, heads: int, width: int) -> dict[str, Any]:
    """Milliseconds of every system's value and gradients, the median; and the peak of its program's memory."""
    import jax
    import numpy as np
    from accelerator_rows import in_a_line

    shape = (runs, batch, heads, n_times, width)
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [jax.random.normal(key, shape, "bfloat16") for key in keys]
    found: dict[str, Any] = {}
    for name, f in systems(width, n_times).items():

        def one(q: Any, k: Any, v: Any, weights: Any, f: Callable[..., Any] = f) -> Any:
            y, pull = jax.vjp(f, q, k, v)
            return y, pull(weights.astype(y.dtype))

        try:
            program = jax.jit(jax.vmap(one)).lower(*arrays).compile()
            jax.block_until_ready(program(*arrays))
            seconds: list[float] = []
            began = time.perf_counter()
            while len(seconds) < 3 or (time.perf_counter() - began < TIMED_SECONDS and len(seconds) < 50):
                since = time.perf_counter()
                jax.block_until_ready([program(*arrays) for _ in range(4)])
                seconds.append((time.perf_counter() - since) / 4)
            memory = program.memory_analysis()
            found[name] = {"ms": 1e3 * float(np.median(seconds)), "turns": len(seconds)}
            found[name] |= {"temporary_MiB": memory.temp_size_in_bytes / 2**20} if memory else {}
        except Exception as error:  # out of memory, or a shape that a kernel refuses
            found[name] = {"error": in_a_line(error)}
    return found


def steps(runs: int, batch: int, n_times: int, heads: int, width: int) -> dict[str, Any]:
    """The train step with the kernel of the device, and with whole scores."""
    import numpy as np
    from accelerator_rows import Case, compare
    from train_step import SeqjaxSystem, Shape, config_of

    shape = Shape(heads * width, 2, batch, n_times)
    tokens = np.random.default_rng(0).integers(0, 256, (batch, n_times + 1), np.int32)
    cases = {}
    for name in ("fused", "whole"):
        config = config_of("transformer", shape, "bfloat16", n_heads=heads, attention_kernel=name)
        cases[name] = Case(partial(SeqjaxSystem, config, tokens, lanes=runs), config, lanes=runs)
    return compare(cases)


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description="The attention kernels of an accelerator: errors and times.")
    parser.add_argument("--seconds", type=float, default=60, help="start no row after so many seconds [60]")
    parser.add_argument("--tiny", action="store_true", help="small rows of every kind, for a CPU")
    parser.add_argument("--out", type=Path, metavar="DIR", help="[report/attention_kernels]")
    options = parser.parse_args()
    began = time.perf_counter()
    accelerator.prepare()
    folder = options.out or ROOT / "report" / "attention_kernels"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rows.jsonl"
    done = {line["row"] for line in accelerator.read(file) if "error" not in line}
    where = accelerator.about()
    from accelerator_rows import in_a_line

    for row in rows(options.tiny):
        seconds = time.perf_counter() - began
        if row.name in done:
            continue
        if seconds > options.seconds:
            print(f"{seconds:5.0f} s: the time is over before {row.name}", file=sys.stderr)
            break
        try:
            found = row.measure()
        except Exception as error:  # the next row goes on
            found = {"error": in_a_line(error)}
        accelerator.append(file, {"row": row.name, **found, **where})
        print(f"{time.perf_counter() - began:5.0f} s: {row.name}: {in_short(found)}", flush=True)
    return 0


def in_short(found: dict[str, Any]) -> str:
    """A row in one line."""
    parts = []
    for name, of in found.items():
        if isinstance(of, dict):
            of = ", ".join(f"{key} {x:.3g}" if isinstance(x, float) else f"{key} {x}" for key, x in of.items())
        parts.append(f"{name} ({of})")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
