"""The real train step and evaluation of a config, compiled for a target that is not here. They are never called."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np

from seqjax.config import Config, RunConfig, task_name
from seqjax.errors import UserError
from seqjax.host.numerics import pinned
from seqjax.host.optional import look_for
from seqjax.host.out_of_memory import is_out_of_memory
from seqjax.preflight.accelerators import Target
from seqjax.preflight.program_text import ProgramText
from seqjax.runs.targets import vocabulary_size
from seqjax.tasks import task_module
from seqjax.tasks.task import Objective
from seqjax.tasks.text import make_objective
from seqjax.training.lanes import make_program
from seqjax.training.state import Hyper

Tree = Any
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process would end on its lock file
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
"""What libtpu needs on a machine that is no TPU VM. Any type of slice will do."""


@dataclass(frozen=True)
class Compiled:
    """One program of a target; everything is of one device.

    Attributes:
        memory: bytes that it needs: arguments, results that are not written over them, temporary arrays, code.
        arguments, results: bytes; temporary: bytes at the peak.
        text: the compiled program; None: the compiler refused it, because it does not fit.
        shared: matrix products that the devices do together, over the products of the program before it is shared:
            1 if every device has a part of its own, the number of devices if each does everything.
    """

    memory: float
    arguments: float = 0.0
    results: float = 0.0
    temporary: float = 0.0
    text: ProgramText | None = None
    shared: float = 1.0


@dataclass(frozen=True)
class Shapes:
    """A run's objective and its batches, as shapes.

    Attributes:
        batch: of a step, leaves [B, ...]; held_out: of an evaluation.
        vocabulary: V, for text.
    """

    objective: Objective
    batch: Tree
    held_out: Tree
    vocabulary: int | None = None


@cache
def devices_of(target: Target) -> list[jax.Device]:
    """The described devices of a target.

    Raises:
        UserError: the compiler for it is not installed.
    """
    what = f"compiling for {target.name}"
    if target.platform == "tpu":
        look_for("libtpu", what)
    elif not importlib.util.find_spec("jax_cuda12_plugin"):
        look_for("jax_cuda13_plugin", what)
    from jax.experimental import topologies

    for name, value in LIBTPU.items():
        os.environ.setdefault(name, value)
    try:
        if target.platform == "tpu":
            return topologies.get_topology_desc(target.topology, "tpu").devices
        described = target.chip.described
        return topologies.get_topology_desc(
            target.name, "cuda", target_config=described, topology=target.topology
        ).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UserError(f"{what}: {(str(error).splitlines() or ['?'])[0][:200]}") from None


def shapes_of(config: RunConfig) -> Shapes:
    """The shapes of a run. Text is not read: the vocabulary suffices. For another task the data is."""
    if isinstance(config, Config):
        train = config.train
        rows = train.batch_size if config.data.batching == "streams" else config.evaluation.batch_size
        sizes = (train.batch_size, rows)
        batch, held_out = (jax.ShapeDtypeStruct((size, train.context_length + 1), np.int32) for size in sizes)
        vocabulary = vocabulary_size(config)
        return Shapes(make_objective(config, vocabulary), batch, held_out, vocabulary)
    module = task_module(task_name(config))
    task = module.make_task(config, module.load(config))
    held_out = next(iter(task.held_out(False)))
    return Shapes(task.objective, *(jax.tree.map(_shape, batch) for batch in (task.batch(0), held_out)))


@pinned()
def compile_step(config: RunConfig, shapes: Shapes, target: Target) -> Compiled:
    """The train step for a target, a program of up to K steps."""
    program = make_program(config, shapes.objective, devices_of(target))
    count = program.steps_at_once
    numbers = {name: jax.ShapeDtypeStruct(axes, kind) for name, axes, kind in (
        ("rates", (count,), np.float32), ("decay", (), np.float32), ("resets", (count,), bool), ("count", (), np.int32)
    )}  # fmt: skip
    hyper = Hyper(numbers["rates"], numbers["decay"])
    batches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), shapes.batch)
    return _compiled(program.steps.lower(program.shapes, batches, hyper, numbers["resets"], numbers["count"]), target)


@pinned()
def compile_evaluation(config: RunConfig, shapes: Shapes, target: Target) -> Compiled:
    """The evaluation of a held-out batch for a target."""
    program = make_program(config, shapes.objective, devices_of(target))
    return _compiled(program.score.lower(program.shapes.params, shapes.held_out, program.shapes.carry), target)


def _compiled(lowered: jax.stages.Lowered, target: Target) -> Compiled:
    before = ProgramText(lowered.as_text(dialect="hlo"), target.devices).product_flops
    try:
        with _kept_nowhere():
            done = _with_some_tiles(lowered)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Compiled(memory=asked(str(error)))
    used, text = done.memory_analysis(), ProgramText(done.as_text())
    results = used.output_size_in_bytes - used.alias_size_in_bytes
    temporary = used.temp_size_in_bytes
    return Compiled(
        memory=used.argument_size_in_bytes + results + temporary + used.generated_code_size_in_bytes,
        arguments=used.argument_size_in_bytes,
        results=used.output_size_in_bytes,
        temporary=temporary,
        text=text,
        shared=text.product_flops * target.devices / before if before else 1.0,
    )


def _with_some_tiles(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program, compiled. A card tries several tiles for a product. Without it XLA takes one, which may not fit an
    odd width: then products are cuBLAS's, as they would be on the card."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "Couldn't find output tile sizes" not in str(error):
            raise
        return lowered.compile({"xla_gpu_enable_triton_gemm": False})


@contextmanager
def _kept_nowhere() -> Iterator[None]:
    """Programs compiled in the block are not kept in JAX's cache of programs: without the device none can be loaded."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


def asked(message: str) -> float:
    """Bytes that a refused program needs: `Used 22.61G of 15.75G hbm`, or `HLO temporaries (128.57G) exceeds ...`."""
    found = re.search(r"\b([\d.]+)([KMGT])\b", message)
    return float(found[1]) * 2.0 ** (10 * " KMGT".index(found[2])) if found else math.inf


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)
