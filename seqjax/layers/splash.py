"""Attention on TPUs by JAX's splash kernel: no T x S array, and blocks above the diagonal are skipped."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

BLOCKS = (512, 256, 128)  # rows and columns of a block: the largest that divides the length, padded to the smallest


def splash_attention(
    q_BxNxTxK: Array,
    k_BxGxTxK: Array,
    v_BxGxTxK: Array,
    length_B: Array | None,
    causal: bool,
    window: int | None,
    interpret: bool = False,
) -> Array:
    """As `seqjax.layers.cudnn.cudnn_attention`, also for float32. `interpret`: without a TPU."""
    n_heads, n_times, width = q_BxNxTxK.shape[1:]
    length = n_times + -n_times % BLOCKS[-1]
    if length_B is None and length > n_times and not causal:
        length_B = jnp.full(len(q_BxNxTxK), n_times)
    missing = [(0, 0), (0, 0), (0, length - n_times), (0, 0)]
    q, k, v = (jnp.pad(x, missing) for x in (q_BxNxTxK * (1 / math.sqrt(width)), k_BxGxTxK, v_BxGxTxK))
    kernel = _kernel(n_heads, length, causal, window, interpret)
    if length_B is None:
        return jax.vmap(kernel)(q, k, v)[:, :, :n_times]
    seen_BxS = (jnp.arange(length)[None, :] < length_B[:, None]).astype(jnp.int32)
    parts = splash_attention_kernel.SegmentIds(jnp.ones_like(seen_BxS), seen_BxS)
    return jax.vmap(kernel)(q, k, v, parts)[:, :, :n_times]


def _kernel(
    n_heads: int, length: int, causal: bool, window: int | None, interpret: bool
) -> splash_attention_kernel.SplashAttentionKernel:
    shape = (length, length)
    masks = splash_attention_mask
    if not causal:
        mask = masks.FullMask(shape)
    elif window is None:
        mask = masks.CausalMask(shape)
    else:
        mask = masks.LocalMask(shape, (window - 1, 0), 0)
    block = next(block for block in BLOCKS if length % block == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes = splash_attention_kernel.BlockSizes(**{f"block_{name}": block for name in names})
    return splash_attention_kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * n_heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
