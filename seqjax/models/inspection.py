"""What happens inside a trained model while it reads a text: attention, gates, states, and what it says of each token.

The same parameters and the same layers as in `seqjax.models`, run so that what the model forgets is kept. One text, no
dropout; the logits are those of the model.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.cells import CELLS, Cell, State
from seqjax.cells.precision import carry_dtype
from seqjax.config import ModelConfig, RecurrentConfig, TransformerConfig
from seqjax.errors import UserError
from seqjax.models import window
from seqjax.models.attention import attention_weights, queries_keys_values
from seqjax.models.layers import Params, normalize, unembed
from seqjax.models.positions import rotary_angles
from seqjax.models.transformer import norm_before, run_blocks


class Inspection(NamedTuple):
    """One text through one model.

    Attributes:
      logits_TxV: of the token after each given one, float32.
      attention_LxNxTxT: [l, n, t, s], how much head n of block l takes from position s at position t; each row sums to
        1 and is zero after t. None for a model without attention.
      gates_LxTxH: "i", "f", "g", "o" of an LSTM, "r", "z", "n" of a GRU, after their activation, as in the equations of
        `seqjax.cells`; {} for other families.
      states_LxTxH: "h", and "c" of an LSTM, after each step; {} for families without a state.
    """

    logits_TxV: Array
    attention_LxNxTxT: Array | None
    gates_LxTxH: dict[str, Array]
    states_LxTxH: dict[str, Array]


def inspect(config: ModelConfig, params: Params, tokens_T: Array, dtype: DTypeLike = "float32") -> Inspection:
    """Read T tokens from the zero state with the parameters of the model of `config`.

    Raises:
      UserError: more tokens than learned positions.
    """
    if isinstance(config, RecurrentConfig):
        return _recurrent(config, params, tokens_T, dtype)
    if isinstance(config, TransformerConfig):
        return _transformer(config, params, tokens_T, dtype)
    x_1xTxD = window.embed(params["embedding"], tokens_T[None])
    h_1xTxF = window.run_layers(config, params, x_1xTxD, None, None, dtype)
    return Inspection(unembed(h_1xTxF, params, dtype)[0], None, {}, {})


def _transformer(config: TransformerConfig, params: Params, tokens_T: Array, dtype: DTypeLike) -> Inspection:
    """Block by block: each one's weights are found from what goes into it, and the block itself does the rest."""
    x_1xTxD = params["embedding"][tokens_T][None]
    if config.positions == "learned":
        limit = len(params["positions"])
        if len(tokens_T) > limit:
            raise UserError(f"the text has {len(tokens_T)} tokens, but the model has learned {limit} positions")
        x_1xTxD = x_1xTxD + params["positions"][None, : len(tokens_T)]
    weights_LxNxTxT = []
    one_block = dataclasses.replace(config, n_layers=1)
    for index in range(config.n_layers if "layers" in params else 0):
        block = jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], params["layers"])
        if config.attention:
            weights_LxNxTxT.append(_weights(config, jax.tree.map(lambda leaf: leaf[0], block), x_1xTxD, dtype))
        x_1xTxD, _ = run_blocks(one_block, block, x_1xTxD, 0, None, None, dtype)
    x_1xTxD = normalize(norm_before(config), params.get("final_norm"), x_1xTxD)
    attention = jnp.stack(weights_LxNxTxT) if weights_LxNxTxT else None
    return Inspection(unembed(x_1xTxD, params, dtype)[0], attention, {}, {})


def _weights(config: TransformerConfig, block: Params, x_1xTxD: Array, dtype: DTypeLike) -> Array:
    """The attention weights of one block, NxTxT, from the residual stream that goes into it."""
    n_times, angles_TxK = x_1xTxD.shape[1], None
    if config.positions == "rotary":
        angles_TxK = rotary_angles(jnp.arange(n_times), config.d_model // config.n_heads)
    y_1xTxD = normalize(norm_before(config), block.get("attention_norm"), x_1xTxD)
    q_1xNxTxK, k_1xNxTxK, _ = queries_keys_values(block["attention"], y_1xTxD, angles_TxK, dtype)
    causal_TxT = jnp.tril(jnp.ones((n_times, n_times), bool))
    of_head = partial(attention_weights, mask_TxS=causal_TxT, dtype=dtype)
    return jax.vmap(of_head)(q_1xNxTxK[0], k_1xNxTxK[0])


def _recurrent(config: RecurrentConfig, params: Params, tokens_T: Array, dtype: DTypeLike) -> Inspection:
    """Layer by layer, each through time with the cell's `advance`, which keeps the gates."""
    cell, d_hidden = CELLS[config.family], config.d_hidden or config.d_model
    x_Tx1xD = (math.sqrt(config.d_model) * params["embedding"])[tokens_T][:, None]
    layers = [params["first"]] if "first" in params else []
    for index in range(config.n_layers - len(layers)):
        layers.append(jax.tree.map(lambda leaf, index=index: leaf[index], params["layers"]))
    gates, states = [], []
    for layer in layers:
        state_TxH, gates_TxH = _through_time(cell, layer, x_Tx1xD.astype(dtype), d_hidden, dtype)
        states.append(state_TxH)
        gates.append(gates_TxH)
        x_Tx1xD = state_TxH["h"].astype(dtype)[:, None]
    logits_TxV = unembed(x_Tx1xD.swapaxes(0, 1), params, dtype)[0]
    return Inspection(logits_TxV, None, _stacked(gates), _stacked(states))


def _through_time(
    cell: Cell, layer: Params, x_Tx1xD: Array, d_hidden: int, dtype: DTypeLike
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The states and the gates of one layer by name, each TxH."""

    def step(state: State, gates_x_1xG: Array) -> tuple[State, tuple[State, Any]]:
        state, kept = cell.backprop.advance(layer, state, gates_x_1xG, dtype)
        return state, (state, kept)

    zero = jax.tree.map(lambda leaf: leaf.astype(carry_dtype(dtype)), cell.initial_state(1, d_hidden))
    _, (states_Tx1xH, kept_Tx1xG) = lax.scan(step, zero, cell.project(layer, x_Tx1xD, dtype))
    states = dict(zip("hc", jax.tree.leaves(states_Tx1xH), strict=False))
    return jax.tree.map(lambda leaf: leaf[:, 0], (states, _gates(cell.family, kept_Tx1xG)))


def _gates(family: str, kept_Tx1xG: Any) -> dict[str, Array]:
    """By name, from what `advance` of each cell keeps."""
    if family == "lstm":
        return dict(zip("ifgo", jnp.split(kept_Tx1xG, 4, axis=-1), strict=True))
    if family == "gru":
        rz_Tx1xG, n_Tx1xH, *_ = kept_Tx1xG
        r_Tx1xH, z_Tx1xH = jnp.split(rz_Tx1xG, 2, axis=-1)
        return {"r": r_Tx1xH, "z": z_Tx1xH, "n": n_Tx1xH}
    return {}


def _stacked(layers: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: jnp.stack([layer[name] for layer in layers]) for name in layers[0]}


def next_token_losses(logits_TxV: Array, tokens_T: Array) -> Array:
    """- log softmax(logits_t)[token_{t+1}] in nats, T - 1 of them: the first token is given, not predicted."""
    log_p_TxV = jax.nn.log_softmax(logits_TxV[:-1].astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_p_TxV, tokens_T[1:, None], axis=-1)[:, 0]
