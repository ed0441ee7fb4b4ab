"""minLSTM of Feng et al. (2024), arXiv 2410.01201, section 3.2: an LSTM whose gates do not see the state.

    f_t = sigmoid(W_f x_t + b_f)                     forget gate
    i_t = sigmoid(W_i x_t + b_i)                     input gate
    n_t = g(W_n x_t + b_n)                           candidate
    f'_t = f_t / (f_t + i_t),    i'_t = i_t / (f_t + i_t)
    h_t = f'_t * h_{t-1} + i'_t * n_t

With `positive`, g(u) = u + 1/2 for u >= 0 and sigmoid(u) below, so the state is positive. That is the paper's form in
logarithms (appendix B); the scan here needs none. Without it g(u) = u, as in section 3.2.

With f = 1 / (1 + e^-u) and i = 1 / (1 + e^-v), f' = (1 + e^-v) / (2 + e^-u + e^-v). Above and below are multiplied by
e^min(u, v, 0): no exponent is above 0, and f' is exact where both gates are nearly closed. Parameters and state: see
`Diagonal`, with the gates f, i, n. The published block has a GELU MLP of width 4 D, and biases. Vectors are rows here,
so the code has x W where the equations have W x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array, lax

from seqjax.families.diagonal import Diagonal
from seqjax.families.stacked import PublishedMLP
from seqjax.layers.activations import positive


@dataclass(frozen=True)
class MinLSTM(Diagonal):
    """minLSTM: embedding, residual blocks with a minimal long short-term memory, readout."""

    family: Literal["minlstm"] = "minlstm"
    """Minimal long short-term memory."""
    positive: bool = True
    """Candidates are mapped to positive numbers, as in the paper's form in logarithms."""

    label: ClassVar[str] = "minLSTM"
    colour: ClassVar[str] = "#E69F00"
    gates: ClassVar = ("f", "i", "n")
    published_mlp: ClassVar = PublishedMLP("gelu", 4, bias=True)

    def factors(self, f_TxBxR: Array, i_TxBxR: Array, n_TxBxR: Array) -> tuple[Array, Array, dict[str, Array]]:
        """f' and i' n."""
        shift = lax.stop_gradient(jnp.minimum(jnp.minimum(f_TxBxR, i_TxBxR), 0.0))  # f' and i' do not depend on it
        f, i = jnp.exp(shift) + jnp.exp(shift - i_TxBxR), jnp.exp(shift) + jnp.exp(shift - f_TxBxR)
        f, i = f / (f + i), i / (f + i)
        n = positive(n_TxBxR) if self.positive else n_TxBxR
        return f, i * n, {"f": f, "i": i, "n": n}
