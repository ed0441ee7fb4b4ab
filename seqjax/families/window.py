"""Feed-forward language model over a fixed window of tokens (Bengio et al. 2003, JMLR 3): before recurrence.

    x_t = (E[token_{t-k+1}], ..., E[token_t])
    a_t = tanh(W x_t + b)                  and n_layers - 1 further tanh layers
    logits_t = U a_t + c

(Bengio et al., equation 1, without the direct connections from x_t to the logits.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from pydantic import Field, PositiveInt

from seqjax.families.family import Family, Impossible, Inputs, Output, Watch, check_base_width, rows
from seqjax.layers.dense import Params, dropout, linear, scan_layers, stack_init
from seqjax.layers.precision import contract
from seqjax.layers.sharing import gathered, shared

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


def stack_last(x_BxTxD: Array, window: int, history_BxPxD: Array | None = None) -> Array:
    """The last `window` elements at every time, oldest first: BxTxkxD, k = window.

    y[b, t, j] = x[b, t - k + 1 + j]. Elements before the start come from `history`, the P = k - 1 elements before x.
    Without it they are zero vectors.

    The concatenation of the elements is y.reshape(B, T, k D). A dense layer with weights (k, D, F) on y equals one with
    weights (k D, F) on the concatenation.
    """
    batch, n_times, d_model = x_BxTxD.shape
    if history_BxPxD is None:
        history_BxPxD = jnp.zeros((batch, window - 1, d_model), x_BxTxD.dtype)
    x_BxSxD = jnp.concatenate([history_BxPxD, x_BxTxD], axis=1)
    return jnp.stack([x_BxSxD[:, j : j + n_times] for j in range(window)], axis=2)


@dataclass(frozen=True)
class Window(Family):
    """Feed-forward network over the last few tokens, the baseline before recurrence (Bengio et al. 2003).

    Parameters (float32): "first" {"W": kxDxF, "b": F}; "layers" {"W": (L-1)xFxF, "b": (L-1)xF} if L > 1. Weights are
    normal with standard deviation fan-in^-0.5 (LeCun et al. 1998). It never sees later elements.
    """

    family: Literal["window"] = "window"
    """Fixed-window feed-forward model."""
    d_model: PositiveInt = 64
    """D, width of the embedding."""
    window: PositiveInt = 8
    """Last tokens that the model sees, the current one included."""
    d_ff: PositiveInt = 256
    """F, width of the hidden layers."""
    n_layers: PositiveInt = 1
    """L, hidden layers."""
    bias: bool = True
    """Biases in linear layers."""
    tied_embeddings: bool = False
    """Use the embedding table as the readout; needs d_ff equal to d_model."""
    dropout: Fraction = 0.0
    """Dropout rate on the inputs of each layer."""
    base_width: PositiveInt | None = None
    """d_model at which muP is the standard parametrization: a rate found there holds at all widths; null: no muP."""

    label: ClassVar[str] = "window"
    colour: ClassVar[str] = "#56B4E9"
    through_time: ClassVar[str] = "window"
    later: ClassVar = {"base_width": None}

    def width(self, causal: bool = True) -> int:
        """F."""
        return self.d_ff

    def widened(self, d_model: int) -> Self:
        """The model at another D; F in proportion."""
        return dataclasses.replace(self, d_model=d_model, d_ff=self.proportional(self.d_ff, d_model))

    def check(self) -> None:
        """Raise `Impossible` when a tied table cannot be the readout."""
        check_base_width(self)
        if self.tied_embeddings and self.d_ff != self.d_model:
            raise Impossible("model.tied_embeddings", f"needs d_ff {self.d_ff} equal to d_model {self.d_model}")

    def zero_state(self, batch: int, context: int = 0, dtype: DTypeLike = "float32") -> Array:
        """The k - 1 inputs before the first one, zero vectors: Bx(k-1)xD."""
        return jnp.zeros((batch, self.window - 1, self.d_model))

    def init(self, context: int, causal: bool = True) -> dict[str, Callable[[Array], Params]]:
        """Functions of the key that draw "first" and, if L > 1, "layers"."""
        d_model, d_ff, window = self.d_model, self.d_ff, self.window

        def init_dense(key: Array, fan_in: int, *shape: int) -> Params:
            bias = {"b": jnp.zeros(d_ff)} if self.bias else {}
            return {"W": fan_in**-0.5 * jax.random.normal(key, shape)} | bias

        inits = {"first": lambda key: init_dense(key, window * d_model, window, d_model, d_ff)}
        if self.n_layers > 1:
            inits["layers"] = stack_init(lambda key: init_dense(key, d_ff, d_ff, d_ff), self.n_layers - 1)
        return inits

    def run(
        self,
        params: Params,
        x: Inputs,
        state: Array | None = None,
        *,
        mask_BxT: Array | None = None,
        causal: bool = True,
        memory: None = None,
        key: Array | None = None,
        dtype: DTypeLike = "float32",
        truncate: int | None = None,
        watch: Watch | None = None,
    ) -> Output:
        """See `Family.run`: all hidden layers over the last k inputs. The state holds the inputs before x."""
        x_BxTxD = rows(x)
        x_BxTxkxD = dropout(stack_last(x_BxTxD, self.window, state), key, 0, self.dropout)
        a_BxTxF = contract("BTkD,kDF->BTF", x_BxTxkxD, params["first"]["W"], dtype)
        if self.bias:
            a_BxTxF = a_BxTxF + params["first"]["b"][None, None, :]
        a_BxTxF = jnp.tanh(a_BxTxF)

        def run_layer(a_BxTxF: Array, layer: tuple[Params, Array]) -> tuple[Array, None]:
            layer_params, index = layer
            layer_params, a_BxTxF = gathered(layer_params), shared(a_BxTxF)
            a_BxTxF = dropout(a_BxTxF, key, index, self.dropout)
            return jnp.tanh(linear(a_BxTxF, layer_params["W"], layer_params.get("b"), dtype)), None

        if "layers" in params:
            a_BxTxF, _ = scan_layers(run_layer, a_BxTxF, (params["layers"], jnp.arange(1, self.n_layers)))
        if state is not None:
            seen_BxSxD = jnp.concatenate([state, x_BxTxD.astype(state.dtype)], axis=1)
            state = seen_BxSxD[:, seen_BxSxD.shape[1] - (self.window - 1) :]
        return Output(a_BxTxF, state)
