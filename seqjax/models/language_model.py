"""Language model: embedding, a family, readout.

x_t = s E[token_t]                  s is the family's `embedding_scale`
h_1 .. h_T = family(x_1 .. x_T)
logits_t = W h_t + b
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.errors import UserError
from seqjax.families.family import Family, Lookup, State, Watch, rows
from seqjax.layers.dense import Params, dropout, normal_init
from seqjax.layers.readout import Readout, unembed


class LanguageModel(nn.Module):
    """Logits of the next token after each given one.

    Parameters (float32): "embedding" VxD; parameters of the family; "readout" HxV unless tied; "readout_bias" V if the
    family has one.

    Attributes:
      context_length: the number of learned positions and the size of a key-value cache, in families with these.
      bptt: steps in a piece of truncated back-propagation through time; None: not truncated.
    """

    family: Family
    vocab_size: int
    context_length: int
    compute_dtype: DTypeLike = "float32"
    bptt: int | None = None

    def initial_state(self, batch_size: int) -> State:
        """The state before the first token."""
        return self.family.zero_state(batch_size, self.context_length, self.compute_dtype)

    @nn.compact
    def __call__(
        self, tokens_BxT: Array, state: State = None, train: bool = False, readout: Readout = unembed
    ) -> tuple[Array, State]:
        """Logits for the token after each given one.

        Without a state the T tokens are the whole sequence. With a state, first `initial_state`, a call reads any
        number of tokens and continues where the last call ended: a prompt and a single token use the same code.

        Args:
          tokens_BxT: integer token ids.
          train: dropout on (needs the rng "dropout" when the family's rate is above 0).
          readout: function of the last hidden states.

        Returns:
          logits_BxTxV float32 (the output of `readout`), and the state after the last token.
        """
        family, inits = self.family, initial_values(self.family, self.vocab_size, self.context_length)
        params = {name: self.param(name, init) for name, init in inits.items()}
        key = self.make_rng("dropout") if train and family.dropout > 0 else None
        x = embedded(family, params, tokens_BxT)
        out = family.run(params, x, state, key=key, dtype=self.compute_dtype, truncate=self.bptt)
        h_BxTxH = out.h_BxTxH
        if family.dropout_before_readout:
            h_BxTxH = dropout(h_BxTxH, key, family.n_layers, family.dropout)
        return readout(h_BxTxH, params, self.compute_dtype), out.state


def initial_values(family: Family, vocab_size: int, context_length: int) -> dict[str, Callable[[Array], Params]]:
    """Functions of a key: the initial values of a language model's parameters, by name."""
    inits = {"embedding": normal_init(family.embedding_std, vocab_size, family.d_model)}
    inits |= family.init(context_length)
    if not family.tied_embeddings:
        inits["readout"] = normal_init(family.readout_std, family.width(), vocab_size)
    if family.readout_bias:
        inits["readout_bias"] = lambda _: jnp.zeros(vocab_size)
    return inits


def embedded(family: Family, params: Params, tokens_BxT: Array) -> Lookup:
    """The family's inputs for tokens."""
    return Lookup(tokens_BxT, params["embedding"], family.embedding_scale)


def watched(
    family: Family, params: Params, tokens_BxT: Array, dtype: DTypeLike = "float32", nudges: object = None
) -> tuple[Array, dict[str, Array]]:
    """Logits BxTxV of a trained model without dropout, and the inside of the family (`Watch`).

    In a family without `states` the nudges, TxBxD, are added to its inputs.
    """
    x = embedded(family, params, tokens_BxT)
    if nudges is not None and not family.states:
        x, nudges = rows(x) + nudges.swapaxes(0, 1), None
    out = family.run(params, x, dtype=dtype, watch=Watch(nudges))
    return unembed(out.h_BxTxH, params, dtype), out.seen


def build_model(
    family: Family,
    vocab_size: int,
    context_length: int,
    compute_dtype: DTypeLike = "float32",
    bptt: int | None = None,
) -> LanguageModel:
    """The language model of a family; arguments as the attributes of `LanguageModel`.

    Raises:
      UserError: `bptt` for a family without recurrence.
    """
    if bptt is not None and not family.recurrent:
        raise UserError(f"bptt {bptt}: the family '{family.family}' has no recurrence to truncate")
    return LanguageModel(family, vocab_size, context_length, compute_dtype, bptt)
