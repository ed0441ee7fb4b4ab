"""Stacks of residual blocks around a mixer of time, shared by the recurrent families of today. A family adds the mixer.

    u = x + mixer(norm(x))          norm: RMSNorm; the mixer carries a state from step to step
    y = u + mlp(norm(u))            L blocks of these two, then a last norm

The field `block` names the layers around the mixer:

    common       the lines above with one MLP for all families: SwiGLU of width 8 D / 3, as in a modern Transformer. Two
                 families in it differ by the mixer alone.
    published    the lines above with the MLP of the family's paper, `published_mlp`.
    cell         y = mixer(x): no norm, no residual, no MLP, no last norm. A mixer is then its recurrence alone.

With `blocks` some blocks have attention for a mixer, to all elements before or to a window of the last ones. Queries
and keys have rotary positions. (recurrent, recurrent, attention) is Griffin's pattern (De et al. 2024, arXiv
2402.19427).

The residual stream and states are float32. Dropout applies to the inputs and to every addition to the residual stream,
never to the recurrence. A bidirectional model has a second stack from the last element to the first, and
h_t = [forward_t, backward_t].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
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
from seqjax.families.pattern import count, run_pattern
from seqjax.layers.dense import Params, dropout, stack_init
from seqjax.layers.feed_forward import feed_forward, init_feed_forward
from seqjax.layers.local_attention import init_local_attention, local_attention, local_state, mean_keys
from seqjax.layers.norms import init_norm, normalize
from seqjax.layers.precision import carry_dtype
from seqjax.layers.sharing import gathered, shared
from seqjax.through_time.pieces import in_pieces
from seqjax.through_time.turned import turned

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
State = dict[str, Array]  # of one layer Bx...; of all layers LxBx...
Tree = Any
HYBRID = "with attention"


class PublishedMLP(NamedTuple):
    """The MLP of a family's paper: its kind, its width over D, and whether linear layers of the block have biases."""

    kind: Literal["swiglu", "geglu", "gelu", "none"]
    expansion: float = 0.0
    bias: bool = False


