"""Feed-forward language model over a fixed window of tokens (Bengio et al. 2003, JMLR 3): before recurrence.

    x_t = (E[token_{t-k+1}], ..., E[token_t])
    a_t = tanh(W x_t + b)                  and n_layers - 1 further tanh layers
    logits_t = U a_t + c

(Bengio et al., equation 1, without the direct connections from x_t to the logits.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.cells.precision import contract
from seqjax.config import WindowConfig
from seqjax.models.layers import Params, Readout, dropout, linear, normal_init, scan_layers, stack_init, unembed

BEFORE_START = -1
"""Token id in the state of a place before the first token."""


def stack_last(x_BxTxD: Array, window: int, history_BxPxD: Array | None = None) -> Array:
    """The last `window` elements at every time, oldest first: BxTxkxD with k = window.

    y[b, t, j] = x[b, t - k + 1 + j], where elements before the start come from the `history` of P = k - 1 elements that
    went before x; without it they are zero vectors.

    Concatenating the elements instead is y.reshape(B, T, k D). A dense layer cannot tell the two apart: a weight of
    shape (k, D, F) summed over j and d and a weight of shape (k D, F) summed over their joint index are the same
    numbers in the same sums.
    """
    batch, n_times, d_model = x_BxTxD.shape
    if history_BxPxD is None:
        history_BxPxD = jnp.zeros((batch, window - 1, d_model), x_BxTxD.dtype)
    x_BxSxD = jnp.concatenate([history_BxPxD, x_BxTxD], axis=1)
    return jnp.stack([x_BxSxD[:, j : j + n_times] for j in range(window)], axis=2)


class WindowModel(nn.Module):
    """Fixed-window feed-forward language model.

    Parameters (float32): "embedding" VxD; "first" {"W": kxDxF, "b": F}; "layers" {"W": (L-1)xFxF, "b": (L-1)xF} if
    L > 1; "readout" FxV unless tied; "readout_bias" V with `config.bias`. Weights are normal with standard deviation
    fan-in^-0.5 (LeCun et al. 1998); the embedding is scaled as in `RecurrentModel`.
    """

    config: WindowConfig
    vocab_size: int
    compute_dtype: DTypeLike = "float32"

    def initial_state(self, batch_size: int) -> Array:
        """The window - 1 tokens before the first one, int32 Bx(k-1), all `BEFORE_START`."""
        return jnp.full((batch_size, self.config.window - 1), BEFORE_START, jnp.int32)

    @nn.compact
    def __call__(
        self, tokens_BxT: Array, state: Array | None = None, train: bool = False, readout: Readout = unembed
    ) -> tuple[Array, Array | None]:
        """Logits for the token after each given one.

        Args:
          tokens_BxT: integer token ids.
          state: the window - 1 tokens before these; None is the start of a text.
          train: dropout on (needs the rng "dropout" when `config.dropout` > 0).
          readout: what to make of the last hidden states.

        Returns:
          logits_BxTxV float32 (what `readout` returns), and the last window - 1 tokens (None if no state was given).
        """
        config, dtype = self.config, self.compute_dtype
        params = self._params()
        key = self.make_rng("dropout") if train and config.dropout > 0 else None
        x_BxTxD = embed(params["embedding"], tokens_BxT)
        history_BxPxD = None if state is None else embed(params["embedding"], state)
        a_BxTxF = run_layers(config, params, x_BxTxD, history_BxPxD, key, dtype)
        a_BxTxF = dropout(a_BxTxF, key, config.n_layers, config.dropout)
        if state is not None:
            seen = jnp.concatenate([state, tokens_BxT.astype(state.dtype)], axis=1)
            state = seen[:, seen.shape[1] - (config.window - 1) :]
        return readout(a_BxTxF, params, dtype), state

    def _params(self) -> Params:
        config, vocab_size, d_ff = self.config, self.vocab_size, self.config.d_ff
        params = {"embedding": self.param("embedding", normal_init(config.d_model**-0.5, vocab_size, config.d_model))}
        params |= {name: self.param(name, init) for name, init in layer_inits(config).items()}
        if not config.tied_embeddings:
            params["readout"] = self.param("readout", normal_init(d_ff**-0.5, d_ff, vocab_size))
        if config.bias:
            params["readout_bias"] = self.param("readout_bias", lambda _: jnp.zeros(vocab_size))
        return params


def layer_inits(config: WindowConfig) -> dict[str, Callable[[Array], Params]]:
    """Functions of the key that draw "first" and, if L > 1, "layers" as described in `WindowModel`."""
    d_model, d_ff, window = config.d_model, config.d_ff, config.window

    def init_dense(key: Array, fan_in: int, *shape: int) -> Params:
        bias = {"b": jnp.zeros(d_ff)} if config.bias else {}
        return {"W": fan_in**-0.5 * jax.random.normal(key, shape)} | bias

    inits = {"first": lambda key: init_dense(key, window * d_model, window, d_model, d_ff)}
    if config.n_layers > 1:
        inits["layers"] = stack_init(lambda key: init_dense(key, d_ff, d_ff, d_ff), config.n_layers - 1)
    return inits


def run_layers(
    config: WindowConfig,
    params: Params,
    x_BxTxD: Array,
    history_BxPxD: Array | None,
    key: Array | None,
    dtype: DTypeLike,
) -> Array:
    """All hidden layers over the last `window` of the inputs (and the P before them): a_BxTxF of the last."""
    x_BxTxkxD = dropout(stack_last(x_BxTxD, config.window, history_BxPxD), key, 0, config.dropout)
    a_BxTxF = contract("BTkD,kDF->BTF", x_BxTxkxD, params["first"]["W"], dtype)
    if config.bias:
        a_BxTxF = a_BxTxF + params["first"]["b"][None, None, :]
    a_BxTxF = jnp.tanh(a_BxTxF)

    def run_layer(a_BxTxF: Array, layer: tuple[Params, Array]) -> tuple[Array, None]:
        layer_params, index = layer
        a_BxTxF = dropout(a_BxTxF, key, index, config.dropout)
        return jnp.tanh(linear(a_BxTxF, layer_params["W"], layer_params.get("b"), dtype)), None

    if "layers" in params:
        a_BxTxF, _ = scan_layers(run_layer, a_BxTxF, (params["layers"], jnp.arange(1, config.n_layers)))
    return a_BxTxF


def embed(embedding_VxD: Array, tokens_BxT: Array) -> Array:
    """sqrt(D) E[token]; a zero vector for `BEFORE_START`."""
    x_BxTxD = math.sqrt(embedding_VxD.shape[1]) * embedding_VxD[tokens_BxT]
    return jnp.where(tokens_BxT[:, :, None] == BEFORE_START, 0.0, x_BxTxD)
