"""Muon: the update of a matrix is its orthogonalized momentum. Other parameters are updated by Adam.

    m_t = beta m_{t-1} + (1 - beta) g_t
    n_t = beta m_t + (1 - beta) g_t                     (Nesterov, both bias corrected)
    u_t = 0.2 sqrt(max(in, out)) O(n_t)                 for a matrix of in x out

O(n) approximates U V^T, where n = U S V^T, by five steps of the Newton-Schulz iteration of Jordan et al. 2024
(https://kellerjordan.github.io/posts/muon/): its singular values lie between about 0.7 and 1.2. The factor gives
u_t the root mean square of AdamW's update, about 0.2, so one learning rate fits both kinds (Liu et al. 2025,
arXiv 2502.16982, section 2.2).

`matrix_axes` decides which parameters are matrices:

    W_x DxG, W_h HxG      one matrix for each gate
    W_qkv Dx3xNxK         three: queries, keys and values, each with all its heads, D x NK
    W_o NxKxD             one, NK x D
    W_in, W_gate, W_out   one each
    a window's W kxDxF    one, kD x F
    W_gates, W_in DxGxR   G, D x R
    W_blocks GxNxKxK      G N, K x K

Each layer of a stack has its own matrices. Adam updates embeddings, readouts, heads of tasks, positions, biases, gains
and arrays of any other form, such as convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers

from seqjax.models.accounting import group_of

RMS = 0.2
"""Root mean square of AdamW's updates. Muon's are scaled to it."""
NEWTON_SCHULZ_STEPS = 5
ROLES = {
    "W_qkv": "ibcc", "W_kv": "ibcc", "W_q": "icc", "W_o": "iic", "W": "iic", "W_gates": "ibc", "W_in": "ibc",
    "W_blocks": "bbic",
}  # fmt: skip
"""Role of each axis, by the parameter's name: i input, c output, b index of the matrix. With two axes: i, c."""
Tree = Any


class Matrices(NamedTuple):
    """How an array becomes matrices: it is reshaped, then transposed to the order others, inputs, outputs."""

    shape: tuple[int, ...]
    others: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def split(self, array: Array) -> Array:
        """The array as M matrices: M x in x out."""
        sizes = [math.prod(self.shape[axis] for axis in axes) for axes in (self.others, self.inputs, self.outputs)]
        return array.reshape(self.shape).transpose(self._order).reshape(sizes)

    def join(self, matrices: Array, shape: Sequence[int]) -> Array:
        """The inverse of `split`: an array of the given shape."""
        ordered = matrices.reshape([self.shape[axis] for axis in self._order])
        return ordered.transpose([self._order.index(axis) for axis in range(len(self.shape))]).reshape(shape)

    @property
    def _order(self) -> tuple[int, ...]:
        return (*self.others, *self.inputs, *self.outputs)


def matrix_axes(path: Sequence[Any], shape: Sequence[int], hidden: int | None = None) -> Matrices | None:
    """How a parameter becomes matrices; None: Adam updates it.

    Args:
        path: of the parameter, as for `group_of`.
        hidden: H of a recurrent family: outputs that are a multiple of H are gates side by side, each a matrix.
    """
    names = [getattr(entry, "key", entry) for entry in path]
    if group_of(path) != "matrices" or names[0] == "head":
        return None
    lead, inner = ("b", shape[1:]) if "layers" in names else ("", tuple(shape))
    roles = ROLES.get(names[-1], "")
    if len(inner) == 2:
        gates = hidden is not None and inner[1] > hidden and inner[1] % hidden == 0
        roles, inner = ("ibc", (inner[0], inner[1] // hidden, hidden)) if gates else ("ic", inner)
    if len(roles) != len(inner):
        return None
    roles = lead + roles
    others, inputs, outputs = (tuple(i for i, role in enumerate(roles) if role == kind) for kind in "bic")
    return Matrices((*shape[: len(lead)], *inner), others, inputs, outputs)


def muon(momentum: float, hidden: int | None, adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """The direction u_t: by Muon for matrices, by `adam` for the rest; without learning rate and weight decay."""

    def kinds(params: Tree) -> Tree:
        return jax.tree.map_with_path(
            lambda path, leaf: "adam" if matrix_axes(path, leaf.shape, hidden) is None else "muon", params
        )

    orthogonal = optax.contrib.scale_by_muon(
        ns_steps=NEWTON_SCHULZ_STEPS,
        beta=momentum,
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: MuonDimensionNumbers(1, 2), tree),
    )
    return optax.partition({"muon": _over_matrices(orthogonal, hidden), "adam": adam}, kinds)


def _over_matrices(inner: optax.GradientTransformation, hidden: int | None) -> optax.GradientTransformation:
    """Apply `inner` to matrices M x in x out, times 0.2 sqrt(max(in, out)), in the shapes of the parameters."""

    def each(f: Callable[..., Array], tree: Tree, *others: Tree) -> Tree:
        return jax.tree.map_with_path(
            lambda path, leaf, *rest: f(matrix_axes(path, leaf.shape, hidden), leaf, *rest), tree, *others
        )

    def split(tree: Tree) -> Tree:
        return each(lambda axes, leaf: axes.split(leaf), tree)

    def scaled(axes: Matrices, gradient: Array, found: Array) -> Array:
        return RMS * jnp.sqrt(float(max(found.shape[1:]))) * axes.join(found, gradient.shape)

    def update(gradients: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        found, state = inner.update(split(gradients), state)
        return each(scaled, gradients, found), state

    return optax.GradientTransformation(lambda params: inner.init(split(params)), update)
