"""minGRU of Feng et al. (2024), arXiv 2410.01201, section 3.1: a GRU whose gates do not see the state.

    z_t = sigmoid(W_z x_t + b_z)                     update gate
    c_t = g(W_c x_t + b_c)                           candidate
    h_t = (1 - z_t) * h_{t-1} + z_t * c_t

With `positive`, g(u) = u + 1/2 for u >= 0 and sigmoid(u) below, so the state is positive. That is the paper's form in
logarithms (appendix B); the scan here needs none. Without it g(u) = u, as in section 3.1.

Parameters and state: see `Diagonal`, with the gates z, c. The published block has a GELU MLP of width 4 D, and
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
    colour: ClassVar[str] = "#AAAA00"
    gates: ClassVar = ("z", "c")
    published_mlp: ClassVar = PublishedMLP("gelu", 4, bias=True)

    def factors(self, z_TxBxR: Array, c_TxBxR: Array) -> tuple[Array, Array, dict[str, Array]]:
        """1 - z and z c."""
        keep, z = jax.nn.sigmoid(-z_TxBxR), jax.nn.sigmoid(z_TxBxR)
        c = positive(c_TxBxR) if self.positive else c_TxBxR
        return keep, z * c, {"z": z, "c": c}
