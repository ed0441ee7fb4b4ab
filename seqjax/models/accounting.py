"""Parameters by group and FLOPs per token, from the family alone.

Published laws count parameters differently. The same runs give different exponents for Kaplan's non-embedding N, for N
with the readout and for all parameters. Every count is kept, so that the choice is made when a law is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax

from seqjax.families.family import Family
from seqjax.models.language_model import initial_values

GROUPS = ("embedding", "positional", "matrices", "vectors", "readout", "readout_bias")


def group_of(path: Sequence[Any]) -> str:
    """The group (one of `GROUPS`) of a leaf of the parameter tree.

    "embedding": token tables; "positional": learned positions; "matrices": weights of recurrent layers and blocks;
    "vectors": their biases and norm gains; "readout" and "readout_bias".

    Args:
      path: from the root of the tree to the leaf, keys of jax.tree_util or names.
    """
    names = [getattr(entry, "key", entry) for entry in path]
    if names[-1] == "positions":
        return "positional"
    if names[0] == "source":
        return "embedding"
    if names[0] in GROUPS:
        return names[0]
    return "matrices" if names[-1].startswith("W") else "vectors"


def count_parameters(family: Family, vocab_size: int, context_length: int) -> dict[str, int]:
    """Number of parameters under every convention; no parameters are allocated.

    Returns:
      One entry for each of `GROUPS` (they sum to "total"), and
      "total": all parameters;
      "non_embedding": only the matrices, the N of Kaplan et al. 2020 (arXiv 2001.08361, table 1), without
        embeddings, positions, readout, biases and norm gains;
      "with_readout": the matrices and the V D weights of the readout, tied or not.
    """
    counts = dict(_by_group(family, vocab_size, context_length))
    readout = counts["embedding"] if family.tied_embeddings else counts["readout"]
    return counts | {
        "total": sum(counts.values()),
        "non_embedding": counts["matrices"],
        "with_readout": counts["matrices"] + readout,
    }


@cache  # tracing initial values takes as long as many train steps
def _by_group(family: Family, vocab_size: int, context_length: int) -> tuple[tuple[str, int], ...]:
    inits = initial_values(family, vocab_size, context_length)
    params = jax.eval_shape(lambda key: {name: init(key) for name, init in inits.items()}, jax.random.key(0))
    counts = dict.fromkeys(GROUPS, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        counts[group_of(path)] += leaf.size
    return tuple(counts.items())


def flops_per_token(family: Family, vocab_size: int, context_length: int, streams: bool = False) -> dict[str, float]:
    """Floating-point operations of the matmuls per token, averaged over a context of `context_length` tokens.

    A multiplication and an addition are two operations. Elementwise work (gates, softmax, norms) is left out, as usual.
    In every family each matrix weight is used once per token, so the matrices cost 2 N. A family adds other operations,
    such as attention, by `extra_flops`. The backward pass costs twice the forward pass: one product for the gradient of
    each operand.

    Args:
      streams: whether the state is carried from context to context, see `Family.extra_flops`.

    Returns:
      "kaplan_6n": 6 N with the non-embedding N, the training compute of Kaplan et al. 2020;
      "matrices", "attention", "readout": the exact parts of the forward pass;
      "forward": their sum; "training": three times that.
    """
    counts = count_parameters(family, vocab_size, context_length)
    args = (context_length, streams) if streams else (context_length,)  # an own family may know no streams
    forward = {
        "matrices": 2 * counts["matrices"],
        "attention": family.extra_flops(*args),
        "readout": 2 * (counts["with_readout"] - counts["matrices"]),
    }
    total = sum(forward.values())
    return {"kaplan_6n": 6.0 * counts["non_embedding"]} | {
        name: float(value) for name, value in (forward | {"forward": total, "training": 3 * total}).items()
    }


def state_size(family: Family, context_length: int) -> int:
    """Numbers that a sequence carries from token to token, in all layers: a Transformer's grow with the context."""
    state = jax.eval_shape(lambda: family.zero_state(1, context_length))
    return sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
