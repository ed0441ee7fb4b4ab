"""Sequence to sequence: an encoder and a decoder of any family.

    m_1 .. m_S = encoder(x_1 .. x_S)                    both directions
    p(y_t | y_<t, x) = softmax(W o_t + b)               o_t from y_<t and m

The family's file gives the equation of o_t: the Transformer attends to m; recurrent families can.

Both sides share one vocabulary. Each side has its own embedding, and the readout its own matrix, unless
`tied_embeddings`: then one table serves all three. Every step of Adam then changes all rows of the table, also for
words that have not occurred, and small models learn far more slowly (compare
`experiments/translation.py --set model.tied_embeddings true`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import unfreeze
from jax import Array
from jax.typing import DTypeLike

from seqjax.families.family import Family, State
from seqjax.layers.dense import dropout, normal_init
from seqjax.layers.readout import Readout, unembed
from seqjax.models.backbone import Backbone

Memory = dict[str, Array]


class Seq2Seq(nn.Module):
    """Encoder and decoder over one vocabulary.

    Parameters (float32): "embedding" VxD of the target, "source" VxD of the source, "readout" DxV (the last two unless
    tied), "readout_bias" V; "encoder", see `Backbone`; "decoder", see `init_decoder` of the family.

    Attributes:
      family: of both sides, each with `n_layers`.
      max_length: longest sequence on either side.
      attention: whether a recurrent decoder attends to the memory; a Transformer always does.
    """

    family: Family
    vocab_size: int
    max_length: int
    attention: bool = True
    compute_dtype: DTypeLike = "float32"

    def setup(self) -> None:
        family = self.family
        self.encoder = Backbone(family, self.max_length, causal=False, compute_dtype=self.compute_dtype)
        table = normal_init(family.embedding_std, self.vocab_size, family.d_model)
        self.embedding = self.param("embedding", table)
        if not family.tied_embeddings:
            self.source_embedding = self.param("source", table)
            readout = normal_init(family.embedding_std, family.d_model, self.vocab_size)
            self.readout = self.param("readout", readout)
        self.readout_bias = self.param("readout_bias", lambda _: jnp.zeros(self.vocab_size))
        self.decoder = self.param("decoder", lambda key: family.init_decoder(key, self.max_length, self.attention))

    def __call__(
        self,
        source_BxS: Array,
        source_mask_BxS: Array,
        target_BxT: Array,
        train: bool = False,
        readout: Readout = unembed,
    ) -> Any:
        """logits_BxTxV of the token after each target token (the output of `readout`).

        Args:
          target_BxT: begins with the begin mark. Padding at its end does not change earlier logits.
          train: dropout on (needs the rng "dropout" when the family's rate is above 0).
        """
        memory = self.encode(source_BxS, source_mask_BxS, train)
        return self.decode(memory, self.start(memory), target_BxT, train, readout)[0]

    def encode(self, source_BxS: Array, mask_BxS: Array, train: bool = False) -> Memory:
        """The memory for the decoder (`memory` of the family); all arrays have a leading axis B."""
        table = self.embedding if self.family.tied_embeddings else self.source_embedding
        m_BxSxM = self.encoder(self.family.embedding_scale * table[source_BxS], mask_BxS, train)
        return batch_first(self.family.memory(self._decoder, m_BxSxM, mask_BxS, self.compute_dtype), MEMORY_AXES)

    def start(self, memory: Memory) -> State:
        """The decoder's state before the first token; all leaves with a leading axis B."""
        layers = batch_back(memory, MEMORY_AXES)
        state = self.family.start_decoder(self._decoder, layers, self.max_length, self.compute_dtype)
        return state_batch_first(state, len(memory["mask"]))

    def decode(
        self,
        memory: Memory,
        state: State | None,
        tokens_BxT: Array,
        train: bool = False,
        readout: Readout = unembed,
        keep_state: bool = False,
    ) -> tuple[Any, State]:
        """Logits of the token after each given one (the output of `readout`), and the state after, with `keep_state`.

        Without `keep_state` the tokens are the whole sequence. With it they continue from `state`, all rows at the same
        position.
        """
        family, dtype = self.family, self.compute_dtype
        key = self.make_rng("dropout") if train and family.dropout > 0 else None
        y_BxTxD = family.embedding_scale * self.embedding[tokens_BxT]
        needed = keep_state or family.recurrent  # a cache of keys is needed only to continue
        out = family.run(
            self._decoder,
            y_BxTxD,
            state_batch_back(state) if needed else None,
            memory=batch_back(memory, MEMORY_AXES),
            key=key,
            dtype=dtype,
        )
        o_BxTxD = out.h_BxTxH
        if family.dropout_before_readout:
            o_BxTxD = dropout(o_BxTxD, key, family.n_layers + 1, family.dropout)
        table = {"embedding": self.embedding} if family.tied_embeddings else {"readout": self.readout}
        params = {**table, "readout_bias": self.readout_bias}
        state = state_batch_first(out.state, len(tokens_BxT)) if needed else None
        return readout(o_BxTxD, params, dtype), state

    @property
    def _decoder(self) -> dict[str, Any]:
        """Plain dicts: Flax freezes what `setup` assigns, and a hand-written backward pass gives plain ones."""
        return unfreeze(self.decoder)


MEMORY_AXES = {"kv": 2}
"""The batch axis of the arrays of a memory; 0 if not listed."""


def batch_first(memory: Memory, axes: Mapping[str, int]) -> Memory:
    """The arrays with the batch as the first axis, so that rows can be selected, repeated and reordered."""
    return {name: jnp.moveaxis(leaf, axes.get(name, 0), 0) for name, leaf in memory.items()}


def batch_back(memory: Memory, axes: Mapping[str, int]) -> Memory:
    """The inverse of `batch_first`."""
    return {name: jnp.moveaxis(leaf, 0, axes.get(name, 0)) for name, leaf in memory.items()}


def state_batch_first(state: State, batch: int) -> State:
    """A family's state, LxBx..., with the batch first; a scalar is repeated for every row."""
    return jax.tree.map(lambda s: jnp.full(batch, s) if s.ndim == 0 else jnp.moveaxis(s, 1, 0), state)


def state_batch_back(state: State) -> State:
    """The inverse of `state_batch_first`."""
    return jax.tree.map(lambda s: s[0] if s.ndim == 1 else jnp.moveaxis(s, 0, 1), state)
