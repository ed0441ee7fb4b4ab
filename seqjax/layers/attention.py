"""Multi-head self-attention of Vaswani et al. (2017), arXiv 1706.03762, section 3.2, with an optional cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from seqjax.layers.blockwise import ROWS, blockwise_attention
from seqjax.layers.dense import Params, draw_normal, linear
from seqjax.layers.fused_attention import fused_attention, fused_kernel
from seqjax.layers.native import attention as native
from seqjax.layers.norms import NORM_EPSILON, normalize
from seqjax.layers.precision import contract
from seqjax.layers.rotary import rotate
from seqjax.layers.target import target

Cache = dict[str, Array]


def attend(q_TxK: Array, k_SxK: Array, v_SxK: Array, mask_TxS: Array, dtype: DTypeLike = "float32") -> Array:
    """One head: softmax(Q K^T / sqrt(d_k)) V (Vaswani et al. 2017, equation 1).

    Args:
      q_TxK: queries. k_SxK: keys. v_SxK: values.
      mask_TxS: true for keys that a query may use; each query needs at least one.
      dtype: dtype of the two matmuls; the softmax is float32 (or wider).

    Returns:
      float32 TxK.
    """
    return contract("TS,SK->TK", attention_weights(q_TxK, k_SxK, mask_TxS, dtype), v_SxK, dtype)


def attention_weights(q_TxK: Array, k_SxK: Array, mask_TxS: Array, dtype: DTypeLike = "float32") -> Array:
    """Attention weights softmax(Q K^T / sqrt(d_k)), float32 TxS; arguments as for `attend`."""
    scores_TxS = contract("TK,SK->TS", q_TxK, k_SxK, dtype) / math.sqrt(q_TxK.shape[-1])
    scores_TxS = jnp.where(mask_TxS, scores_TxS, jnp.finfo(scores_TxS.dtype).min)
    return jax.nn.softmax(scores_TxS, axis=-1)


def attend_heads(q_BxNxTxK: Array, k_BxNxSxK: Array, v_BxNxSxK: Array, mask_BxTxS: Array, dtype: DTypeLike) -> Array:
    """`attend`, vmapped over heads and batch; the mask is the same for all heads, and for all rows if its B is 1."""
    return _over_heads(partial(attend, dtype=dtype), mask_BxTxS, q_BxNxTxK, k_BxNxSxK, v_BxNxSxK)


def weights_of_heads(q_BxNxTxK: Array, k_BxNxSxK: Array, mask_BxTxS: Array, dtype: DTypeLike) -> Array:
    """`attention_weights`, vmapped as `attend_heads`: BxNxTxS."""
    return _over_heads(partial(attention_weights, dtype=dtype), mask_BxTxS, q_BxNxTxK, k_BxNxSxK)


def _over_heads(of_head: Callable[..., Array], mask_BxTxS: Array, *arrays_BxN: Array) -> Array:
    per_row = 0 if mask_BxTxS.shape[0] > 1 else None
    mask = mask_BxTxS if per_row == 0 else mask_BxTxS[0]
    each = (0,) * len(arrays_BxN)
    of_row = jax.vmap(lambda mask, *arrays: of_head(*arrays, mask), in_axes=(None, *each))
    return jax.vmap(of_row, in_axes=(per_row, *each))(mask, *arrays_BxN)


def init_attention(
    key: Array,
    d_model: int,
    n_heads: int,
    bias: bool,
    std: float,
    std_out: float,
    qk_norm: bool = False,
    d_head: int | None = None,
    kv_heads: int | None = None,
) -> Params:
    """{"W_qkv": Dx3xNxK, "W_o": NxKxD}, normal with `std` and `std_out`; with `bias`, zeros "b_qkv" 3xNxK, "b_o" D.

    With `kv_heads` G the queries are apart: "W_q" DxNxK and "W_kv" Dx2xGxK, "b_q" and "b_kv". Attention to a memory
    needs that, and fewer heads of keys than of queries. With `qk_norm`, also ones "q_gain" K, "k_gain" K. K is
    `d_head`, by default D / N.
    """
    d_head = d_head or d_model // n_heads
    read = {"qkv": (3, n_heads, d_head)} if kv_heads is None else {"q": (n_heads, d_head), "kv": (2, kv_heads, d_head)}
    matrices = {f"W_{name}": (std, (d_model, *shape)) for name, shape in read.items()}
    params = draw_normal(key, **matrices, W_o=(std_out, (n_heads, d_head, d_model)))
    if bias:
        params |= {f"b_{name}": jnp.zeros(shape) for name, shape in read.items()} | {"b_o": jnp.zeros(d_model)}
    return params | ({"q_gain": jnp.ones(d_head), "k_gain": jnp.ones(d_head)} if qk_norm else {})


def normalize_heads(params: Params, epsilon: float = NORM_EPSILON, **heads: Array) -> list[Array]:
    """RMSNorm of every head's "q" or "k", ...xTxK, where there are gains (Dehghani et al. 2023, arXiv 2302.05442).

    It comes before the rotation, as in Henry et al. 2020 (arXiv 2010.04245): a head's scores stay within sqrt(K) times
    the gains, however large the weights grow.
    """
    return [
        normalize("rmsnorm", {"gain": params[f"{name}_gain"]}, x, epsilon) if f"{name}_gain" in params else x
        for name, x in heads.items()
    ]


def queries_keys_values(
    params: Params, x_BxTxD: Array, angles_TxK: Array | None, dtype: DTypeLike, epsilon: float = NORM_EPSILON
) -> tuple[Array, Array, Array]:
    """Q, K and V of every head, each BxNxTxK in `dtype`; queries and keys rotated by `angles_TxK`, if given.

    K and V are BxGxTxK where the parameters have fewer heads of them (see `init_attention`).
    """
    if "W_kv" in params:
        q = contract("BTD,DNK->BNTK", x_BxTxD, params["W_q"], dtype)
        kv_cxBxGxTxK = contract("BTD,DcGK->cBGTK", x_BxTxD, params["W_kv"], dtype)
        if "b_kv" in params:
            q = q + params["b_q"][None, :, None, :]
            kv_cxBxGxTxK = kv_cxBxGxTxK + params["b_kv"][:, None, :, None, :]
        k, v = kv_cxBxGxTxK
    else:
        qkv_cxBxNxTxK = contract("BTD,DcNK->cBNTK", x_BxTxD, params["W_qkv"], dtype)
        if "b_qkv" in params:
            qkv_cxBxNxTxK = qkv_cxBxNxTxK + params["b_qkv"][:, None, :, None, :]
        q, k, v = qkv_cxBxNxTxK
    q, k = normalize_heads(params, epsilon, q=q, k=k)
    if angles_TxK is not None:
        q, k = rotate(q, angles_TxK), rotate(k, angles_TxK)
    return q.astype(dtype), k.astype(dtype), v.astype(dtype)


def self_attention(
    params: Params,
    x_BxTxD: Array,
    start: int | Array,
    angles_TxK: Array | None,
    cache: Cache | None,
    dtype: DTypeLike,
    kernel: str = "auto",
    mask_BxT: Array | None = None,
    causal: bool = True,
    watched: bool = False,
    q_scale: float = 1.0,
    epsilon: float = NORM_EPSILON,
) -> tuple[Array, Cache | None, Array | None]:
    """Self-attention over the T given positions and, with a cache, over all positions before them.

    Where keys and values have G heads, fewer than the N of the queries, query n reads head n // (N / G) (Ainslie et
    al. 2023, arXiv 2305.13245). The cache has the G heads.

    Args:
      start: position of the first of the T tokens, 0 without a cache.
      angles_TxK: rotary angles of the T positions, or None.
      cache: {"k": BxGxSxK, "v": BxGxSxK}, filled below `start`. start + T must not exceed S. This is not checked, since
        `start` is traced: writes beyond the end would overwrite the last entries.
      kernel: "whole": the scores of all T positions at once. "blocks": see `seqjax.layers.blockwise`. "auto": on a CPU
        compiled C++ if available, else blocks for T > 128; else whole. "fused": the kernel of an NVIDIA GPU or a TPU
        where it fits (`seqjax.layers.fused_attention`), unless there is a cache or the weights are watched; else as
        "auto". On a CPU and with "blocks": whole with a cache, with a mask, or not causal.
      mask_BxT: bool, true for elements, false for padding after them (without a cache). The output at padding is
        finite and must not be used.
      causal: a query uses only keys up to its own position.
      q_scale: factor on the queries: below 1 in models wider than their `base_width`.
      epsilon: of the norm of queries and keys, if there is one; see `normalize`.
      watched: also return the attention weights, which are computed separately.

    Returns:
      float32 BxTxD; the cache with the T new keys and values; the weights BxNxTxS, None unless `watched`.
    """
    auto, plain = kernel in ("auto", "fused"), cache is None and mask_BxT is None and causal
    if auto and plain and not watched and _has_native(params, epsilon, dtype):
        return _native(params, x_BxTxD, angles_TxK, q_scale), None, None
    q, k, v = queries_keys_values(params, x_BxTxD, angles_TxK, dtype, epsilon)
    q = q if q_scale == 1.0 else q * jnp.asarray(q_scale, q.dtype)
    if cache is not None:
        k = lax.dynamic_update_slice_in_dim(cache["k"], k.astype(cache["k"].dtype), start, axis=2)
        v = lax.dynamic_update_slice_in_dim(cache["v"], v.astype(cache["v"].dtype), start, axis=2)
        cache = {"k": k, "v": v}
    may_fuse = kernel == "fused" and cache is None and not watched
    fused = fused_kernel(target(), dtype, *q.shape[-2:]) if may_fuse else None
    if not fused and q.shape[1] != k.shape[1]:
        k, v = (jnp.repeat(y, q.shape[1] // y.shape[1], axis=1) for y in (k, v))
    if fused:
        heads_BxNxTxK = fused_attention(fused, q, k, v, mask_BxT, causal)
    elif plain and (kernel == "blocks" or (auto and target().platform == "cpu" and q.shape[2] > ROWS)):
        heads_BxNxTxK = blockwise_attention(q, k, v, dtype)
    else:
        heads_BxNxTxK = attend_heads(q, k, v, _visible(q, k, start, mask_BxT, causal), dtype)
    weights_BxNxTxS = weights_of_heads(q, k, _visible(q, k, start, mask_BxT, causal), dtype) if watched else None
    y_BxTxD = contract("BNTK,NKD->BTD", heads_BxNxTxK, params["W_o"], dtype)
    y_BxTxD = y_BxTxD + params["b_o"][None, None, :] if "b_o" in params else y_BxTxD
    return y_BxTxD, cache, weights_BxNxTxS


def _has_native(params: Params, epsilon: float, dtype: DTypeLike) -> bool:
    """Whether the compiled function has this attention: all heads have keys of their own, norms the usual epsilon."""
    return "W_qkv" in params and epsilon == NORM_EPSILON and native.usable(dtype)


def _native(params: Params, x_BxTxD: Array, angles_TxK: Array | None, q_scale: float) -> Array:
    """Causal self-attention with the compiled function, float32 BxTxD."""
    W_qkv, W_o = params["W_qkv"], params["W_o"]
    qkv_BxTxE = contract("BTD,DE->BTE", x_BxTxD, W_qkv.reshape(len(W_qkv), -1), "float32")
    bias_E = params["b_qkv"].reshape(-1) if "b_qkv" in params else None
    gains = (params["q_gain"], params["k_gain"]) if "q_gain" in params else None
    heads_BxTxE = native.self_attention(qkv_BxTxE, bias_E, gains, angles_TxK, len(W_o), q_scale)
    return linear(heads_BxTxE, W_o.reshape(-1, W_o.shape[-1]), params.get("b_o"), "float32")


def _visible(q: Array, k: Array, start: int | Array, mask_BxT: Array | None, causal: bool) -> Array:
    """True for keys that a query may use: BxTxS, or 1xTxS if all rows are equal."""
    times_Tx1 = (start + jnp.arange(q.shape[2]))[:, None]
    mask_TxS = times_Tx1 >= jnp.arange(k.shape[2])[None, :] if causal else jnp.ones((1, k.shape[2]), bool)
    return mask_TxS[None] if mask_BxT is None else mask_TxS[None] & mask_BxT[:, None, :]


def cross_keys(params_L: Params, memory_BxSxD: Array, dtype: DTypeLike, epsilon: float = NORM_EPSILON) -> Array:
    """Keys and values of a memory for L layers at once, 2xLxBxNxSxK in `dtype`; parameters have a leading axis L."""
    kv = contract("BSD,LDcNK->cLBNSK", memory_BxSxD, params_L["W_kv"], dtype)
    if "b_kv" in params_L:
        kv = kv + params_L["b_kv"].swapaxes(0, 1)[:, :, None, :, None, :]
    if "k_gain" in params_L:
        of_layer = jax.vmap(lambda gain, k: normalize_heads({"k_gain": gain}, epsilon, k=k)[0])
        kv = jnp.stack([of_layer(params_L["k_gain"], kv[0]), kv[1]])
    return kv.astype(dtype)


def cross_attention(
    params: Params,
    x_BxTxD: Array,
    k_BxNxSxK: Array,
    v_BxNxSxK: Array,
    mask_BxS: Array,
    dtype: DTypeLike,
    epsilon: float = NORM_EPSILON,
) -> Array:
    """Attention of T queries to the S elements of a memory, float32 BxTxD (Vaswani et al. 2017, section 3.2.3)."""
    q_BxNxTxK = contract("BTD,DNK->BNTK", x_BxTxD, params["W_q"], dtype)
    if "b_q" in params:
        q_BxNxTxK = q_BxNxTxK + params["b_q"][None, :, None, :]
    (q_BxNxTxK,) = normalize_heads(params, epsilon, q=q_BxNxTxK)
    mask_BxTxS = jnp.broadcast_to(mask_BxS[:, None], (len(x_BxTxD), x_BxTxD.shape[1], mask_BxS.shape[1]))
    heads_BxNxTxK = attend_heads(q_BxNxTxK.astype(dtype), k_BxNxSxK, v_BxNxSxK, mask_BxTxS, dtype)
    y_BxTxD = contract("BNTK,NKD->BTD", heads_BxNxTxK, params["W_o"], dtype)
    return y_BxTxD + params["b_o"][None, None, :] if "b_o" in params else y_BxTxD


def additive_attention(query_BxA: Array, keys_BxSxA: Array, v_A: Array, m_BxSxM: Array, mask_BxS: Array) -> Array:
    """c = sum_j a_j m_j with a = softmax_j(v . tanh(query + key_j)), float32 BxM (Bahdanau et al. 2015, A.1.2)."""
    e_BxS = jnp.einsum("BSA,A->BS", jnp.tanh(query_BxA[:, None] + keys_BxSxA), v_A)
    a_BxS = jax.nn.softmax(jnp.where(mask_BxS, e_BxS, jnp.finfo(e_BxS.dtype).min), axis=-1)
    return jnp.einsum("BS,BSM->BM", a_BxS, m_BxSxM)
