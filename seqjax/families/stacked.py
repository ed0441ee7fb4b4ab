"""Stacks of residual blocks around a mixer of time, shared by the recurrent families of today. A family adds the mixer.

    u = x + mixer(norm(x))          norm: RMSNorm; the mixer carries a state from step to step
    y = u + mlp(norm(u))            L blocks of these two, then a last norm

The field `block` says what is around the mixer:

    common       the lines above with one MLP for all families: SwiGLU of width 8 D / 3, as in a modern Transformer. Two
                 families in it differ by the mixer alone.
    published    the lines above with the MLP of the family's paper, `published_mlp`.
    cell         y = mixer(x): no norm, no residual, no MLP, no last norm. A mixer is then its recurrence alone.

The residual stream and states are float32. Dropout applies to the inputs and to what is added to the residual stream,
never to the recurrence. A bidirectional model has a second stack from the last element to the first, and
h_t = [forward_t, backward_t].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from pydantic import Field, PositiveInt

from seqjax.errors import UserError
from seqjax.families.family import Family, Impossible, Inputs, Output, Watch, check_base_width, rows
from seqjax.layers.dense import Params, dropout, scan_layers, stack_init
from seqjax.layers.feed_forward import feed_forward, init_feed_forward
from seqjax.layers.norms import init_norm, normalize
from seqjax.layers.precision import carry_dtype
from seqjax.through_time.pieces import in_pieces

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
State = dict[str, Array]  # of one layer Bx...; of all layers LxBx...
Tree = Any


class PublishedMLP(NamedTuple):
    """The MLP of a family's paper: its kind, its width over D, and whether linear layers of the block have biases."""

    kind: Literal["swiglu", "geglu", "gelu", "none"]
    expansion: float = 0.0
    bias: bool = False