@dataclass(frozen=True)
class Stacked(Family):
    """The base of families made of residual blocks with a mixer. A family defines `init_mixer`, `mix`, `mixer_state`.

    It may also define `mixer_flops`, `published_mlp`, `states`, and fields of its own.

    Parameters (float32): "layers", a block's {"mixer_norm", "mixer", "mlp_norm", "mlp"} with a leading axis L; with
    attention {"recurrent", "attention"}, each as many as there are of the kind. "final_norm". A bidirectional model has
    the same once more in "backward". States have the same kinds and leading axes.
    """

    d_model: PositiveInt = 128
    """D, width of the residual stream."""
    n_layers: PositiveInt = 4
    """L, blocks."""
    block: Literal["common", "published", "cell"] = "common"
    """Around the mixer: norms, residuals and one MLP for all families, the paper's own, or nothing."""
    mlp: Literal["swiglu", "geglu", "gelu", "none"] | None = None
    """MLP of each block; null: as `block` says."""
    d_ff: PositiveInt | None = None
    """F, width of the MLP; null: as published, or 4 D (swiglu, geglu: 8 D / 3 rounded up to a multiple of 8)."""
    blocks: Annotated[tuple[Literal["recurrent", "attention"], ...], Field(min_length=1)] = ("recurrent",)
    """Kinds of the blocks from the first on, repeated over the depth."""
    n_heads: PositiveInt = 4
    """N, heads of attention blocks; divides d_model."""
    kv_heads: PositiveInt | None = None
    """Heads of keys and values in attention blocks; divides n_heads; null: n_heads."""
    window: PositiveInt | None = None
    """W, last elements that an attention block sees, the current one included; null: all."""
    attention_kernel: Literal["auto", "fused"] = "auto"
    """Attention blocks with whole scores (auto), or cuDNN's kernel on NVIDIA GPUs and splash on TPUs where they fit
    (fused)."""
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
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {}, HYBRID: {}}
    later: ClassVar[Mapping[str, Any]] = {"attention_kernel": "auto"}

    @classmethod
    def form_of(cls, values: Mapping[str, Any]) -> str:
        """`HYBRID` if there are attention blocks among the others, else ""."""
        return HYBRID if "attention" in values.get("blocks", ()) else ""

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
    def has_attention(self) -> bool:
        """Whether there are attention blocks."""
        return "attention" in self.blocks

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of blocks that the model has."""
        return ("recurrent", "attention") if self.has_attention else ("recurrent",)

    def _plain(self, by_kind: dict[str, Tree]) -> Tree:
        """Parameters or states of all layers, as the model has them: without attention, of the only kind."""
        return by_kind if self.has_attention else by_kind["recurrent"]

    def _by_kind(self, plain: Tree) -> dict[str, Tree]:
        """The inverse of `_plain`."""
        return plain if self.has_attention else {"recurrent": plain}

    @property
    def context_limit(self) -> bool:
        """Whether attention to all elements before limits the context."""
        return self.has_attention and self.window is None

    @property
    def grain(self) -> int:
        """1; with attention four times the heads: half of a head's coordinates rotate in planes."""
        return 4 * self.n_heads if self.has_attention else 1

    @property
    def norm(self) -> Literal["rmsnorm", "none"]:
        """The norm before each sub-layer and before the readout."""
        return "none" if self.block == "cell" else "rmsnorm"

    @property
    def mlp_kind(self) -> Literal["swiglu", "geglu", "gelu", "none"]:
        """The MLP of each block: as given, or as `block` says."""
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

    def extra_flops(self, context: int, streams: bool = False) -> float:
        """`mixer_flops` of all mixers; of attention blocks 4 D for each key that a query sees."""
        of_mixers = count(self.blocks, self.n_layers, "recurrent") * self.mixer_flops()
        of_attention = count(self.blocks, self.n_layers, "attention") * 4 * self.d_model
        past = (self.window - 1 if self.window else context) if streams else 0  # as `zero_state`
        return of_mixers + of_attention * mean_keys(context, self.window, past)

    def check(self) -> None:
        """Raise `Impossible` for a cell with an MLP, muP with tied embeddings, or blocks that do not fit."""
        check_base_width(self)
        if self.block == "cell" and self.mlp_kind != "none":
            raise Impossible("model.mlp", f"{self.mlp}: block cell has no MLP; allowed: null, none")
        if "recurrent" not in self.blocks:
            raise Impossible("model.blocks", "no block is recurrent; the family transformer has attention alone")
        if self.has_attention and self.block == "cell":
            raise Impossible("model.blocks", "block cell has no attention; allowed: [recurrent]")
        if len(self.blocks) > self.n_layers:
            raise Impossible("model.blocks", f"{len(self.blocks)} blocks, but n_layers is {self.n_layers}")
        if self.has_attention and self.d_model % self.grain:
            raise Impossible("model.n_heads", f"{self.n_heads} heads of a width that is a multiple of 4 do not fit "
                             f"d_model {self.d_model}; allowed: divisors of d_model / 4")  # fmt: skip
        if self.n_heads % (self.kv_heads or 1):
            raise Impossible("model.kv_heads", f"{self.kv_heads} do not divide n_heads {self.n_heads}")

    def zero_state(self, batch: int, context: int = 0, dtype: DTypeLike = "float32") -> State:
        """Zero states of all layers, LxBx...; attention without a window has room for `context` elements."""
        return self._state(batch, self.window - 1 if self.window else context)

    def _state(self, batch: int, past: int) -> State:
        """Zero states; attention has room for `past` elements."""

        def of_kind(kind: str, one: State) -> State:
            n = count(self.blocks, self.n_layers, kind)
            return jax.tree.map(lambda s: jnp.zeros((n, *s.shape), s.dtype), one)

        ones = {"recurrent": self.mixer_state(batch)}
        if self.has_attention:
            heads = self.kv_heads or self.n_heads
            ones["attention"] = local_state(batch, past, heads, self.d_model // self.n_heads)
        return self._plain({kind: of_kind(kind, one) for kind, one in ones.items()})

    def no_nudges(self, batch: int, times: int) -> Tree:
        """Zeros like `states` after every step, a tuple of TxLxBx...."""
        zero = self._by_kind(self.zero_state(batch))["recurrent"]
        return tuple(jnp.zeros((times, *zero[name].shape)) for name in self.states)

    def init(self, context: int, causal: bool = True) -> dict[str, Callable[[Array], Params]]:
        """Functions of the key for "layers", "final_norm" and "backward", as far as the model has them."""
        inits: dict[str, Callable[[Array], Params]] = {"layers": self._init_layers}
        if self.norm != "none":
            inits["final_norm"] = lambda _: init_norm(self.norm, self.d_model, bias=False)
        if causal:
            return inits
        return inits | {"backward": lambda key: {name: init(key) for name, init in inits.items()}}

    def _init_layers(self, key: Array) -> Params:
        """All blocks, stacked by kind."""
        keys = zip(self.kinds, jax.random.split(key, len(self.kinds)), strict=True)
        found = {
            kind: stack_init(partial(self.init_block, kind=kind), count(self.blocks, self.n_layers, kind))(one)
            for kind, one in keys
        }
        return self._plain(found)

    def init_block(self, key: Array, kind: str = "recurrent") -> Params:
        """Parameters of one block, as far as it has them."""
        key_mixer, key_mlp = jax.random.split(key)
        if kind == "recurrent":
            params: dict[str, Any] = {"mixer": self.init_mixer(key_mixer)}
        else:
            std, std_out = self.d_model**-0.5, self.write_std(self.d_model)
            heads = self.n_heads, self.kv_heads or self.n_heads
            params = {"mixer": init_local_attention(key_mixer, self.d_model, *heads, self.has_bias, std, std_out)}
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

        The state after has no padding in it. With `causal` False the state is the forward stack's.
        """
        if memory is not None:
            raise UserError(f"the family '{self.family}' cannot be the decoder of an encoder-decoder model")
        x_BxTxD = rows(x).astype(carry_dtype(dtype))
        batch, n_times = x_BxTxD.shape[:2]
        x_BxTxD = dropout(x_BxTxD, key, 2 * self.n_layers, self.dropout)
        zero = self._state(batch, 0) if truncate is None else self.zero_state(batch, n_times)
        start, zero = (_wide(s, dtype) for s in (zero if state is None else state, zero))
        stack = partial(self._truncated, key=key, dtype=dtype, truncate=truncate, watched=watch)
        h_BxTxD, last, seen = stack(params, x_BxTxD, start, mask_BxT=mask_BxT)
        if not causal:
            turn = turned(mask_BxT)
            mask_BxT = None if mask_BxT is None else turn(mask_BxT)
            back_BxTxD, _, _ = stack(params["backward"], turn(x_BxTxD), zero, mask_BxT=mask_BxT)
            h_BxTxD = jnp.concatenate([h_BxTxD, turn(back_BxTxD)], axis=-1)
        return Output(h_BxTxD, None if state is None and self.has_attention else last, seen)

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
        nudges = watched.of_layers() if watched else None

        inside = partial(self._mixed, mask_BxT=mask_BxT, dtype=dtype, watched=watched is not None)

        def run_block(
            kind: str, x_BxTxD: Array, layer: tuple[Params, State, Tree], index: Array
        ) -> tuple[Array, tuple[State, dict]]:
            block, state, nudges = layer
            block, x_BxTxD = gathered(block), shared(x_BxTxD)
            n_BxTxD = normalize(self.norm, block.get("mixer_norm"), x_BxTxD)
            y_BxTxD, state, seen = inside(kind, block["mixer"], n_BxTxD, state, nudges)
            y_BxTxD = dropout(y_BxTxD, key, 2 * index, self.dropout)
            x_BxTxD = y_BxTxD if self.block == "cell" else x_BxTxD + y_BxTxD
            if "mlp" in block:
                n_BxTxD = normalize(self.norm, block["mlp_norm"], x_BxTxD)
                y_BxTxD = feed_forward(self.mlp_kind, block["mlp"], n_BxTxD, dtype)
                x_BxTxD = x_BxTxD + dropout(y_BxTxD, key, 2 * index + 1, self.dropout)
            return x_BxTxD, (state, seen)

        layers, states = self._by_kind(params["layers"]), self._by_kind(state)
        nudged = {"recurrent": nudges, "attention": None}
        stacks = {kind: (layers[kind], states[kind], nudged[kind]) for kind in self.kinds}
        x_BxTxD, found = run_pattern(self.blocks, self.n_layers, run_block, x_BxTxD, stacks)
        x_BxTxD = normalize(self.norm, params.get("final_norm"), x_BxTxD)
        seen = {name: array for _, of_kind in found.values() for name, array in of_kind.items()}
        return x_BxTxD, self._plain({kind: last for kind, (last, _) in found.items()}), seen

    def _mixed(
        self, kind: str, params: Params, x_BxTxD: Array, state: State, nudges: Tree, *, mask_BxT: Array | None,
        dtype: DTypeLike, watched: bool,
    ) -> tuple[Array, State, dict[str, Array]]:  # fmt: skip
        """The mixer of a block, or its attention: its output for the residual stream, the state after, the inside."""
        if kind == "recurrent":
            return self.mix(params, x_BxTxD, state, mask_BxT, dtype, Watch(nudges) if watched else None)
        y_BxTxD, state, weights = local_attention(
            params, x_BxTxD, state, self.window, mask_BxT, dtype, watched, self.widening**-0.5, self.attention_kernel
        )
        return y_BxTxD, state, {} if weights is None else {"attention": weights}


def _wide(state: State, dtype: DTypeLike) -> State:
    """The state in float32, or wider if `dtype` is; positions stay integers."""
    wide = carry_dtype(dtype)
    return jax.tree.map(lambda s: s.astype(wide) if jnp.issubdtype(s.dtype, jnp.floating) else s, state)
