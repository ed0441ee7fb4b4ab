"""Transformer decoder (Vaswani et al. 2017, arXiv 1706.03762), by default in the form of GPT-2 (Radford et al. 2019).

    norm before (GPT-2)             norm after (Vaswani et al.)

    x = E[token_t] + P[t]           x = E[token_t] + P[t]
    x = x + attention(norm(x))      x = norm(x + attention(x))
    x = x + mlp(norm(x))            x = norm(x + mlp(x))            L blocks of these two
    logits = W norm(x)              logits = W x

The config sets positions, activation and the scale of the embedding. Their defaults are GPT-2's for both forms.

The config can leave out each part: attention, MLP, norm, residual, positions, or all blocks. Embedding and unembedding
remain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from seqjax.errors import UserError
from seqjax.families.family import Family, Impossible, Inputs, Output, Watch, check_base_width, rows
from seqjax.layers.attention import Cache, cross_attention, cross_keys, init_attention, self_attention
from seqjax.layers.dense import Params, dropout, normal_init, scan_layers, stack_init
from seqjax.layers.feed_forward import feed_forward, init_feed_forward
from seqjax.layers.norms import NORM_EPSILON, branch, init_norm, normalize
from seqjax.layers.rotary import ROTARY_BASE, rotary_angles
from seqjax.layers.sharing import gathered, shared

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
State = dict[str, Any]
Tree = Any


@dataclass(frozen=True)
class Transformer(Family):
    """Transformer decoder. Each part between embedding and unembedding can be left out.

    Parameters (float32): "positions" TxD if learned; "layers", a block's parameters with a leading axis L; "final_norm"
    with the norm before sub-layers. `initial` chooses the initial values. The default is GPT-2's: normal with
    standard deviation 0.02, for positions 0.01, for matrices that write to the residual stream 0.02 / sqrt(2 L). See
    `_stds` for the others.
    """

    family: Literal["transformer"] = "transformer"
    """Transformer decoder."""
    d_model: PositiveInt = 128
    """D, width of the residual stream."""
    n_layers: NonNegativeInt = 4
    """L, blocks; 0 leaves embedding and unembedding."""
    n_heads: PositiveInt = 4
    """N, attention heads; divides d_model."""
    head_width: PositiveInt | None = None
    """K, width of a head; null: d_model / n_heads."""
    kv_heads: PositiveInt | None = None
    """G, heads of keys and values; divides n_heads; null: n_heads (Ainslie et al. 2023)."""
    d_ff: PositiveInt | None = None
    """F, width of the MLP; null: 4 D (swiglu: 8 D / 3 rounded up to a multiple of 8)."""
    attention: bool = True
    """Self-attention in each block."""
    attention_kernel: Literal["auto", "blocks", "whole", "fused"] = "auto"
    """Scores of all positions at once (whole), in blocks of queries (blocks), or C++ or blocks on CPUs where they fit,
    else whole (auto); fused: cuDNN's kernel on NVIDIA GPUs, splash on TPUs, where they fit, else as auto."""
    mlp: Literal["gelu", "relu", "swiglu", "none"] = "gelu"
    """Activation of the MLP in each block; none: no MLP."""
    norm: Literal["layernorm", "rmsnorm", "none"] = "layernorm"
    """Normalization of the residual stream."""
    norm_epsilon: PositiveFloat = NORM_EPSILON
    """Added to the variance in every norm."""
    norm_position: Literal["before", "after"] = "before"
    """Before each sub-layer and before the unembedding (GPT-2), or after each residual sum (Vaswani et al. 2017)."""
    residual: bool = True
    """Residual connections around each sub-layer."""
    positions: Literal["learned", "rotary", "none"] = "learned"
    """How the model knows the position of a token."""
    rotary_base: PositiveFloat = ROTARY_BASE
    """Base of the frequencies of rotary positions; 10000 in Su et al. (2021)."""
    bias: bool = True
    """Biases in linear layers and layer norms."""
    tied_embeddings: bool = False
    """Use the embedding table as the readout."""
    dropout: Fraction = 0.0
    """Dropout rate on the embedding and on each sub-layer's output."""
    qk_norm: bool = False
    """RMSNorm of every head's queries and keys, with gains (Dehghani et al. 2023)."""
    initial: Literal["gpt2", "fan_in"] = "gpt2"
    """Initial standard deviations: 0.02 at every width (gpt2), or 1 / sqrt(inputs) (fan_in)."""
    zero_output: bool = False
    """Zero initial values for the matrices that write to the residual stream."""
    base_width: PositiveInt | None = None
    """d_model at which muP is the standard parametrization: a rate found there holds at all widths; null: no muP."""

    label: ClassVar[str] = "Transformer"
    colour: ClassVar[str] = "#0072B2"
    through_time: ClassVar[str] = "attention"
    reads_memory: ClassVar[bool] = True
    dropout_before_readout: ClassVar[bool] = False
    states: ClassVar = ("x",)
    forms: ClassVar[dict[str, Any]] = {
        "modern": {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True},
        "gpt2": {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "qk_norm": False},
    }
    later: ClassVar = {
        "attention_kernel": "auto",
        "norm_position": "before",
        "qk_norm": False,
        "initial": "gpt2",
        "zero_output": False,
        "base_width": None,
        "head_width": None,
        "kv_heads": None,
        "norm_epsilon": NORM_EPSILON,
        "rotary_base": ROTARY_BASE,
    }
    readout_bias: ClassVar[bool] = False
    context_limit: ClassVar[bool] = True

    @property
    def embedding_std(self) -> float:
        """0.02 with `initial` gpt2, else as in other families."""
        return 0.02 if self.initial == "gpt2" else super().embedding_std

    @property
    def embedding_scale(self) -> float:
        """1 with `initial` gpt2, else as in other families."""
        return 1.0 if self.initial == "gpt2" else super().embedding_scale

    @property
    def readout_std(self) -> float:
        """0.02 / m with `initial` gpt2, else as in other families."""
        return 0.02 / self.widening if self.initial == "gpt2" else super().readout_std

    @property
    def positions_std(self) -> float:
        """Standard deviation of initial positions: half the deviation of the scaled token embeddings."""
        return 0.5 * self.embedding_std * self.embedding_scale

    @property
    def d_head(self) -> int:
        """K, width of a head."""
        return self.head_width or self.d_model // self.n_heads

    @property
    def feed_forward_width(self) -> int:
        """F: as given, or 4 D, or for swiglu 8 D / 3 rounded up to a multiple of 8 (about the weights of 4 D)."""
        if self.d_ff is not None:
            return self.d_ff
        return 8 * math.ceil(self.d_model / 3) if self.mlp == "swiglu" else 4 * self.d_model

    @property
    def norm_before(self) -> str:
        """The norm before each sub-layer and the unembedding; "none" with the norm after the residual sums."""
        return self.norm if self.norm_position == "before" else "none"

    @property
    def grain(self) -> int:
        """The number of heads; with rotary positions twice that, for an even head width."""
        return self.n_heads * (2 if self.positions == "rotary" else 1)

    @property
    def shared_keys(self) -> int | None:
        """G if it is fewer than N heads, else None: the parameters are then in one matrix with the queries."""
        return None if self.kv_heads == self.n_heads else self.kv_heads

    def widened(self, d_model: int) -> Self:
        """The model at another D. F and K, if given, stay in proportion; with rotary positions K is even."""
        multiple = 2 if self.positions == "rotary" else 1
        width_F, width_K = self.d_ff, self.head_width
        width_F = width_F and self.proportional(width_F, d_model)
        width_K = width_K and multiple * max(1, round(width_K * d_model / self.d_model / multiple))
        return dataclasses.replace(self, d_model=d_model, d_ff=width_F, head_width=width_K)

    def extra_flops(self, context: int, streams: bool = False) -> float:
        """2 L N K (T + 1): 4 N K for each key that a query sees, and (T + 1) / 2 keys on average.

        Kaplan et al. 2020, table 1, has 2 L T d_attn, without the + 1.
        """
        return self.n_layers * 2 * self.n_heads * self.d_head * (context + 1) if self.attention else 0

    def check(self) -> None:
        """Raise `Impossible` if the number of heads does not fit the width."""
        check_base_width(self)
        if self.head_width is None and self.d_model % self.n_heads:
            allowed = ", ".join(str(n) for n in range(1, self.d_model + 1) if self.d_model % n == 0)
            raise Impossible(
                "model.n_heads", f"{self.n_heads} heads do not divide d_model {self.d_model}; allowed: {allowed}"
            )
        if self.n_heads % (self.kv_heads or 1):
            raise Impossible("model.kv_heads", f"{self.kv_heads} do not divide n_heads {self.n_heads}")
        if self.positions == "rotary" and self.d_head % 2:
            raise Impossible(
                "model.head_width" if self.head_width else "model.n_heads",
                f"rotary positions need an even head width; it is {self.d_head}",
            )

    def zero_state(self, batch: int, context: int, dtype: DTypeLike = "float32") -> State:
        """Empty key-value cache for `context` tokens: {"position": int32 scalar, "k", "v": LxBxGxSxK in `dtype`}.

        A model without attention has no cache. The caller must not give it more than `context` tokens in all.
        """
        state: State = {"position": jnp.zeros((), jnp.int32)}
        if self.attention and self.n_layers:
            shape = (self.n_layers, batch, self.kv_heads or self.n_heads, context, self.d_head)
            state |= {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}
        return state

    def no_nudges(self, batch: int, times: int) -> Array:
        """Zeros like the residual stream as it enters the first block, TxBxD."""
        return jnp.zeros((times, batch, self.d_model))

    def init(self, context: int, causal: bool = True) -> dict[str, Callable[[Array], Params]]:
        """Functions of the key for "positions", "layers" and "final_norm", as far as the model has them."""
        inits: dict[str, Callable[[Array], Params]] = {}
        if self.positions == "learned":
            inits["positions"] = normal_init(self.positions_std, context, self.d_model)
        if self.n_layers and (self.attention or self.mlp != "none"):
            inits["layers"] = stack_init(self.init_block, self.n_layers)
        if self.norm_before != "none":
            inits["final_norm"] = lambda _: init_norm(self.norm, self.d_model, self.bias)
        return inits

    def init_block(self, key: Array, cross: bool = False) -> Params:
        """Parameters of one block: "attention_norm", "attention", "mlp_norm", "mlp", as far as the model has them.

        With `cross` also "cross_norm" and "cross", for attention to a memory (Vaswani et al. 2017, section 3.1).
        """
        key_attention, key_mlp = jax.random.split(key)
        std, std_attention, std_mlp = self._stds(3 if cross else 2)
        params = {}
        shape = (self.d_model, self.n_heads, self.bias, std, std_attention, self.qk_norm, self.d_head)
        if self.attention:
            params["attention"] = init_attention(key_attention, *shape, self.shared_keys)
        if cross:
            params["cross"] = init_attention(jax.random.fold_in(key, 2), *shape, self.n_heads)
        if self.mlp != "none":
            params["mlp"] = init_feed_forward(
                key_mlp, self.mlp, self.d_model, self.feed_forward_width, self.bias, std, std_mlp
            )
        if self.norm != "none":
            params |= {f"{name}_norm": init_norm(self.norm, self.d_model, self.bias) for name in tuple(params)}
        return params

    def _stds(self, sublayers: int) -> tuple[float, float, float]:
        """Initial standard deviations: of matrices that read the residual stream, and of the matrices of attention and
        of the MLP that write to it.

        "gpt2": 0.02; with muP 0.02 / sqrt(m). Matrices that write have a further factor 1 / sqrt(sublayers L), which
        keeps the sum of all sub-layers small. "fan_in": 1 / sqrt(inputs), and the same factor for those that write.
        With the norm after: 1 / sqrt(inputs) for all, so that both terms of a residual sum are of one size.
        `zero_output`: 0 for those that write.
        """
        after = self.norm_before == "none" and self.norm != "none"
        depth = 1.0 if after else (sublayers * self.n_layers) ** -0.5
        if after or self.initial == "fan_in":
            widths = self.n_heads * self.d_head, self.feed_forward_width
            read, *write = self.d_model**-0.5, *(width**-0.5 * depth for width in widths)
        else:
            std = 0.02 * self.widening**-0.5
            read, *write = std, std * depth, std * depth
        std_attention, std_mlp = (0.0, 0.0) if self.zero_output else write
        return read, std_attention, std_mlp

    def run(
        self,
        params: Params,
        x: Inputs,
        state: State | None = None,
        *,
        mask_BxT: Array | None = None,
        causal: bool = True,
        memory: dict[str, Array] | None = None,
        key: Array | None = None,
        dtype: DTypeLike = "float32",
        truncate: int | None = None,
        watch: Watch | None = None,
    ) -> Output:
        """See `Family.run`; the residual stream is float32. Seen when watched: "attention" LxBxNxTxS."""
        x_BxTxD = rows(x)
        n_times, start = x_BxTxD.shape[1], 0 if state is None else state["position"]
        if watch is not None and watch.nudges is not None:
            x_BxTxD = x_BxTxD + watch.nudges.swapaxes(0, 1)
        if self.positions == "learned":
            x_BxTxD = x_BxTxD + self._positions(params["positions"], start, n_times)[None]
        x_BxTxD = dropout(x_BxTxD, key, 2 * self.n_layers, self.dropout)
        cache = {name: state[name] for name in "kv"} if state is not None and "k" in state else None
        seen = {}
        if "layers" in params:
            block = Block(
                self, start, n_times, mask_BxT, causal, None if memory is None else memory["mask"], key, dtype
            )
            kv = memory["kv"] if memory is not None else (None, None)
            layers = (params["layers"], cache, tuple(kv), jnp.arange(self.n_layers))
            x_BxTxD, (cache, weights) = scan_layers(partial(block.run, watched=watch is not None), x_BxTxD, layers)
            seen = {} if weights is None else {"attention": weights}
        _, x_BxTxD = branch(self.norm_before, params.get("final_norm"), x_BxTxD, self.norm_epsilon)
        state = None if state is None else {"position": start + n_times, **(cache or {})}
        return Output(x_BxTxD, state, seen)

    @staticmethod
    def _positions(positions_SxD: Array, start: int | Array, n_times: int) -> Array:
        if n_times > len(positions_SxD):
            raise UserError(
                f"a sequence of {n_times} elements, but the model has learned {len(positions_SxD)} positions"
            )
        return lax.dynamic_slice_in_dim(positions_SxD, start, n_times)

    def init_decoder(self, key: Array, context: int, attention: bool) -> Params:
        """{"layers": blocks with "cross"; "positions" TxD if learned; "final_norm"}; `attention` is not used."""
        key_layers, key_others = jax.random.split(key)
        blocks = stack_init(partial(self.init_block, cross=True), self.n_layers)
        inits = self.init(context) | {"layers": lambda _: blocks(key_layers)}
        return {name: init(key_others) for name, init in inits.items()}

    def memory(self, params: Params, m_BxSxM: Array, mask_BxS: Array, dtype: DTypeLike) -> dict[str, Array]:
        """What the decoder reads: keys and values of the encoder's states for every block, and the "mask" BxS.

        "kv" is 2xLxBxNxSxK.
        """
        return {
            "kv": cross_keys(gathered(params["layers"]["cross"], stacked=True), m_BxSxM, dtype, self.norm_epsilon),
            "mask": mask_BxS,
        }

    def start_decoder(self, params: Params, memory: dict[str, Array], context: int, dtype: DTypeLike) -> State:
        """An empty cache."""
        return self.zero_state(len(memory["mask"]), context, dtype)


