"""Recurrent language model: embedding, stacked recurrent layers, readout.

    x_t^0 = sqrt(D) E[token_t]
    h_t^l = cell(h_{t-1}^l, x_t^{l-1}),   x_t^l = h_t^l        l = 1 .. L
    logits_t = W h_t^L + b

Dropout falls on what passes between layers, never on the recurrence (Zaremba et al. 2014, arXiv 1409.2329).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells import CELLS, State, tabulate, unroll
from seqjax.config import RecurrentConfig
from seqjax.models.layers import Params, Readout, dropout, normal_init, scan_layers, stack_init, unembed


class RecurrentModel(nn.Module):
    """Elman, LSTM or GRU language model.

    Parameters (float32): "embedding" VxD; "layers", the cell's weights with a leading axis L; "readout" HxV unless
    tied; "readout_bias" V with `config.bias`. Where H differs from D the first layer has another shape than the others:
    it then stands apart as "first", and "layers" holds the other L - 1.

    The embedding has standard deviation D^-0.5 and is scaled by sqrt(D) on the way in (Vaswani et al. 2017,
    section 3.4), so that the inputs have unit variance and a tied readout starts with small logits.

    Attributes:
      bptt: truncated back-propagation through time, the steps in a piece (`seqjax.cells.unroll`); None: not truncated.
    """

    config: RecurrentConfig
    vocab_size: int
    compute_dtype: DTypeLike = "float32"
    bptt: int | None = None

    def initial_state(self, batch_size: int) -> State:
        """Zero state of every layer: the cell's state with a leading axis L, float32 LxBxH."""
        return zero_state(self.config, batch_size)

    @nn.compact
    def __call__(
        self, tokens_BxT: Array, state: State | None = None, train: bool = False, readout: Readout = unembed
    ) -> tuple[Array, State]:
        """Logits for the token after each given one.

        Args:
          tokens_BxT: integer token ids.
          state: the state to continue from; None is the zero state.
          train: dropout on (needs the rng "dropout" when `config.dropout` > 0).
          readout: what to make of the last hidden states.

        Returns:
          logits_BxTxV float32 (what `readout` returns) and the state after the last token, float32.
        """
        config, dtype = self.config, self.compute_dtype
        params = self._params()
        state = self.initial_state(tokens_BxT.shape[0]) if state is None else state
        key = self.make_rng("dropout") if train and config.dropout > 0 else None
        embedding_VxD = math.sqrt(config.d_model) * params["embedding"]
        h_TxBxH, state = run_layers(
            config, params, tokens_BxT.T, state, key, dtype, embedding_VxD=embedding_VxD, bptt=self.bptt
        )
        h_TxBxH = dropout(h_TxBxH, key, config.n_layers, config.dropout)
        return readout(h_TxBxH.swapaxes(0, 1), params, dtype), state

    def _params(self) -> Params:
        config, vocab_size = self.config, self.vocab_size
        d_model, d_hidden = config.d_model, config.d_hidden or config.d_model
        params = {"embedding": self.param("embedding", normal_init(d_model**-0.5, vocab_size, d_model))}
        params |= {name: self.param(name, init) for name, init in layer_inits(config).items()}
        if not config.tied_embeddings:
            params["readout"] = self.param("readout", normal_init(d_hidden**-0.5, d_hidden, vocab_size))
        if config.bias:
            params["readout_bias"] = self.param("readout_bias", lambda _: jnp.zeros(vocab_size))
        return params


def zero_state(config: RecurrentConfig, batch_size: int) -> State:
    """Zero state of every layer: the cell's state with a leading axis L, float32 LxBxH."""
    cell_state = CELLS[config.family].initial_state(batch_size, config.d_hidden or config.d_model)
    return jax.tree.map(lambda leaf: jnp.zeros((config.n_layers, *leaf.shape), leaf.dtype), cell_state)


def layer_inits(config: RecurrentConfig) -> dict[str, Callable[[Array], Params]]:
    """Functions of the key that draw "first" and "layers" as described in `RecurrentModel`, those that there are."""
    d_model, d_hidden = config.d_model, config.d_hidden or config.d_model

    def init_layer(key: Array, d_in: int = d_hidden) -> Params:
        return CELLS[config.family].init(key, d_in, d_hidden, config)

    inits = {} if d_hidden == d_model else {"first": partial(init_layer, d_in=d_model)}
    n_equal = config.n_layers - len(inits)
    return inits | ({"layers": stack_init(init_layer, n_equal)} if n_equal else {})


def run_layers(
    config: RecurrentConfig,
    params: Params,
    x_TxBxD: Array,
    state: State,
    key: Array | None,
    dtype: DTypeLike,
    mask_TxB: Array | None = None,
    embedding_VxD: Array | None = None,
    bptt: int | None = None,
) -> tuple[Array, State]:
    """All recurrent layers over T steps: the first one apart, as it differs in width or reads a table of the tokens.

    Args:
      params: holds "first" and "layers" as described in `RecurrentModel`.
      x_TxBxD: inputs; with `embedding_VxD`, tokens TxB, each of which stands for its row of the embedding.
      state: leading axis L.
      key: of the dropout masks; None for no dropout.
      mask_TxB: bool; a step where it is false is left out, see `seqjax.cells.unroll`.
      bptt: steps in a piece of truncated back-propagation, the same pieces in every layer; None: not truncated.

    Returns:
      h_TxBxH of the last layer in `dtype`, and the new state.
    """
    cell = CELLS[config.family]

    def run_layer(x_TxBxD: Array, layer: tuple[Params, State, Array]) -> tuple[Array, State]:
        layer_params, layer_state, index = layer
        x_TxBxD = dropout(x_TxBxD, key, index, config.dropout)
        return unroll(cell, layer_params, x_TxBxD, layer_state, dtype, config.recurrence, mask_TxB, bptt)

    n_first = int("first" in params)
    first = params["first"] if n_first else jax.tree.map(lambda leaf: leaf[0], params["layers"])
    first_state = jax.tree.map(lambda leaf: leaf[0], state)
    few_tokens = embedding_VxD is not None and len(embedding_VxD) <= x_TxBxD.size
    if few_tokens and key is None and config.recurrence != "scan":
        table = tabulate(cell, first, embedding_VxD, dtype)
        x_TxBxD, first_state = unroll(cell, table, x_TxBxD, first_state, dtype, config.recurrence, mask_TxB, bptt)
    else:
        x_TxBxD = x_TxBxD if embedding_VxD is None else embedding_VxD[x_TxBxD]
        x_TxBxD, first_state = run_layer(x_TxBxD.astype(dtype), (first, first_state, 0))
    new_state = jax.tree.map(lambda leaf: leaf[None], first_state)
    if config.n_layers > 1:
        others = jax.tree.map(lambda leaf: leaf[1 - n_first :], params["layers"])
        other_states = jax.tree.map(lambda leaf: leaf[1:], state)
        layers = (others, other_states, jnp.arange(1, config.n_layers))
        x_TxBxD, other_states = scan_layers(run_layer, x_TxBxD, layers)
        new_state = jax.tree.map(lambda *parts: jnp.concatenate(parts), new_state, other_states)
    return x_TxBxD, new_state
