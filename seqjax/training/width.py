"""muP: learning rates scale with the width, so a rate found at one width also fits another.

With m = D / `model.base_width`, the rate of a parameter is the run's rate times (Yang et al. 2022, arXiv 2203.03466,
table 3, for updates like Adam's, whose entries do not depend on the gradient's size):

    recurrent, attention and MLP matrices     1 / m         under Muon 1 / sqrt(m), see below
    readout                                   1 / m
    embedding                                 s(base) / s(D), where x_t = s(D) E[token_t]
    positions, biases, gains                  1

A matrix of D inputs sums D small changes of one sign. So each change must be D times smaller, or the change of its
outputs grows with D. Muon's update has the spectral norm 0.2 sqrt(max(in, out)), which grows only as sqrt(m). The
family scales initial values: matrices as 1 / sqrt(inputs), the readout as 1 / inputs. It also divides the scores of
attention by the head's width instead of its square root; so a model and its base have the same number of heads. At
D = base_width muP changes nothing. Weight decay is not scaled.

The sum of D small changes is their number only if they have one sign: full alignment. Without alignment it grows as
sqrt(D), so that the rates of matrices and readout are divided by sqrt(m), and the readout begins as without muP
(Everett et al. 2024, arXiv 2407.05872). Recurrent families may ask for it by `model.alignment: none`. Measured by
experiments/transfer.py: an LSTM four times as wide as its base ends 0.13 nats per token higher with full alignment than
with the best rate of its own width, and no higher without. A Transformer's rates transfer with full alignment.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from seqjax.families.family import Family
from seqjax.models.accounting import group_of
from seqjax.training.muon import matrix_axes

Tree = Any


def rate_factors(family: Family, optimizer: str, params: Tree) -> Tree:
    """The factor on the learning rate of every parameter.

    Args:
        optimizer: one of `seqjax.config.checks.WIDTH_RULES`.
    """
    m, hidden = family.widening, getattr(family, "hidden", None)
    embedding = family.widened(family.base_width).embedding_scale / family.embedding_scale if m != 1.0 else 1.0
    falling = 1 / m if family.aligned else m**-0.5
    of_group = {"matrices": falling, "readout": falling, "embedding": embedding}

    def factor(path: Any, leaf: jax.Array) -> float:
        if optimizer == "muon" and matrix_axes(path, leaf.shape, hidden) is not None:
            return m**-0.5
        return of_group.get(group_of(path), 1.0)

    return jax.tree.map_with_path(factor, params)


def scale_by_width(family: Family, optimizer: str) -> optax.GradientTransformation:
    """Multiply the directions by `rate_factors`."""

    def update(directions: Tree, params: Tree) -> Tree:
        return jax.tree.map(lambda u, factor: u * factor, directions, rate_factors(family, optimizer, directions))

    return optax.stateless(update)
