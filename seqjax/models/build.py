"""From a config to the model it describes."""

from __future__ import annotations

import flax.linen as nn
from jax.typing import DTypeLike

from seqjax.config import ModelConfig, RecurrentConfig, TransformerConfig
from seqjax.errors import UserError
from seqjax.models.recurrent import RecurrentModel
from seqjax.models.transformer import Transformer
from seqjax.models.window import WindowModel


def build_model(
    config: ModelConfig,
    vocab_size: int,
    context_length: int,
    compute_dtype: DTypeLike = "float32",
    bptt: int | None = None,
) -> nn.Module:
    """The model of `config` for a vocabulary of V tokens and contexts of T tokens; all have one signature:

        params = model.init(key, tokens_BxT)["params"]
        logits_BxTxV, state = model.apply({"params": params}, tokens_BxT, state, train, rngs={"dropout": key})
        state = model.initial_state(batch_size)

    Without a state the T tokens stand alone. With a state, which starts as `initial_state`, a call consumes any number
    of tokens and continues where the last one ended: a whole prompt and a single token are the same code.
    Logits and parameters are float32; matmuls have operands in `compute_dtype` and sums in float32.

    `context_length` is the number of learned positions and the size of the Transformer's key-value cache; the other
    families have no such limit. `bptt` is truncated back-propagation through time, of the recurrent families alone.

    Raises:
      UserError: `bptt` for a family without recurrence.
    """
    if isinstance(config, RecurrentConfig):
        return RecurrentModel(config, vocab_size, compute_dtype, bptt)
    if bptt is not None:
        raise UserError(f"bptt {bptt}: the family '{config.family}' has no recurrence to truncate")
    if isinstance(config, TransformerConfig):
        return Transformer(config, vocab_size, context_length, compute_dtype)
    return WindowModel(config, vocab_size, compute_dtype)
