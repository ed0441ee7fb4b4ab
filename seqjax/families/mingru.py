"""minGRU of Feng et al. (2024), arXiv 2410.01201, section 3.1: a GRU whose gates do not see the state.

    z_t = sigmoid(W_z x_t + b_z)                     update gate
    n_t = g(W_n x_t + b_n)                           candidate
    h_t = (1 - z_t) * h_{t-1} + z_t * n_t

With `positive`, g(u) = u + 1/2 for u >= 0 and sigmoid(u) below, so the state is positive. That is the paper's form in
logarithms (appendix B); the scan here needs none. Without it g(u) = u, as in section 3.1.

Parameters and state: see `Diagonal`, with the gates z, n. The published block has a GELU MLP of width 4 D, and
biases. Vectors are rows here, so the code has x W where the equations have W x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from jax import Array

from seqjax.families.diagonal import Diagonal
from seqjax.families.stacked import PublishedMLP
from seqjax.layers.activations import positive


@dataclass(frozen=True)
class MinGRU(Diagonal):
    """minGRU: embedding, residual blocks with a minimal gated recurrent unit, readout."""

    family: Literal["mingru"] = "mingru"
    """Minimal gated recurrent unit."""
    positive: bool = True
    """Candidates are mapped to positive numbers, as in the paper's form in logarithms."""

    label: ClassVar[str] = "minGRU"
    colour: ClassVar[str] = "#CC2244"
    gates: ClassVar = ("z", "n")
    published_mlp: ClassVar = PublishedMLP("gelu", 4, bias=True)

    def factors(self, z_TxBxR: Array, n_TxBxR: Array) -> tuple[Array, Array, dict[str, Array]]:
        """1 - z and z n."""
        keep, z = jax.nn.sigmoid(-z_TxBxR), jax.nn.sigmoid(z_TxBxR)
        n = positive(n_TxBxR) if self.positive else n_TxBxR
        return keep, z * n, {"z": z, "n": n}
