"""Memory and FLOPs of a recurrence's gradient, by XLA's own account: plain scan, own backward pass, and Flax.

    python experiments/benchmarks/recurrence_memory.py          # half a minute; nothing is run, only compiled

One layer of H = 128 units, B = 32, float32: temporary bytes of the program for the gradients of a weighted sum
of the outputs with respect to weights, inputs and first state. `fast` keeps the activations of the gates, `lean` the
states alone. (Arrays that stream through are counted too: inputs' gates, deltas, the gradient of the inputs.)
The mark: `lean` at most a quarter of `scan` at T = 1024.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqjax.families import FAMILIES
from seqjax.host.disk import write_json
from seqjax.through_time.nonlinear import unroll

sys.path.append(str(Path(__file__).resolve().parents[1]))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "recurrence_memory.json"
FLAX_CELLS = {"elman": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}
BATCH, WIDTH = 32, 128


def own(family: str, times: int, how: str) -> int:
    """Temporary bytes of the gradient of `unroll`."""
    cell = FAMILIES[family](d_model=WIDTH)
    params = jax.eval_shape(lambda: cell.init_cell(jax.random.key(0), WIDTH))
    state = jax.eval_shape(lambda: cell.cell_state(BATCH))
    x = jax.ShapeDtypeStruct((times, BATCH, WIDTH), jnp.float32)

    def loss(params: Any, x: jax.Array, state: Any, weights: jax.Array) -> jax.Array:
        return (unroll(cell, params, x, state, "float32", how)[0] * weights).sum()

    return temporary(loss, params, x, state, x)


def flax(family: str, times: int) -> int:
    """Temporary bytes of the gradient of `nn.RNN`, time first."""
    model = nn.RNN(FLAX_CELLS[family](WIDTH), time_major=True)
    x = jax.ShapeDtypeStruct((times, BATCH, WIDTH), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)

    def loss(params: Any, x: jax.Array, state: None, weights: jax.Array) -> jax.Array:
        return (model.apply(params, x) * weights).sum()

    return temporary(loss, params, x, None, x)


def temporary(loss: Any, *arguments: Any) -> int:
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> int:
    """Compile, print and record."""
    from common import surroundings

    rows = []
    print(f"{'MB':<12}{'T':>6}{'scan':>9}{'Flax':>9}{'fast':>9}{'lean':>9}{'lean / scan':>13}")
    for family in FLAX_CELLS:
        for times in (128, 1024):
            row = {"family": family, "context": times, "flax": flax(family, times)}
            row |= {how: own(family, times, how) for how in ("scan", "fast", "lean")}
            rows.append(row)
            sizes = "".join(f"{row[how] / 1e6:>9.1f}" for how in ("scan", "flax", "fast", "lean"))
            print(f"{family:<12}{times:>6}{sizes}{row['lean'] / row['scan']:>13.2f}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS, {**surroundings(), "batch": BATCH, "width": WIDTH, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
