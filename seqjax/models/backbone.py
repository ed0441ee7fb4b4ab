"""Any family as a map from embedded inputs to hidden states.

    h_1 .. h_T = backbone(x_1 .. x_T)         x_t of width D, h_t of width H

An embedding before it maps tokens, frames or numbers to vectors; a head after it uses the hidden states. Sequences of
unequal length are padded and masked: padding does not change the other hidden states.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.errors import UserError
from seqjax.families.family import Family


class Backbone(nn.Module):
    """The layers of a family, without embedding and readout.

    With `causal` h_t depends on x_1 .. x_t. Without it, h_t depends on the whole sequence: attention uses both sides,
    and a recurrent family has a second stack of layers from the last element to the first. A window always looks back.

    Parameters (float32): from `family.init`.

    Attributes:
      max_length: longest sequence; the number of learned positions.
      bptt: steps in a piece of truncated back-propagation through time (recurrent families), counted from the start of
        each direction; None: not truncated.
    """

    family: Family
    max_length: int
    causal: bool = True
    compute_dtype: DTypeLike = "float32"
    bptt: int | None = None

    @nn.compact
    def __call__(self, x_BxTxD: Array, mask_BxT: Array | None = None, train: bool = False) -> Array:
        """h_BxTxH, float32; zero where the mask is false.

        Args:
          x_BxTxD: with D = `family.d_model`.
          mask_BxT: bool, false for padding; None: no padding. Positions are counted from the first column, so padding
            belongs after the sequence.
          train: dropout on (needs the rng "dropout" when the family's rate is above 0).

        Raises:
          UserError: inputs of another width, more inputs than positions, or `bptt` without recurrence.
        """
        family = self.family
        if x_BxTxD.shape[-1] != family.d_model:
            raise UserError(f"inputs of width {x_BxTxD.shape[-1]} for a model of d_model {family.d_model}")
        if self.bptt is not None and not family.recurrent:
            raise UserError(f"bptt {self.bptt}: the family '{family.family}' has no recurrence to truncate")
        key = self.make_rng("dropout") if train and family.dropout > 0 else None
        if mask_BxT is not None:
            x_BxTxD = jnp.where(mask_BxT[:, :, None], x_BxTxD, 0.0)
        params = {name: self.param(name, init) for name, init in family.init(self.max_length, self.causal).items()}
        h_BxTxH = family.run(
            params, x_BxTxD, mask_BxT=mask_BxT, causal=self.causal, key=key, dtype=self.compute_dtype,
            truncate=self.bptt,
        ).h_BxTxH  # fmt: skip
        h_BxTxH = h_BxTxH.astype(jnp.promote_types(h_BxTxH.dtype, jnp.float32))
        return h_BxTxH if mask_BxT is None else jnp.where(mask_BxT[:, :, None], h_BxTxH, 0.0)
