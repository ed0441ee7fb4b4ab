"""How the arrays of a step are shared by the devices of a mesh. With one device nothing here changes anything.

    rows of a batch                 all devices, along all axes of the mesh         `shared`, `on_own_rows`
    parameters and their moments    the devices along the axis "fsdp"               `axis_of`, `partition`
    parameters of one layer         whole on every device, while it is computed     `gathered`, `block`

A device holds 1 / fsdp of every matrix. It gathers a layer's matrices before the layer, forgets them after it, and
gathers them again for the backward pass, whose gradients are summed and cut at once (Rajbhandari et al. 2020,
arXiv 1910.02054, section 5.3: stage 3 of ZeRO). Constraints say so; XLA writes the communication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from seqjax.layers.target import target

Tree = Any
STACKED = ("layers", "norms")
"""Names above parameters of several layers: their first axis is the layer."""
_RECOMPUTE = jax.make_user_context(False)


def shared(tree: Tree, axis: int = 0) -> Tree:
    """The arrays, with the rows along this axis shared by all devices; unchanged where their number does not fit."""
    mesh = target().mesh
    if mesh is None:
        return tree

    def constrain(x: Array) -> Array:
        if x.ndim <= axis or x.shape[axis] % mesh.size:
            return x
        spec = [mesh.axis_names if place == axis else None for place in range(x.ndim)]
        return lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))

    return jax.tree.map(constrain, tree)


def devices() -> int:
    """Number of devices that share the rows of the batch."""
    mesh = target().mesh
    return 1 if mesh is None else mesh.size


def on_own_rows(f: Callable[[Tree, Tree], tuple[Tree, Tree]], rows: Tree, whole: Tree) -> tuple[Tree, Tree]:
    """``f(rows, whole)``, computed by every device for its own rows alone.

    Args:
      f: gives sums over the rows, and arrays with a row for each.
      rows: arrays N.... They are not shared if the number of devices does not divide N.
      whole: parameters, which every device needs whole. The sums that are matrices are cut as they are: the devices
        along "fsdp" sum and cut them, then those along "data" sum the parts, which are that much smaller.

    Returns:
      The sums over all rows, and the arrays of all rows.
    """
    mesh = target().mesh
    if mesh is None or jax.tree.leaves(rows)[0].shape[0] % mesh.size:
        return f(rows, gathered(whole))

    def total(x: Array) -> Array:
        axis = axis_of(x.shape, parts(mesh))
        if axis is None:
            return lax.psum(x, mesh.axis_names)
        return lax.psum(lax.psum_scatter(x, "fsdp", scatter_dimension=axis, tiled=True), "data")

    def own(rows: Tree, whole: Tree) -> tuple[Tree, Tree]:
        sums, each = f(rows, whole)
        return jax.tree.map(total, sums), each

    each, (sums, _) = P(mesh.axis_names), jax.eval_shape(f, rows, whole)
    cut = jax.tree.map(lambda x: _spec(x.shape, 0, axis_of(x.shape, parts(mesh))), sums)
    return jax.shard_map(own, mesh=mesh, in_specs=(each, P()), out_specs=(cut, each), check_vma=False)(rows, whole)


def parts(mesh: Mesh | None) -> int:
    """Number of devices that share every parameter: the axis "fsdp"."""
    return 1 if mesh is None else mesh.shape.get("fsdp", 1)


def axis_of(shape: Sequence[int], n: int) -> int | None:
    """The axis along which `n` devices share a parameter of one layer: the largest that `n` divides.

    None: each device has the whole. Vectors are too small to be worth a message.
    """
    fitting = [axis for axis, size in enumerate(shape) if size and size % n == 0]
    return max(fitting, key=lambda axis: shape[axis], default=None) if n > 1 and len(shape) > 1 else None


def partition(path: Sequence[Any], shape: Sequence[int], mesh: Mesh, lead: int = 0) -> P:
    """How a parameter, or a moment of one, lies on the mesh.

    Args:
      path: from the root of its tree, keys of jax.tree_util.
      lead: number of first axes that are not the parameter's, such as the runs of a bundle.
    """
    lead += _is_stacked(path)
    return _spec(shape, lead, axis_of(shape[lead:], parts(mesh)))


def gathered(params: Tree, stacked: bool = False) -> Tree:
    """Parameters whole on every device; their gradients are shared again.

    Args:
      stacked: they have a leading axis L.
    """
    mesh, lead = target().mesh, int(stacked)
    n = parts(mesh)
    return jax.tree.map(lambda p: p if axis_of(p.shape[lead:], n) is None else _gathered(mesh, lead, p), params)


def whole(tree: Tree) -> Tree:
    """The arrays whole on every device: XLA cannot draw the parts of some random arrays by themselves."""
    mesh = target().mesh
    if parts(mesh) == 1:
        return tree
    return jax.tree.map(lambda x: lax.with_sharding_constraint(x, NamedSharding(mesh, P(*[None] * x.ndim))), tree)


def gathered_outside(params: Tree) -> Tree:
    """All parameters `gathered` but stacked layers and the readout: these are gathered where they are used."""

    def gather(path: Sequence[Any], p: Array) -> Array:
        return p if _is_stacked(path) or getattr(path[0], "key", None) == "readout" else gathered(p)

    return jax.tree.map_with_path(gather, params)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(mesh: Mesh, lead: int, p: Array) -> Array:
    return _gather(mesh, lead, p)[0]


def _gather(mesh: Mesh, lead: int, p: Array) -> tuple[Array, None]:
    return lax.with_sharding_constraint(p, NamedSharding(mesh, _spec(p.shape, lead, None))), None


def _sum_and_cut(mesh: Mesh, lead: int, _: None, d_p: Array) -> tuple[Array]:
    whole, _ = _gather(mesh, lead, d_p)  # without it XLA would cut activations as the gradient is cut
    return (_cut(mesh, lead, whole),)


_gathered.defvjp(_gather, _sum_and_cut)


def _cut(mesh: Mesh, lead: int, p: Array) -> Array:
    """A parameter or its gradient, of which each device holds its part."""
    axis = axis_of(p.shape[lead:], parts(mesh))
    return p if axis is None else lax.with_sharding_constraint(p, NamedSharding(mesh, _spec(p.shape, lead, axis)))


def _is_stacked(path: Sequence[Any]) -> bool:
    return any(getattr(entry, "key", None) in STACKED for entry in path)


def _spec(shape: Sequence[int], lead: int, axis: int | None) -> P:
    return P(*("fsdp" if axis is not None and place == lead + axis else None for place in range(len(shape))))


@contextmanager
def recomputed(blocks: bool) -> Iterator[None]:
    """In programs traced here the backward pass computes the inside of each block once more, if `blocks`."""
    with _RECOMPUTE(blocks):
        yield


def block(run: Callable[..., Tree]) -> Callable[..., Tree]:
    """The function of one layer, which keeps for its backward pass what the program can afford.

    With `recomputed` these are its arguments alone (Chen et al. 2016, arXiv 1604.06174). Where parameters are shared,
    it is all but the gathered ones.
    """
    if _RECOMPUTE.value:
        return jax.checkpoint(run)
    return jax.checkpoint(run, policy=_not_gathered) if parts(target().mesh) > 1 else run


def _not_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in ("sharding_constraint", "convert_element_type")
