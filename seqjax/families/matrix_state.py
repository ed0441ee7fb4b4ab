"""Families whose state is a matrix for each head, S of K x P: written by keys and values, and read by queries.

A family computes queries, keys, values and gates of all steps at once. `seqjax.through_time.matrix` runs its rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from pydantic import PositiveInt

from seqjax.families.family import Watch
from seqjax.families.stacked import Stacked, State
from seqjax.through_time.matrix import Rule, run, watch


@dataclass(frozen=True)
class MatrixState(Stacked):
    """The base of families with a matrix-valued state. A family defines `rule`, `key_width` and `value_width`.

    Heads stay `n_heads` as the width changes; K and P grow.
    """

    n_heads: PositiveInt = 4
    """N, heads, each with a state matrix and gates of its own; also of attention blocks."""
    recurrence: Literal["chunks", "steps"] = "chunks"
    """The same values in pieces of products (chunks), or one step after the other (steps, the reference)."""

    through_time: ClassVar[str] = "matrix state"
    states: ClassVar = ("S",)
    rule: ClassVar[Rule]
    """How the state changes from step to step."""

    @property
    def key_width(self) -> int:
        """K."""
        raise NotImplementedError

    @property
    def value_width(self) -> int:
        """P."""
        raise NotImplementedError

    def mixer_flops(self) -> float:
        """4 N K P: the write k^T v, and the read q S, one step after the other. In pieces it is more."""
        return 4.0 * self.n_heads * self.key_width * self.value_width

    def remember(
        self, inputs: tuple[Array, ...], memory: State, mask_BxT: Array | None, dtype: DTypeLike, watched: Watch | None
    ) -> tuple[Array, State, dict[str, Array]]:
        """The rule over T steps.

        Args:
          inputs: q, k, v and gates, see `seqjax.through_time.matrix.run`.
          memory: what of the state the rule changes, BxNx....

        Returns:
          y_BxTxNxP; the memory after; when watched, `states` after every step, TxBxR with R = N K P for S.
        """
        if watched is None:
            return *run(self.rule, inputs, memory, dtype, mask_BxT, self.recurrence), {}
        y_BxTxNxP, last, all_steps = watch(self.rule, inputs, memory, dtype, mask_BxT, self._nudges(memory, watched))
        by_name = dict(zip(self.states, jax.tree.leaves(all_steps), strict=False))
        return y_BxTxNxP, last, {name: s.reshape(*s.shape[:2], -1) for name, s in by_name.items()}

    def _nudges(self, memory: State, watched: Watch) -> State:
        """Nudges like the memory; arrays of it that are not in `states` have zeros."""
        if watched.nudges is None:
            return None
        leaves, structure = jax.tree.flatten(memory)
        times = len(watched.nudges[0])
        others = [jnp.zeros((times, *leaf.shape), leaf.dtype) for leaf in leaves[len(self.states) :]]
        return jax.tree.unflatten(structure, [*watched.nudges, *others])
