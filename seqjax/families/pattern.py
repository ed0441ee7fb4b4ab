"""Blocks of several kinds in a pattern that is repeated over the depth, as in Griffin: two recurrent, one attention.

    blocks (r, r, a) and 8 layers:  r r a | r r a | r r

The parameters and states of all blocks of a kind are stacked. Whole periods run in one `lax.scan`, so the size of the
program does not grow with the depth; the blocks of the last, incomplete period follow one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from seqjax.layers.dense import scan_layers

Tree = Any


def count(blocks: Sequence[str], n_layers: int, kind: str) -> int:
    """How many of the layers are of a kind."""
    return sum(blocks[index % len(blocks)] == kind for index in range(n_layers))


def run_pattern(
    blocks: Sequence[str],
    n_layers: int,
    run_block: Callable[[str, Array, Tree, Array], tuple[Array, Tree]],
    x: Array,
    stacks: dict[str, Tree],
) -> tuple[Array, dict[str, Tree]]:
    """Run the layers one after the other.

    Args:
      run_block: (kind, x, one of the stack, index of the layer) -> (x, found).
      stacks: by kind, leaves with a leading axis for the layers of the kind.

    Returns:
      x; what the blocks found, stacked by kind.
    """
    n_periods, rest = divmod(n_layers, len(blocks))

    def run_some(kinds: Sequence[str], x: Array, parts: tuple[dict[str, Tree], Array]) -> tuple[Array, dict[str, Tree]]:
        some, first = parts
        found: dict[str, list[Tree]] = {kind: [] for kind in some}
        for place, kind in enumerate(kinds):
            number = len(found[kind])
            own = jax.tree.map(lambda leaf, i=number: leaf[i], some[kind])
            x, of_block = run_block(kind, x, own, first + place)
            found[kind].append(of_block)
        return x, {kind: _stacked(trees) for kind, trees in found.items() if trees}

    whole = {kind: count(blocks, n_periods * len(blocks), kind) for kind in stacks}
    shaped = {
        kind: jax.tree.map(lambda y, n=whole[kind]: y[:n].reshape(n_periods, n // n_periods, *y.shape[1:]), stack)
        for kind, stack in stacks.items()
    }
    firsts = len(blocks) * jnp.arange(n_periods)
    x, found = scan_layers(partial(run_some, blocks), x, (shaped, firsts))
    found = {
        kind: jax.tree.map(lambda y: y.reshape(y.shape[0] * y.shape[1], *y.shape[2:]), tree)
        for kind, tree in found.items()
    }
    if rest:
        left = {kind: jax.tree.map(lambda y, n=whole[kind]: y[n:], stack) for kind, stack in stacks.items()}
        x, last = run_some(blocks[:rest], x, (left, jnp.asarray(n_layers - rest)))
        joined = {kind: jax.tree.map(lambda *y: jnp.concatenate(y), found[kind], last[kind]) for kind in last}
        found |= joined
    return x, found


def _stacked(trees: list[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
