"""What each piece of the train step is worth on a CPU: the measurements behind the choices, one table.

    python experiments/benchmarks/pieces.py             # about 3 minutes on two idle cores

Each line times two or three forms of one thing side by side in one process, many times inside one program (so that
memory is allocated once), medians of interleaved turns. NOTES.md beside the results says what was concluded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from seqjax.config import TrainConfig
from seqjax.families import FAMILIES, LSTM, Transformer
from seqjax.host.disk import write_json
from seqjax.host.memory import keep_freed_memory
from seqjax.layers import native
from seqjax.layers.attention import attend
from seqjax.layers.blockwise import blockwise_attention
from seqjax.layers.native.attention import self_attention
from seqjax.layers.precision import contract
from seqjax.through_time.gates import activate
from seqjax.through_time.nonlinear import tabulate, unroll

sys.path.append(str(Path(__file__).resolve().parents[1]))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "pieces.json"
REPEATS, TURNS = 8, 7


def draw(*shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def timed(forms: dict[str, Callable[..., Any]], *arguments: Any) -> dict[str, float]:
    """Milliseconds of each form, `REPEATS` in one program, which depend on one another through the first argument."""
    programs = {}
    for name, form in forms.items():

        def repeated(arguments: Any, zeros: Any, form: Callable[..., Any] = form) -> Any:
            def body(_: int, carried: tuple[Array, Any]) -> tuple[Array, Any]:
                result = form(carried[0], *arguments[1:])
                some = sum(leaf.ravel()[0].astype(jnp.float32) for leaf in jax.tree.leaves(result))
                return carried[0] + (1e-30 * some).astype(carried[0].dtype), result

            return lax.fori_loop(0, REPEATS, body, (arguments[0], zeros))

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(form, *arguments))
        programs[name] = jax.jit(repeated), zeros
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(TURNS + 1):
        for name, (program, zeros) in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(arguments, zeros))
            if turn:
                times[name].append((time.perf_counter() - began) / REPEATS * 1e3)
    return {name: statistics.median(of_form) for name, of_form in times.items()}


def weight_gradients() -> dict[str, dict[str, float]]:
    """Of y = x W, 4,096 and 8,192 rows: by JAX's rule for einsum, and by `contract`'s."""
    found = {}
    for rows, d_in, d_out in ((8192, 128, 512), (4096, 512, 128), (8192, 256, 1024)):
        W = jnp.zeros((1, d_in, d_out))[0]
        jaxs = lambda x, dy, W=W: jax.vjp(lambda W: jnp.einsum("TBD,DF->TBF", x, W), W)[1](dy)[0]  # noqa: E731
        ours = lambda x, dy, W=W: jax.vjp(lambda W: contract("TBD,DF->TBF", x, W, "float32"), W)[1](dy)[0]  # noqa: E731
        x, dy = draw(rows // 32, 32, d_in), draw(rows // 32, 32, d_out)
        found[f"weight gradient {rows} x {d_in} x {d_out}"] = timed({"JAX's rule": jaxs, "contract": ours}, x, dy)
    return found


def activations() -> dict[str, dict[str, float]]:
    """An LSTM's elementwise part over 128 steps, B = 32, H = 128."""
    zero = jnp.zeros((32, 128))

    def scan(activated: Callable[[Array], Array]) -> Callable[[Array], Any]:
        def step(state: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
            i, f, g, o = activated(gates)
            c = f * state[1] + i * g
            h = o * jnp.tanh(c)
            return (h, c), h

        return lambda gates: lax.scan(step, (zero, zero), gates)[1]

    def four(gates: Array) -> tuple[Array, ...]:
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)

    def one(gates: Array) -> list[Array]:
        return jnp.split(activate(gates, (True, True, False, True)), 4, axis=-1)

    return {"gates of an LSTM, 128 steps": timed({"four calls": scan(four), "one tanh": scan(one)}, draw(128, 32, 512))}


def recurrences() -> dict[str, dict[str, float]]:
    """Forward and backward, all gradients, projection of the inputs included, B = 32."""
    found = {}
    for family, times, width in (("lstm", 128, 64), ("lstm", 256, 128), ("lstm", 256, 256), ("gru", 256, 128)):
        cell = FAMILIES[family](d_model=width)
        drawn = cell.init_cell(jax.random.key(0), width), cell.cell_state(32)

        def form(how: str, in_native: bool, cell: Any = cell) -> Callable[..., Any]:
            def gradient(x: Array, params: Any, state: Any, weights: Array) -> Any:
                kept, native.compiled = native.compiled, native.compiled if in_native else lambda: False
                try:
                    loss = lambda p, x: (unroll(cell, p, x, state, "float32", how)[0] * weights).sum()  # noqa: E731
                    return jax.grad(loss, argnums=(0, 1))(params, x)
                finally:
                    native.compiled = kept

            return gradient

        forms = {"plain scan": form("scan", False), "fast, XLA": form("fast", False)}
        forms |= {"lean, XLA": form("lean", False)} | ({"fast, C++": form("fast", True)} if native.compiled() else {})
        found[f"{family} {width}, T = {times}"] = timed(forms, draw(times, 32, width), *drawn, draw(times, 32, width))
    return found