@dataclass(frozen=True)
class Block:
    """The arguments of one forward pass that all its blocks share.

    Attributes:
      start: position of the first of the T tokens.
      mask_BxT, causal: which keys a query sees, see `seqjax.layers.attention.self_attention`.
      memory_mask_BxS: True for elements of a memory, False for padding.
    """

    config: Transformer
    start: int | Array
    n_times: int
    mask_BxT: Array | None
    causal: bool
    memory_mask_BxS: Array | None
    key: Array | None
    dtype: DTypeLike

    def run(
        self,
        x_BxTxD: Array,
        layer: tuple[Params, Cache | None, tuple[Array | None, Array | None], Array],
        watched: bool,
    ) -> tuple[Array, tuple[Cache | None, Array | None]]:
        """One block: x_BxTxD; the cache with the new keys and values, and the attention weights when watched."""
        config, dtype = self.config, self.dtype
        params, cache, (k_BxNxSxK, v_BxNxSxK), index = layer
        params, x_BxTxD = gathered(params), shared(x_BxTxD)
        before, weights = config.norm_before, None
        if config.attention:
            norm = params.get("attention_norm")
            x_BxTxD, y_BxTxD = branch(before, norm, x_BxTxD, config.norm_epsilon)
            y_BxTxD, cache, weights = self_attention(
                params["attention"], y_BxTxD, self.start, self._angles(), cache, dtype, config.attention_kernel,
                self.mask_BxT, self.causal, watched, config.widening**-0.5, config.norm_epsilon,
            )  # fmt: skip
            x_BxTxD = self._residual(x_BxTxD, y_BxTxD, norm, 2 * index)
        if k_BxNxSxK is not None:
            norm = params.get("cross_norm")
            x_BxTxD, y_BxTxD = branch(before, norm, x_BxTxD, config.norm_epsilon)
            y_BxTxD = cross_attention(
                params["cross"], y_BxTxD, k_BxNxSxK, v_BxNxSxK, self.memory_mask_BxS, dtype, config.norm_epsilon
            )
            x_BxTxD = self._residual(x_BxTxD, y_BxTxD, norm, 2 * config.n_layers + 1 + index)
        if config.mlp != "none":
            norm = params.get("mlp_norm")
            x_BxTxD, y_BxTxD = branch(before, norm, x_BxTxD, config.norm_epsilon)
            y_BxTxD = feed_forward(config.mlp, params["mlp"], y_BxTxD, dtype)
            x_BxTxD = self._residual(x_BxTxD, y_BxTxD, norm, 2 * index + 1)
        return x_BxTxD, (cache, weights)

    def _angles(self) -> Array | None:
        if self.config.positions != "rotary":
            return None
        return rotary_angles(self.start + jnp.arange(self.n_times), self.config.d_head, self.config.rotary_base)

    def _residual(self, x_BxTxD: Array, y_BxTxD: Array, norm: Params | None, sublayer: Array) -> Array:
        """x + y, or y alone without residual connections; dropout on y; then the norm, if it comes after."""
        config = self.config
        y_BxTxD = dropout(y_BxTxD, self.key, sublayer, config.dropout)
        after = config.norm if config.norm_before == "none" else "none"
        return normalize(after, norm, x_BxTxD + y_BxTxD if config.residual else y_BxTxD, config.norm_epsilon)