@dataclass(frozen=True)
class Stacked(Family):
    """The base of families made of residual blocks with a mixer. A family defines `init_mixer`, `mix`, `mixer_state`.

    It may also define `mixer_flops`, `published_mlp`, `states`, and fields of its own.

    Parameters (float32): "layers", a block's {"mixer_norm", "mixer", "mlp_norm", "mlp"} with a leading axis L;
    "final_norm". A bidirectional model has the same once more in "backward".
    """

    d_model: PositiveInt = 128
    """D, width of the residual stream."""
    n_layers: PositiveInt = 4
    """L, blocks."""
    block: Literal["common", "published", "cell"] = "common"
    """Around the mixer: norms, residuals and one MLP for all families, those of its paper, or nothing."""
    mlp: Literal["swiglu", "geglu", "gelu", "none"] | None = None
    """MLP of each block; null: that of `block`."""
    d_ff: PositiveInt | None = None
    """F, width of the MLP; null: as published, or 4 D (swiglu, geglu: 8 D / 3 rounded up to a multiple of 8)."""
    bias: bool | None = None
    """Biases in the linear layers of MLP and mixer; null: in block published if its paper has them."""
    tied_embeddings: bool = False
    """Use the embedding table as the readout."""
    dropout: Fraction = 0.0
    """Dropout rate on the embedding and on each sub-layer's output."""
    base_width: PositiveInt | None = None
    """d_model at which muP is the standard parametrization: a rate found there holds at all widths; null: no muP."""

    recurrent: ClassVar[bool] = True
    dropout_before_readout: ClassVar[bool] = False
    readout_bias: ClassVar[bool] = False
    states: ClassVar[tuple[str, ...]] = ("h",)
    """Names of the arrays of `mixer_state` that can be nudged."""
    published_mlp: ClassVar[PublishedMLP] = PublishedMLP("swiglu", 8 / 3)

    def init_mixer(self, key: Array) -> Params:
        """Parameters of one mixer, float32. Names of matrices begin with W; kernels of convolutions are no matrices.

        Standard deviations: D^-0.5 for what reads D inputs, `write_std` for what writes to the residual stream.
        """
        raise NotImplementedError

    def mix(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, dtype: DTypeLike,
        watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """The mixer over T steps.

        Args:
          params: of `init_mixer`.
          x_BxTxD: float32.
          state: before the first step, as `mixer_state`.
          mask_BxT: where it is false, the state is unchanged, and nothing of x is read.
          dtype: of the operands of matrix products; states and sums are float32.
          watched: None in training. Its `nudges`, a tuple in the order of `states` of arrays TxBx..., or None, are
            added to the state after each step.

        Returns:
          y_BxTxD; the state after the last step; when watched, arrays TxBxR by name: `states` after each step, and
          gates. {} when not watched.
        """
        raise NotImplementedError

    def mixer_state(self, batch: int) -> State:
        """The state of one mixer before the first step: zeros Bx..., float32, by name."""
        raise NotImplementedError

    def mixer_flops(self) -> float:
        """FLOPs of one mixer per token beyond 2 per matrix weight; elementwise work is not counted."""
        return 0.0

    def write_std(self, inputs: int) -> float:
        """Initial standard deviation of a matrix that writes to the residual stream.

        1 / sqrt(inputs), divided by the root of the number of sub-layers: so the sum over all of them stays small.
        """
        if self.block == "cell":
            return inputs**-0.5
        return (inputs * self.n_layers * (1 if self.mlp_kind == "none" else 2)) ** -0.5

    @property
    def norm(self) -> Literal["rmsnorm", "none"]:
        """The norm before each sub-layer and before the readout."""
        return "none" if self.block == "cell" else "rmsnorm"

    @property
    def mlp_kind(self) -> Literal["swiglu", "geglu", "gelu", "none"]:
        """The MLP of each block: as given, or that of `block`."""
        of_block = {"common": "swiglu", "published": self.published_mlp.kind, "cell": "none"}[self.block]
        return self.mlp or of_block

    @property
    def has_bias(self) -> bool:
        """Whether linear layers have biases: as given, or as `block` has them."""
        return self.bias if self.bias is not None else self.block == "published" and self.published_mlp.bias

    @property
    def feed_forward_width(self) -> int:
        """F."""
        if self.d_ff is not None:
            return self.d_ff
        if self.block == "published" and self.mlp in (None, self.published_mlp.kind):
            return round(self.published_mlp.expansion * self.d_model)
        return 4 * self.d_model if self.mlp_kind == "gelu" else 8 * math.ceil(self.d_model / 3)

    def widened(self, d_model: int) -> Self:
        """The model at another D. F, if given, stays in proportion."""
        d_ff = None if self.d_ff is None else self.proportional(self.d_ff, d_model)
        return dataclasses.replace(self, d_model=d_model, d_ff=d_ff)

    def width(self, causal: bool = True) -> int:
        """D, or 2 D if bidirectional."""
        return self.d_model if causal else 2 * self.d_model

    def extra_flops(self, context: int) -> float:
        """L times `mixer_flops`; the context does not matter."""
        return self.n_layers * self.mixer_flops()

    def check(self) -> None:
        """Raise `Impossible` for a cell with an MLP, or muP with tied embeddings."""
        check_base_width(self)
        if self.block == "cell" and self.mlp_kind != "none":
            raise Impossible("model.mlp", f"{self.mlp}: block cell has no MLP; allowed: null, none")

    def zero_state(self, batch: int, context: int = 0, dtype: DTypeLike = "float32") -> State:
        """Zero states of all layers, LxBx...; `context` is not used."""
        return jax.tree.map(lambda s: jnp.zeros((self.n_layers, *s.shape), s.dtype), self.mixer_state(batch))

    def no_nudges(self, batch: int, times: int) -> Tree:
        """Zeros like `states` after every step, a tuple of TxLxBx...."""
        zero = self.zero_state(batch)
        return tuple(jnp.zeros((times, *zero[name].shape)) for name in self.states)

    def init(self, context: int, causal: bool = True) -> dict[str, Callable[[Array], Params]]:
        """Functions of the key for "layers", "final_norm" and "backward", as far as the model has them."""
        inits: dict[str, Callable[[Array], Params]] = {"layers": stack_init(self.init_block, self.n_layers)}
        if self.norm != "none":
            inits["final_norm"] = lambda _: init_norm(self.norm, self.d_model, bias=False)
        if causal:
            return inits
        return inits | {"backward": lambda key: {name: init(key) for name, init in inits.items()}}

    def init_block(self, key: Array) -> Params:
        """Parameters of one block, as far as it has them."""
        key_mixer, key_mlp = jax.random.split(key)
        params: dict[str, Any] = {"mixer": self.init_mixer(key_mixer)}
        if self.mlp_kind != "none":
            width = self.feed_forward_width
            params["mlp"] = init_feed_forward(
                key_mlp, self.mlp_kind, self.d_model, width, self.has_bias, self.d_model**-0.5, self.write_std(width)
            )
        if self.norm != "none":
            params |= {f"{name}_norm": init_norm(self.norm, self.d_model, bias=False) for name in tuple(params)}
        return params

    def run(
        self,
        params: Params,
        x: Inputs,
        state: State | None = None,
        *,
        mask_BxT: Array | None = None,
        causal: bool = True,
        memory: None = None,
        key: Array | None = None,
        dtype: DTypeLike = "float32",
        truncate: int | None = None,
        watch: Watch | None = None,
    ) -> Output:
        """See `Family.run`. Seen when watched: the mixer's states and gates by name, LxTxBxR.

        The state after has no padding in it. With `causal` False the state is that of the forward stack.
        """
        if memory is not None:
            raise UserError(f"the family '{self.family}' cannot be the decoder of an encoder-decoder model")
        x_BxTxD = rows(x).astype(carry_dtype(dtype))
        x_BxTxD = dropout(x_BxTxD, key, 2 * self.n_layers, self.dropout)
        zero = self.zero_state(len(x_BxTxD))
        start = zero if state is None else state
        start, zero = jax.tree.map(lambda s: s.astype(carry_dtype(dtype)), (start, zero))
        stack = partial(self._truncated, key=key, dtype=dtype, truncate=truncate, watched=watch)
        h_BxTxD, last, seen = stack(params, x_BxTxD, start, mask_BxT=mask_BxT)
        if not causal:
            mask_BxT = None if mask_BxT is None else mask_BxT[:, ::-1]
            back_BxTxD, _, _ = stack(params["backward"], x_BxTxD[:, ::-1], zero, mask_BxT=mask_BxT)
            h_BxTxD = jnp.concatenate([h_BxTxD, back_BxTxD[:, ::-1]], axis=-1)
        return Output(h_BxTxD, last, seen)

    def _truncated(
        self, params: Params, x_BxTxD: Array, state: State, *, mask_BxT: Array | None, key: Array | None,
        dtype: DTypeLike, truncate: int | None, watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """All layers over T steps, in pieces of `truncate` steps if it is given. Each piece has dropout of its own."""
        n_times = x_BxTxD.shape[1]
        if truncate is None or truncate >= n_times or watched is not None:
            return self._stack(params, x_BxTxD, state, mask_BxT, key, dtype, watched)

        def piece(inputs: Tree, state: State) -> tuple[Array, State]:
            x_TxBxD, mask_TxB, steps_T = inputs
            mask_BxT = None if mask_TxB is None else mask_TxB.T
            own = None if key is None else jax.random.fold_in(key, steps_T[0])
            h_BxTxD, last, _ = self._stack(params, x_TxBxD.swapaxes(0, 1), state, mask_BxT, own, dtype, None)
            return h_BxTxD.swapaxes(0, 1), last

        inputs = (x_BxTxD.swapaxes(0, 1), None if mask_BxT is None else mask_BxT.T, jnp.arange(n_times))
        h_TxBxD, last = in_pieces(piece, truncate, inputs, state)
        return h_TxBxD.swapaxes(0, 1), last, {}

    def _stack(
        self, params: Params, x_BxTxD: Array, state: State, mask_BxT: Array | None, key: Array | None,
        dtype: DTypeLike, watched: Watch | None,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """All layers over T steps, and the last norm."""
        nudges = None if watched is None or watched.nudges is None else layers_first(watched.nudges)

        def run_block(x_BxTxD: Array, layer: tuple[Params, State, Tree, Array]) -> tuple[Array, tuple[State, dict]]:
            block, state, nudges, index = layer
            n_BxTxD = normalize(self.norm, block.get("mixer_norm"), x_BxTxD)
            inside = None if watched is None else Watch(nudges)
            y_BxTxD, state, seen = self.mix(block["mixer"], n_BxTxD, state, mask_BxT, dtype, inside)
            y_BxTxD = dropout(y_BxTxD, key, 2 * index, self.dropout)
            x_BxTxD = y_BxTxD if self.block == "cell" else x_BxTxD + y_BxTxD
            if "mlp" in block:
                n_BxTxD = normalize(self.norm, block["mlp_norm"], x_BxTxD)
                y_BxTxD = feed_forward(self.mlp_kind, block["mlp"], n_BxTxD, dtype)
                x_BxTxD = x_BxTxD + dropout(y_BxTxD, key, 2 * index + 1, self.dropout)
            return x_BxTxD, (state, seen)

        layers = (params["layers"], state, nudges, jnp.arange(self.n_layers))
        x_BxTxD, (last, seen) = scan_layers(run_block, x_BxTxD, layers)
        return normalize(self.norm, params.get("final_norm"), x_BxTxD), last, seen


def layers_first(nudges: Tree) -> Tree:
    """TxLxBx... -> LxTxBx...."""
    return jax.tree.map(lambda n: n.swapaxes(0, 1), nudges)
