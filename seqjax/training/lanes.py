"""One program for R runs (R may be 1): the jitted train step and evaluation on a mesh of devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from seqjax.config import RunConfig, lane_keys, program_key
from seqjax.errors import UserError
from seqjax.host.numerics import pinned
from seqjax.layers.sharing import gathered_outside, partition, recomputed, shared, whole
from seqjax.layers.target import Target, compiled_for, target_of
from seqjax.tasks.task import Objective
from seqjax.training.hardware import present_devices
from seqjax.training.optimizer import make_optimizer
from seqjax.training.spanning import met_before, of_every_process, own_rows
from seqjax.training.state import Hyper, TrainState, init_state
from seqjax.training.step import train_step, train_steps

Tree = Any
Devices = int | Sequence[jax.Device] | None


@dataclass(frozen=True)
class Program:
    """The compiled parts of a run, or of a bundle of R runs, on a mesh of devices; one device is a mesh of one.

    In a bundle every array has a leading axis R.

    Attributes:
        init: () -> TrainState on the mesh.
        steps: (state, batches, hyper, resets_K, count) -> (state, metrics), up to K steps in one call, see
            :func:`~seqjax.training.step.train_steps`. The state is donated. The runs of a bundle share the resets.
        steps_at_once: K.
        score: (params, batch, carry) -> (scores, carry), see `Objective`. The runs of a bundle share the batch.
        put: numpy leaves [K, B, ...] -> arrays with rows sharded over the devices.
        zero_carry: () -> recurrent state before the first batch, or None.
        devices: number of devices of the mesh.
        own_rows: B -> the rows of a batch on the devices of this process; `put` does not read the others.
        shapes: of the state, with their shardings.
    """

    init: Callable[[], TrainState]
    steps: Callable[[TrainState, Tree, Hyper, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
    steps_at_once: int
    score: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
    put: Callable[[Tree], Tree]
    zero_carry: Callable[[], Tree]
    devices: int
    own_rows: Callable[[int], slice]
    shapes: TrainState


@pinned()
def make_program(config: RunConfig, objective: Objective, devices: Devices = None) -> Program:
    """Jit the train step with batch rows sharded over the devices, and parameters as `train.mesh` says.

    Args:
        devices: number of devices; None: all, or 1 on a CPU. Or the devices, which may be described only (a topology):
            then the program can be compiled and not called.
    Raises:
        UserError: there are fewer devices, or their number does not divide the micro-batch or fit `train.mesh`.
    """
    objective = _placed(objective)
    init, steps = _pure_parts(config, objective)
    seed, scale = np.int32(config.train.seed), np.float32(config.train.init_scale)
    mesh = _mesh(config, devices)
    return _compile(objective, (init, seed, scale), steps, objective.score, objective.zero_carry, mesh)


@pinned()
def make_bundle(configs: Sequence[RunConfig], objective: Objective, devices: int | None = None) -> Program:
    """Jit the train step of R runs that differ only in their `lane_keys`: every array has a leading axis R.

    The lanes are computed in groups. A group is one batched computation (``vmap``). Groups run one after another inside
    the program (``lax.map``). An accelerator is fastest with all lanes in one group, a CPU core with a few, whose
    activations stay in its cache (`lanes_side_by_side`).

    Args:
        configs: configs of the lanes, at least one.
    Raises:
        UserError: as :func:`make_program`, or configs that need different programs.
    """
    if len({program_key(config) for config in configs}) != 1:
        raise UserError(f"the runs of a bundle may differ only in {', '.join(lane_keys(configs[0]))}")
    objective = _placed(objective)
    runs, carry, mesh = len(configs), objective.zero_carry, _mesh(configs[0], devices)
    init, steps = _pure_parts(configs[0], objective)
    seeds = np.array([config.train.seed for config in configs], np.int32)
    scales = np.array([config.train.init_scale for config in configs], np.float32)
    lift = partial(over_runs, runs=runs, side_by_side=lanes_side_by_side(runs, target_of(mesh)))
    return _compile(
        objective,
        (over_runs(init, runs, side_by_side=1), seeds, scales),
        lambda state, batches, hyper, resets_K, count: lift(
            lambda state_, batches_, hyper_: steps(state_, batches_, hyper_, resets_K, count)
        )(state, batches, hyper),
        lambda params, batch, h: lift(lambda p, h_: objective.score(p, batch, h_))(params, h),
        lambda: jax.tree.map(lambda h: jnp.repeat(h[None], runs, axis=0), carry()),
        mesh,
    )


STEPS_AT_ONCE, ELEMENTS_AT_ONCE = 64, 2**18  # limits for one run in one call
CPU_SIDE_BY_SIDE = 4  # more lanes at once do not fit into a core's cache


def lanes_side_by_side(runs: int, target: Target) -> int:
    """Number of lanes computed as one batch on this kind of device."""
    return min(runs, CPU_SIDE_BY_SIDE) if target.platform == "cpu" else runs


def over_runs(f: Callable[..., Tree], runs: int, side_by_side: int) -> Callable[..., Tree]:
    """``f`` of one run, lifted to a leading axis of ``runs`` on all its arguments and results."""
    if runs == 1:  # avoids batched operations
        return lambda *args: jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], args)))
    if side_by_side >= runs:
        return jax.vmap(f)
    together = None if side_by_side == 1 else side_by_side
    return lambda *args: jax.lax.map(lambda lane: f(*lane), args, batch_size=together)


def _placed(objective: Objective) -> Objective:
    """The objective on a mesh: its batch shared by all devices, its parameters gathered where they are used."""

    def loss(params: Tree, batch: Tree, carry: Tree, key: jax.Array) -> tuple[jax.Array, Tree]:
        return objective.loss(gathered_outside(params), batch, carry, key)

    def score(params: Tree, batch: Tree, carry: Tree) -> tuple[Tree, Tree]:
        return objective.score(gathered_outside(params), shared(batch), carry)

    return objective._replace(init=lambda key: whole(objective.init(key)), loss=loss, score=score)


def _pure_parts(config: RunConfig, objective: Objective) -> tuple[Callable, Callable]:
    """For one run: init(seed, scale), and steps(state, batches, hyper, resets_K, count)."""
    optimizer = make_optimizer(config.optimizer, config.model)
    step = partial(
        train_step,
        loss=objective.loss,
        optimizer=optimizer,
        clip_norm=config.optimizer.clip_norm,
        accumulation=config.train.accumulation,
    )
    return (
        lambda seed, scale: init_state(objective.init, optimizer, seed, scale, objective.zero_carry()),
        recomputed(config.train.remat)(partial(train_steps, step=step)),
    )


def _compile(
    objective: Objective, init: tuple, steps: Callable, score: Callable, carry: Callable, mesh: Mesh
) -> Program:  # fmt: skip
    """``init`` is a function and its arguments. As constants XLA would evaluate them at compile time, slowly."""
    target = target_of(mesh)
    traced = compiled_for(target)
    replicated = NamedSharding(mesh, P())
    init_state_of, *seeds_and_scales = init
    shapes = jax.eval_shape(*init)
    lead = [None] * (shapes.step.ndim)  # the axis of runs, in a bundle
    rows = NamedSharding(mesh, P(*lead, None, mesh.axis_names))  # [R,] K, B, ... and [R,] L, B, ...
    carry_rows = jax.tree.map(lambda _: rows, shapes.carry)
    of_params = partial(_partitioned, mesh=mesh, lead=len(lead))
    shardings = jax.tree.map(lambda _: replicated, shapes).replace(
        params=of_params(shapes.params), opt_state=of_params(shapes.opt_state), carry=carry_rows
    )
    take_steps = traced(steps)
    take_steps.__name__ = "train_steps"  # in profiles
    # It runs once, so optimizing it is not worth the seconds. Known to be safe on CPU only.
    effort = {"xla_backend_optimization_level": 0} if target.platform == "cpu" else None
    make = jax.jit(traced(init_state_of), out_shardings=shardings, compiler_options=effort)
    return Program(
        init=pinned()(partial(make, *seeds_and_scales)),
        steps=met_before(
            jax.jit(
                take_steps,
                donate_argnums=0,
                in_shardings=(shardings, rows, None, None, None),
                out_shardings=(shardings, replicated),
            )
        ),
        steps_at_once=max(1, min(STEPS_AT_ONCE, ELEMENTS_AT_ONCE // objective.elements)),
        score=met_before(jax.jit(traced(score), out_shardings=(replicated, carry_rows))),
        put=partial(_put, sharding=rows),
        zero_carry=jax.jit(traced(carry), out_shardings=carry_rows),
        devices=mesh.size,
        own_rows=partial(own_rows, sharding=rows),
        shapes=jax.tree.map(lambda x, own: x.update(sharding=own), shapes, shardings),
    )


def _partitioned(tree: Tree, mesh: Mesh, lead: int) -> Tree:
    """The shardings of parameters or of their moments, which have ``lead`` axes before their own."""
    return jax.tree.map_with_path(lambda path, x: NamedSharding(mesh, partition(path, x.shape, mesh, lead)), tree)


def _put(batch: Tree, sharding: NamedSharding) -> Tree:
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)

    def own_part(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(own_part, batch)


def _mesh(config: RunConfig, devices: Devices) -> Mesh:
    """The devices of a run, as `train.mesh` and `--devices` say."""
    described = isinstance(devices, Sequence)
    present, devices = (devices, len(devices)) if described else (present_devices(), devices)
    data, fsdp = config.train.mesh.data, config.train.mesh.fsdp
    said = f"train.mesh: data {'null' if data is None else data} x fsdp {fsdp}"
    # on a CPU one for each process: XLA_FLAGS may make many of one processor
    default = math.lcm(fsdp, jax.process_count()) if present[0].platform == "cpu" else len(present)
    count = devices if devices is not None else default if data is None else data * fsdp
    if count < 1:
        raise UserError(f"--devices {count}: at least 1 is needed")
    if count % fsdp or data not in (None, count // fsdp):
        needed = f"a multiple of {fsdp}" if data is None else data * fsdp
        raise UserError(f"{said}: needs {needed} devices, not {count}; change it, or --devices")
    if count > len(present):
        needed = f"--devices {count}" if devices is not None else f"{said} = {count} devices"
        raise UserError(f"{needed}: this machine has {len(present)} of them")
    micro_batch = config.train.batch_size // config.train.accumulation
    if micro_batch % count:
        allowed = ", ".join(str(n) for n in range(fsdp, count, fsdp) if micro_batch % n == 0)
        raise UserError(
            f"train.batch_size: {config.train.batch_size} / train.accumulation {config.train.accumulation} "
            f"= {micro_batch} sequences cannot be shared among {count} devices; change it, or "
            + (f"choose --devices among {allowed}" if allowed else "train.mesh")
        )
    used = np.array(present if described else of_every_process(present, count))
    if fsdp == 1:
        return Mesh(used, ("data",), axis_types=(AxisType.Auto,))
    return Mesh(used.reshape(-1, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
