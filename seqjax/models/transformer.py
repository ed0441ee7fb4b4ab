"""Transformer decoder (Vaswani et al. 2017, arXiv 1706.03762), by default in the form of GPT-2 (Radford et al. 2019).

    norm before (GPT-2)             norm after (Vaswani et al.)

    x = E[token_t] + P[t]           x = E[token_t] + P[t]
    x = x + attention(norm(x))      x = norm(x + attention(x))
    x = x + mlp(norm(x))            x = norm(x + mlp(x))            L blocks of these two
    logits = W norm(x)              logits = W x

Positions, activation and the size of the embedding are the config's, by default as in GPT-2, wherever the norm stands.

Every part can be left out by the config: attention, MLP, norm, residual, positions and the blocks themselves, down to
embedding and unembedding.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.cells.cell import draw_normal
from seqjax.config import TransformerConfig
from seqjax.errors import UserError
from seqjax.models.attention import Cache, cross_attention, init_attention, init_cross, self_attention
from seqjax.models.layers import (
    Params,
    Readout,
    dropout,
    init_norm,
    linear,
    normal_init,
    normalize,
    scan_layers,
    stack_init,
    unembed,
)
from seqjax.models.positions import rotary_angles

State = dict[str, Any]
Tree = Any
Memory = tuple[Array, Array]


class Transformer(nn.Module):
    """Decoder-only Transformer language model.

    Parameters (float32): "embedding" VxD; "positions" TxD if learned; "layers", a block's parameters with a leading
    axis L; "final_norm" if the norm stands before; "readout" DxV unless tied. Initial values as GPT-2: normal 0.02,
    positions 0.01, and 0.02 / sqrt(2 L) for the matrices that write to the residual stream; with the norm after, the
    matrices of the blocks 1 / sqrt(inputs).
    """

    config: TransformerConfig
    vocab_size: int
    context_length: int
    compute_dtype: DTypeLike = "float32"

    def initial_state(self, batch_size: int) -> State:
        """Empty key-value cache for `context_length` tokens: {"position": int32 scalar, "k", "v": LxBxNxSxK}.

        The cache is in the compute dtype; a model without attention has none. The caller must not feed more than
        `context_length` tokens in all.
        """
        config = self.config
        state: State = {"position": jnp.zeros((), jnp.int32)}
        if config.attention and config.n_layers:
            d_head = config.d_model // config.n_heads
            shape = (config.n_layers, batch_size, config.n_heads, self.context_length, d_head)
            state |= {"k": jnp.zeros(shape, self.compute_dtype), "v": jnp.zeros(shape, self.compute_dtype)}
        return state

    @nn.compact
    def __call__(
        self, tokens_BxT: Array, state: State | None = None, train: bool = False, readout: Readout = unembed
    ) -> tuple[Array, State | None]:
        """Logits for the token after each given one.

        Args:
          tokens_BxT: integer token ids.
          state: None to see the T tokens alone; or the state to continue from, which counts the tokens seen so far.
          train: dropout on (needs the rng "dropout" when `config.dropout` > 0).
          readout: what to make of the last hidden states.

        Returns:
          logits_BxTxV float32 (what `readout` returns), and the new state (None if none was given).

        Raises:
          UserError: more tokens at once than learned positions.
        """
        config, dtype = self.config, self.compute_dtype
        n_tokens = tokens_BxT.shape[1]
        if config.positions == "learned" and n_tokens > self.context_length:
            raise UserError(f"{n_tokens} tokens at once, but the model has learned {self.context_length} positions")
        params = self._params()
        start = 0 if state is None else state["position"]
        key = self.make_rng("dropout") if train and config.dropout > 0 else None
        x_BxTxD = params["embedding"][tokens_BxT]
        if config.positions == "learned":
            x_BxTxD = x_BxTxD + lax.dynamic_slice_in_dim(params["positions"], start, n_tokens)[None]
        x_BxTxD = dropout(x_BxTxD, key, 2 * config.n_layers, config.dropout)
        cache = {name: state[name] for name in "kv"} if state is not None and "k" in state else None
        if "layers" in params:
            x_BxTxD, cache = run_blocks(config, params["layers"], x_BxTxD, start, cache, key, dtype)
        x_BxTxD = normalize(norm_before(config), params.get("final_norm"), x_BxTxD)
        state = None if state is None else {"position": start + n_tokens, **(cache or {})}
        return readout(x_BxTxD, params, dtype), state

    def _params(self) -> Params:
        config, d_model = self.config, self.config.d_model
        params = {"embedding": self.param("embedding", normal_init(0.02, self.vocab_size, d_model))}
        if config.positions == "learned":
            params["positions"] = self.param("positions", normal_init(0.01, self.context_length, d_model))
        if config.n_layers and (config.attention or config.mlp != "none"):
            params["layers"] = self.param("layers", stack_init(lambda key: init_block(key, config), config.n_layers))
        if norm_before(config) != "none":
            params["final_norm"] = self.param("final_norm", lambda _: init_norm(config.norm, d_model, config.bias))
        if not config.tied_embeddings:
            params["readout"] = self.param("readout", normal_init(0.02, d_model, self.vocab_size))
        return params


def norm_before(config: TransformerConfig) -> str:
    """The norm of what goes into a sub-layer or the unembedding; "none" if it stands after the residual sums."""
    return config.norm if config.norm_position == "before" else "none"


def init_block(key: Array, config: TransformerConfig, cross: bool = False) -> Params:
    """Parameters of one block: "attention_norm", "attention", "mlp_norm", "mlp", as far as the config has them.

    With `cross` also "cross_norm" and "cross", of the attention to a memory (Vaswani et al. 2017, section 3.1).
    """
    key_attention, key_mlp = jax.random.split(key)
    std, std_attention, std_mlp = _stds(config, 3 if cross else 2)
    params = {}
    if config.attention:
        params["attention"] = init_attention(
            key_attention, config.d_model, config.n_heads, config.bias, std, std_attention
        )
    if cross:
        key_cross = jax.random.fold_in(key, 2)
        params["cross"] = init_cross(key_cross, config.d_model, config.n_heads, config.bias, std, std_attention)
    if config.mlp != "none":
        params["mlp"] = init_mlp(key_mlp, config, std, std_mlp)
    if config.norm != "none":
        params |= {f"{name}_norm": init_norm(config.norm, config.d_model, config.bias) for name in tuple(params)}
    return params


def _stds(config: TransformerConfig, sublayers: int) -> tuple[float, float, float]:
    """Of the matrices that read from the residual stream, and of those by which attention and MLP write to it.

    Norm before: 0.02 and 0.02 / sqrt(sublayers L), as GPT-2: the sum begins small and nothing brings it back. Norm
    after: 1 / sqrt(inputs), so that what a sub-layer adds is as large as what it is added to.
    """
    if norm_before(config) == "none" and config.norm != "none":
        std = config.d_model**-0.5
        return std, std, feed_forward_width(config) ** -0.5
    std_out = 0.02 / math.sqrt(sublayers * config.n_layers)
    return 0.02, std_out, std_out


def run_blocks(
    config: TransformerConfig,
    layers: Params,
    x_BxTxD: Array,
    start: int | Array,
    cache: Cache | None,
    key: Array | None,
    dtype: DTypeLike,
    mask_BxT: Array | None = None,
    causal: bool = True,
    memory: Memory | None = None,
) -> tuple[Array, Cache | None]:
    """All blocks by a scan over their stacked parameters; the residual stream is float32.

    Args:
      layers: parameters of the blocks with a leading axis L.
      start: position of the first of the T tokens.
      cache: {"k", "v": LxBxNxSxK} or None.
      key: of the dropout masks; None for no dropout.
      mask_BxT, causal: who sees whom, see `seqjax.models.attention.self_attention`.
      memory: of blocks with "cross": keys and values 2xLxBxNxSxK, and the mask BxS of what is there of it.

    Returns:
      x_BxTxD and the cache with the new keys and values.
    """
    angles_TxK = None
    if config.positions == "rotary":
        angles_TxK = rotary_angles(start + jnp.arange(x_BxTxD.shape[1]), config.d_model // config.n_heads)

    before = norm_before(config)
    after = config.norm if before == "none" else "none"

    def residual(x_BxTxD: Array, y_BxTxD: Array, norm: Params | None, sublayer: Array) -> Array:
        y_BxTxD = dropout(y_BxTxD, key, sublayer, config.dropout)
        return normalize(after, norm, x_BxTxD + y_BxTxD if config.residual else y_BxTxD)

    kv_2xLxBxNxSxK, memory_mask_BxS = ((None, None), None) if memory is None else memory

    def run_block(x_BxTxD: Array, layer: tuple[Params, Cache | None, Tree, Array]) -> tuple[Array, Cache | None]:
        params, cache, (k, v), index = layer
        if config.attention:
            norm = params.get("attention_norm")
            y_BxTxD = normalize(before, norm, x_BxTxD)
            y_BxTxD, cache = self_attention(
                params["attention"], y_BxTxD, start, angles_TxK, cache, dtype, config.attention_kernel, mask_BxT, causal
            )
            x_BxTxD = residual(x_BxTxD, y_BxTxD, norm, 2 * index)
        if k is not None:
            norm = params.get("cross_norm")
            y_BxTxD = normalize(before, norm, x_BxTxD)
            y_BxTxD = cross_attention(params["cross"], y_BxTxD, k, v, memory_mask_BxS, dtype)
            x_BxTxD = residual(x_BxTxD, y_BxTxD, norm, 2 * config.n_layers + 1 + index)
        if config.mlp != "none":
            norm = params.get("mlp_norm")
            y_BxTxD = normalize(before, norm, x_BxTxD)
            y_BxTxD = feed_forward(config.mlp, params["mlp"], y_BxTxD, dtype)
            x_BxTxD = residual(x_BxTxD, y_BxTxD, norm, 2 * index + 1)
        return x_BxTxD, cache

    k_LxBxNxSxK, v_LxBxNxSxK = kv_2xLxBxNxSxK
    return scan_layers(run_block, x_BxTxD, (layers, cache, (k_LxBxNxSxK, v_LxBxNxSxK), jnp.arange(config.n_layers)))


def feed_forward_width(config: TransformerConfig) -> int:
    """F: as given, or 4 D, or for swiglu 8 D / 3 rounded up to a multiple of 8 (as many parameters as 4 D)."""
    if config.d_ff is not None:
        return config.d_ff
    return 8 * math.ceil(config.d_model / 3) if config.mlp == "swiglu" else 4 * config.d_model


def init_mlp(key: Array, config: TransformerConfig, std: float, std_out: float) -> Params:
    """{"W_in": DxF, "W_out": FxD} normal with `std` and `std_out`, zeros {"b_in", "b_out"}; swiglu also "W_gate"."""
    d_model, d_ff = config.d_model, feed_forward_width(config)
    gate = {"W_gate": (std, (d_model, d_ff))} if config.mlp == "swiglu" else {}
    params = draw_normal(key, W_in=(std, (d_model, d_ff)), W_out=(std_out, (d_ff, d_model)), **gate)
    if config.bias:
        params |= {"b_in": jnp.zeros(d_ff), "b_out": jnp.zeros(d_model)}
        if config.mlp == "swiglu":
            params["b_gate"] = jnp.zeros(d_ff)
    return params


def feed_forward(kind: str, params: Params, x_BxTxD: Array, dtype: DTypeLike) -> Array:
    """Position-wise MLP, float32 BxTxD.

    "gelu" and "relu": act(x W_in + b_in) W_out + b_out; GELU in the tanh form of Hendrycks & Gimpel (2016),
    arXiv 1606.08415, which GPT-2 uses. "swiglu": (silu(x W_gate + b_gate) * (x W_in + b_in)) W_out + b_out
    (Shazeer 2020, arXiv 2002.05202, equation 6).
    """
    a_BxTxF = linear(x_BxTxD, params["W_in"], params.get("b_in"), dtype)
    if kind == "swiglu":
        a_BxTxF = jax.nn.silu(linear(x_BxTxD, params["W_gate"], params.get("b_gate"), dtype)) * a_BxTxF
    else:
        a_BxTxF = jax.nn.gelu(a_BxTxF, approximate=True) if kind == "gelu" else jax.nn.relu(a_BxTxF)
    return linear(a_BxTxF, params["W_out"], params.get("b_out"), dtype)
