"""Devices and arrays that span the processes of a run; in one process everything is its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.training.processes import peers

Tree = Any


def of_every_process(devices: Sequence[jax.Device], count: int) -> list[jax.Device]:
    """``count`` of the devices, as many of each process.

    Raises:
        UserError: the processes cannot have equal parts, or one has too few.
    """
    processes = jax.process_count()
    each, rest = divmod(count, processes)
    if rest:
        raise UserError(f"--devices {count}: {processes} processes cannot use equal parts of them")
    of_process = [[d for d in devices if d.process_index == index][:each] for index in range(processes)]
    for index, found in enumerate(of_process):
        if len(found) < each:
            raise UserError(
                f"--devices {count}: {each} for each of {processes} processes, and process {index} has {len(found)}"
            )
    return [device for found in of_process for device in found]


def own_rows(size: int, sharding: jax.sharding.NamedSharding) -> slice:
    """The rows of a batch of this size that the devices of this process hold; in one process all of them.

    Args:
        sharding: of arrays whose axes up to B it names.
    """
    if sharding.is_fully_addressable:
        return slice(None)
    held = sharding.addressable_devices_indices_map((*[1] * (len(sharding.spec) - 1), size))
    parts = [index[-1].indices(size) for index in held.values()]
    return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))


def met_before(program: Callable[..., Tree]) -> Callable[..., Tree]:
    """A jitted function that all processes begin at the same time: a call that compiles waits for the other processes.

    XLA ends a process whose peers do not come to their first exchange within 30 seconds, and compiling may take longer
    in one process than in another: one finds the program among those that were compiled earlier, or has a busy machine.

    Args:
        program: its second argument alone has other shapes from call to call.
    """
    if peers().count == 1:
        return program
    met: set[tuple[tuple[int, ...], ...]] = set()

    def call(*arguments: Tree) -> Tree:
        shapes = tuple(map(np.shape, jax.tree.leaves(arguments[1])))
        if shapes not in met:
            program.lower(*arguments).compile()
            peers().gather(None)
            met.add(shapes)
        return program(*arguments)

    return call


def to_host(tree: Tree) -> Tree:
    """The arrays of a tree on the host. All processes must call it: arrays that span them are gathered one by one."""
    return jax.device_get(tree) if peers().count == 1 else jax.tree.map(_gathered, tree)


def to_first(tree: Tree) -> Tree | None:
    """The arrays of a tree on the host of process 0; None in the other processes, which hold one array at a time.

    All processes must call it.
    """
    if peers().count == 1:
        return jax.device_get(tree)
    first = peers().index == 0
    kept = [array if first else None for array in map(_gathered, jax.tree.leaves(tree))]
    return jax.tree.unflatten(jax.tree.structure(tree), kept) if first else None


def _gathered(x: Any) -> np.ndarray:
    from jax.experimental.multihost_utils import process_allgather

    spans = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    return process_allgather(x, tiled=True) if spans else np.asarray(x)


def from_first(tree: Tree | None, like: Tree) -> Tree:
    """The tree of process 0, with the shapes and shardings of ``like``, in all processes; unchanged in one process."""
    if peers().count == 1:
        return tree
    from jax.experimental.multihost_utils import broadcast_one_to_all

    def one(x: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        value = np.zeros(wanted.shape, wanted.dtype) if x is None else np.asarray(x)
        # as bytes: the sum over processes must not change the sign of a zero
        sent = np.asarray(broadcast_one_to_all(np.atleast_1d(np.ascontiguousarray(value)).view(np.uint8)))
        whole = sent.view(wanted.dtype).reshape(wanted.shape)
        return jax.make_array_from_callback(wanted.shape, wanted.sharding, lambda index: whole[index])

    if tree is None:
        return jax.tree.map(lambda wanted: one(None, wanted), like)
    return jax.tree.map(one, tree, like)
