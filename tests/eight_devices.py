"""What eight virtual CPU devices compute, for tests/training/test_mesh.py: a process of its own, as JAX counts its
devices once. It prints JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
os.environ["NPROC"] = "32"  # see tests/conftest.py

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.layers.target import compiled_for, target_of
from seqjax.runs.config_file import validate
from seqjax.runs.tree import options_tree
from seqjax.tasks.text import make_objective
from seqjax.training import lanes
from seqjax.training.state import Hyper

DIFFERENT = ("lstm", "window", "retention")
"""One family of each kind; all were compared on 2026-11-26 (python tests/eight_devices.py FAMILY ...)."""
V, B, T, D, L = 32, 16, 24, 16, 2
WIDE = {"window": {"model.d_ff": 32}, "lstm": {"model.n_layers": 3, "model.d_hidden": 32, "model.norm": "rmsnorm"},
        "rg_lru": {"model.n_layers": 2, "model.blocks": ["recurrent", "attention"], "model.n_heads": 2}}  # fmt: skip


def config(family: str, **changes: Any) -> Any:
    base = {"model.family": family, "model.d_model": D, "model.n_layers": 1, "data.corpus": "unused",
            "train.batch_size": B, "train.context_length": T}  # fmt: skip
    return validate(options_tree(base | WIDE.get(family, {}) | changes))


def batches(*lead: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, (*lead, B, T + 1)).astype(np.int32)


def gradients(family: str, devices: int) -> Any:
    """The loss and its gradients by name, with parameters shared by four devices if there are eight."""
    found = config(family, **({"train.mesh.fsdp": 4} if devices > 1 else {}))
    objective, mesh = lanes._placed(make_objective(found, V)), lanes._mesh(found, devices)
    params = objective.init(jax.random.key(0))
    if devices > 1:
        params = jax.device_put(params, lanes._partitioned(params, mesh, lead=0))
    traced = compiled_for(target_of(mesh))(lambda p, batch: objective.loss(p, batch, None, jax.random.key(1))[0])
    loss, grads = jax.jit(jax.value_and_grad(traced))(params, batches())
    return float(loss), jax.device_get(grads)


def apart(family: str) -> list[float]:
    """By how much the loss and the gradients on the mesh are off; relative to the largest gradient of the array."""
    (a, of_a), (b, of_b) = gradients(family, 1), gradients(family, 8)
    off = jax.tree.map(lambda x, y: float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-3)), of_a, of_b)
    return [abs(a - b), max(jax.tree.leaves(off))]


def stepped(program: lanes.Program, runs: int = 0) -> tuple[Any, str, list[str]]:
    """Parameters and losses after two steps, the text of the compiled steps, and how each array of the state lies."""
    lead, steps = (runs,) if runs else (), program.steps_at_once
    hyper = Hyper(jnp.full((*lead, steps), 1e-2), jnp.full(lead, 0.1))
    args = program.init(), program.put(batches(*lead, steps)), hyper, jnp.zeros(steps, bool), jnp.int32(2)
    compiled = program.steps.lower(*args).compile()
    state, metrics = compiled(*args)
    lie = [str(x.sharding.spec) for x in jax.tree.leaves((state.params, state.opt_state))]
    return jax.device_get((state.params, metrics["loss"])), compiled.as_text(), lie


def collectives(text: str) -> dict[str, Counter[int]]:
    """By kind, how many arrays of each number of elements are sent."""
    found: dict[str, Counter[int]] = {}
    for shapes, kind in re.findall(r"= (\(?\w+\[.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text):
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            found.setdefault(kind, Counter())[int(np.prod([int(n) for n in shape.split(",") if n]))] += 1
    return found


def steps_of(changes: dict[str, Any], devices: int) -> dict[str, Any]:
    found = config("transformer", **{"model.n_layers": L, "model.n_heads": 2}, **changes)
    (params, loss), text, lie = stepped(lanes.make_program(found, make_objective(found, V), devices))
    logits = [int(n) for n in re.findall(rf"f32\[(\d+),{V}\]", text)]
    whole = re.findall(rf"f32\[(?:{B},{T}|{B * T}),[\d,]+\]", text)
    params = [np.ravel(p).tolist() for p in jax.tree.leaves(params)]
    return {
        "loss": loss[:2].tolist(),
        "params": params,
        "collectives": collectives(text),
        "rows of logits": max(logits),
        "activations of all rows": whole,
        "cut arrays": sum("fsdp" in spec for spec in lie),
    }


def bundle_of(changes: dict[str, Any], devices: int) -> Any:
    """Losses of two lanes of two steps, of streams in micro-batches."""
    of_lanes = [config("gru", **{"data.batching": "streams", "train.accumulation": 2, "train.seed": seed} | changes)
                for seed in (0, 1)]  # fmt: skip
    (_, loss), _, _ = stepped(lanes.make_bundle(of_lanes, make_objective(of_lanes[0], V), devices), runs=2)
    return loss[:, :2].tolist()


if __name__ == "__main__":
    mesh = {"train.mesh.data": 2, "train.mesh.fsdp": 4}
    print(json.dumps({
        "one": steps_of({}, 1), "data": steps_of({}, 8), "fsdp": steps_of(mesh, 8),
        "bundle": [bundle_of({}, 1), bundle_of(mesh, 8)],
        "families": {family: apart(family) for family in sys.argv[1:] or DIFFERENT},
    }))  # fmt: skip