def lookups() -> dict[str, dict[str, float]]:
    """Gates of the inputs and their gradients, 8,192 tokens of a vocabulary of 256, D = 128: projected, looked up."""
    cell = LSTM(d_model=128)
    params = cell.init_cell(jax.random.key(0), 128)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (256, 32)))
    weights = draw(256, 32, 512)

    def projected(embedding: Array, params: Any, tokens: Array, weights: Array) -> Any:
        loss = lambda E, p: (cell.project(p, E[tokens], "float32") * weights).sum()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))(embedding, params)

    def looked_up(embedding: Array, params: Any, tokens: Array, weights: Array) -> Any:
        loss = lambda E, p: (tabulate(cell, p, E, "float32")["table"][tokens] * weights).sum()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))(embedding, params)

    forms = {"projected": projected, "looked up": looked_up}
    return {"gates of the inputs": timed(forms, draw(256, 128), params, tokens, weights)}


def attentions() -> dict[str, dict[str, float]]:
    """Forward and backward, 4 heads of 32."""
    found = {}
    for batch, times in ((32, 128), (32, 256), (8, 1024)):
        mask_TxT = jnp.tril(jnp.ones((times, times), bool))

        def whole(q: Array, k: Array, v: Array, mask_TxT: Array = mask_TxT) -> Array:
            return jax.vmap(jax.vmap(lambda q, k, v: attend(q, k, v, mask_TxT)))(q, k, v)

        def of_layer(attention: Callable[..., Array]) -> Callable[..., Array]:
            """The same from queries, keys and values as the layer's product gives them, BxTx(3 N K)."""

            def run(qkv_BxTxE: Array) -> Array:
                q, k, v = qkv_BxTxE.reshape(*qkv_BxTxE.shape[:2], 3, 4, 32).transpose(2, 0, 3, 1, 4)
                return attention(q, k, v).swapaxes(1, 2).reshape(*qkv_BxTxE.shape[:2], -1)

            return run

        def gradient(attention: Callable[..., Array]) -> Callable[..., Any]:
            return jax.grad(lambda qkv, weights: (attention(qkv) * weights).sum())

        forms = {"whole": gradient(of_layer(whole)), "blocks": gradient(of_layer(blockwise_attention))}
        compiled = lambda qkv: self_attention(qkv, None, None, None, n_heads=4)  # noqa: E731
        forms |= {"C++": gradient(compiled)} if native.compiled() else {}
        found[f"attention, B = {batch}, T = {times}"] = timed(forms, draw(batch, times, 384), draw(batch, times, 128))
    return found


def kept_memory() -> dict[str, dict[str, float]]:
    """One step in a call, Transformer of 0.8 M parameters, B = 32, T = 128: in processes of their own."""
    found = {}
    for name in ("given back", "kept"):
        command = [sys.executable, __file__, "--one-step", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return {"a train step in a call of its own, freed memory": found}


def one_step(name: str) -> float:
    """Median milliseconds of calls of one train step."""
    if name == "kept":
        keep_freed_memory()
    from seqjax.config import Config
    from seqjax.tasks.text import make_objective
    from seqjax.training.lanes import make_program
    from seqjax.training.state import Hyper

    config = Config(Transformer(), train=TrainConfig(batch_size=32, context_length=128))
    program = make_program(config, make_objective(config, 256))
    state = program.init()
    batches = program.put(np.random.default_rng(0).integers(0, 256, (1, 32, 129), np.int32))
    hyper = Hyper(np.full(1, 1e-3, np.float32), np.float32(0.0))
    times = []
    for _ in range(3 + 2 * TURNS):
        began = time.perf_counter()
        state = jax.block_until_ready(program.steps(state, batches, hyper, np.zeros(1, bool), 1))[0]
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[3:])


def main() -> int:
    """Measure, print, record."""
    if sys.argv[1:2] == ["--one-step"]:
        print(json.dumps(one_step(sys.argv[2])))
        return 0
    from common import surroundings

    keep_freed_memory()
    found = kept_memory()
    for measure in (weight_gradients, activations, lookups, recurrences, attentions):
        found |= measure()
    print(as_text(found))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS, {**surroundings(), "turns": TURNS, "milliseconds": found})
    return 0


def as_text(found: dict[str, dict[str, float]]) -> str:
    """One line a piece: milliseconds of each form, and how many times as fast as the first."""
    lines = []
    for what, times in found.items():
        first = next(iter(times.values()))
        forms = [f"{name} {value:.2f} ms ({first / value:.1f}x)" for name, value in times.items()]
        lines.append(f"{what:<48}{'   '.join(forms)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
