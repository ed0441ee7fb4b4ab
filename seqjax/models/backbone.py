"""Any family as a map of sequences, from embedded inputs to hidden states: what heads stand on.

    h_1 .. h_T = backbone(x_1 .. x_T)         x_t of width D, h_t of width `hidden_width`

Tokens, frames or numbers have become vectors before, and what is asked of the hidden states is for a head. Sequences of
unequal length are padded, and a mask says what is there: what is not there changes nothing.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.config import ModelConfig, RecurrentConfig, TransformerConfig
from seqjax.errors import UserError
from seqjax.models import recurrent, transformer, window
from seqjax.models.layers import dropout, init_norm, normal_init, normalize, stack_init


def hidden_width(config: ModelConfig, causal: bool = True) -> int:
    """Width of h_t: that of the state, of both directions' states, of the residual stream, or of the hidden layers."""
    if isinstance(config, RecurrentConfig):
        return (config.d_hidden or config.d_model) * (1 if causal else 2)
    return config.d_model if isinstance(config, TransformerConfig) else config.d_ff


class Backbone(nn.Module):
    """The layers of a model family, without embedding and readout.

    With `causal` h_t depends on x_1 .. x_t. Without, on all of the sequence: attention sees both sides, and a recurrent
    family has a second stack of layers that runs from the last element to the first, h_t = [forward_t, backward_t]
    (Schuster & Paliwal 1997, IEEE Trans. Signal Processing 45(11)). A window always looks back.

    Parameters (float32): those of the family's language model without embedding and readout ("layers", "first",
    "positions", "final_norm"), and "backward" for the other direction.

    Attributes:
      max_length: of a sequence; the number of learned positions.
      bptt: truncated back-propagation through time in recurrent families, the steps in a piece (`seqjax.cells.unroll`),
        counted from where each direction starts; None: not truncated.
    """

    config: ModelConfig
    max_length: int
    causal: bool = True
    compute_dtype: DTypeLike = "float32"
    bptt: int | None = None

    @nn.compact
    def __call__(self, x_BxTxD: Array, mask_BxT: Array | None = None, train: bool = False) -> Array:
        """h_BxTxH, float32; zero where the mask is false.

        Args:
          x_BxTxD: with D = `config.d_model`.
          mask_BxT: bool, which elements are there; None: all. Positions are counted from the first column, so that
            padding belongs after the sequence.
          train: dropout on (needs the rng "dropout" when `config.dropout` > 0).

        Raises:
          UserError: inputs of another width, or more of them than positions; or `bptt` without recurrence.
        """
        config, dtype = self.config, self.compute_dtype
        if x_BxTxD.shape[-1] != config.d_model:
            raise UserError(f"inputs of width {x_BxTxD.shape[-1]} for a model of d_model {config.d_model}")
        if self.bptt is not None and not isinstance(config, RecurrentConfig):
            raise UserError(f"bptt {self.bptt}: the family '{config.family}' has no recurrence to truncate")
        key = self.make_rng("dropout") if train and config.dropout > 0 else None
        if mask_BxT is not None:
            x_BxTxD = jnp.where(mask_BxT[:, :, None], x_BxTxD, 0.0)
        if isinstance(config, RecurrentConfig):
            h_BxTxH = self._recurrent(x_BxTxD, mask_BxT, key)
        elif isinstance(config, TransformerConfig):
            h_BxTxH = self._transformer(x_BxTxD, mask_BxT, key)
        else:
            params = {name: self.param(name, init) for name, init in window.layer_inits(config).items()}
            h_BxTxH = window.run_layers(config, params, x_BxTxD, None, key, dtype)
        h_BxTxH = h_BxTxH.astype(jnp.promote_types(h_BxTxH.dtype, jnp.float32))
        return h_BxTxH if mask_BxT is None else jnp.where(mask_BxT[:, :, None], h_BxTxH, 0.0)

    def _recurrent(self, x_BxTxD: Array, mask_BxT: Array | None, key: Array | None) -> Array:
        config = self.config
        x_TxBxD, mask_TxB = x_BxTxD.swapaxes(0, 1), None if mask_BxT is None else mask_BxT.T
        state = recurrent.zero_state(config, x_BxTxD.shape[0])

        def run(params: dict, flip: slice) -> Array:
            mask = None if mask_TxB is None else mask_TxB[flip]
            h_TxBxH, _ = recurrent.run_layers(
                config, params, x_TxBxD[flip], state, key, self.compute_dtype, mask, bptt=self.bptt
            )
            return h_TxBxH[flip].swapaxes(0, 1)

        inits = recurrent.layer_inits(config)
        h_BxTxH = run({name: self.param(name, init) for name, init in inits.items()}, slice(None))
        if self.causal:
            return h_BxTxH
        backward = self.param("backward", lambda key: {name: init(key) for name, init in inits.items()})
        return jnp.concatenate([h_BxTxH, run(backward, slice(None, None, -1))], axis=-1)

    def _transformer(self, x_BxTxD: Array, mask_BxT: Array | None, key: Array | None) -> Array:
        config, n_times = self.config, x_BxTxD.shape[1]
        if config.positions == "learned":
            if n_times > self.max_length:
                raise UserError(
                    f"a sequence of {n_times} elements, but the model has learned {self.max_length} positions"
                )
            positions_TxD = self.param("positions", normal_init(0.01, self.max_length, config.d_model))
            x_BxTxD = x_BxTxD + positions_TxD[None, :n_times]
        x_BxTxD = dropout(x_BxTxD, key, 2 * config.n_layers, config.dropout)
        if config.n_layers and (config.attention or config.mlp != "none"):
            init = stack_init(lambda key: transformer.init_block(key, config), config.n_layers)
            x_BxTxD, _ = transformer.run_blocks(
                config, self.param("layers", init), x_BxTxD, 0, None, key, self.compute_dtype, mask_BxT, self.causal
            )
        norm = None
        if transformer.norm_before(config) != "none":
            norm = self.param("final_norm", lambda _: init_norm(config.norm, config.d_model, config.bias))
        return normalize(transformer.norm_before(config), norm, x_BxTxD)
