"""The inside of a trained model on one text: attention, gates, states, and the logits of each token.

It is the forward pass of the family, without dropout; so the logits equal the model's.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from seqjax.families.family import Family
from seqjax.layers.dense import Params
from seqjax.models.language_model import watched


class Inside(NamedTuple):
    """One text through one model.

    Attributes:
      logits_TxV: of the token after each given one, float32.
      attention_LxNxTxT: [l, n, t, s], the weight of position s at position t in head n of block l. Each row sums to 1
        and is zero after t. None for a model without attention.
      gates_LxTxH: by the names in the family's equations, after activation; {} for families without gates.
      states_LxTxH: "h" and the other arrays of the state, after each step; {} for families without a state.
    """

    logits_TxV: Array
    attention_LxNxTxT: Array | None
    gates_LxTxH: dict[str, Array]
    states_LxTxH: dict[str, Array]


def look_inside(family: Family, params: Params, tokens_T: Array, dtype: DTypeLike = "float32") -> Inside:
    """Read T tokens from the start with the parameters of a language model of `family`.

    Raises:
      UserError: more tokens than learned positions.
    """
    logits_1xTxV, seen = watched(family, params, tokens_T[None], dtype)
    attention = seen.get("attention")
    over_time = {name: array_LxTx1xH[:, :, 0] for name, array_LxTx1xH in seen.items() if name != "attention"}
    return Inside(
        logits_TxV=logits_1xTxV[0],
        attention_LxNxTxT=None if attention is None else attention[:, 0],
        gates_LxTxH={name: gate for name, gate in over_time.items() if name not in family.states},
        states_LxTxH={name: state for name, state in over_time.items() if name in family.states},
    )


class Trace(NamedTuple):
    """One text through a trained run, numpy arrays.

    Attributes:
      tokens_T: the text.
      loss_T: nats; NaN for the first token, which is not predicted.
    """

    tokens_T: np.ndarray
    loss_T: np.ndarray
    inside: Inside

    def likeliest(self) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest token after each given one, and its probability."""
        logits_TxV = self.inside.logits_TxV.astype(np.float64)
        p_TxV = np.exp(logits_TxV - logits_TxV.max(axis=-1, keepdims=True))
        p_TxV /= p_TxV.sum(axis=-1, keepdims=True)
        return p_TxV.argmax(axis=-1), p_TxV.max(axis=-1)


def next_token_losses(logits_TxV: Array, tokens_T: Array) -> Array:
    """- log softmax(logits_t)[token_{t+1}] in nats, [T - 1]: the first token is not predicted."""
    log_p_TxV = jax.nn.log_softmax(logits_TxV[:-1].astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_p_TxV, tokens_T[1:, None], axis=-1)[:, 0]
