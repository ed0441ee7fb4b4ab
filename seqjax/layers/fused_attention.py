"""The attention kernel that a platform has, and the rule that says where it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from seqjax.layers.target import Target, target

Kernel = Literal["cudnn", "splash"]


def fused_kernel(target: Target, dtype: DTypeLike, n_times: int, d_head: int) -> Kernel | None:
    """The kernel for attention of T queries to the same T keys; None: there is none, or it does not fit.

    cuDNN's: an NVIDIA GPU of compute capability 8.0 or more, bfloat16 or float16, heads not wider than 128 (256 on
    Hopper). Splash: a TPU, bfloat16 or float32. Both: two positions or more.
    """
    dtype = jnp.dtype(dtype)
    if n_times < 2:
        return None
    if target.platform == "cuda" and dtype in (jnp.bfloat16, jnp.float16):
        capability = target.capability or (0, 0)
        widest = 0 if capability < (8, 0) else 256 if capability[0] == 9 else 128
        return "cudnn" if d_head <= widest and _function("cudnn") else None
    return "splash" if target.platform == "tpu" and dtype in (jnp.bfloat16, jnp.float32) else None


def _function(kernel: Kernel) -> Callable[..., Array] | None:
    """The kernel's function. Its file is imported when it is needed: splash takes half a second, and the calls of cuDNN
    are not public, so that a later JAX may lack them (then None)."""
    if kernel == "splash":
        from seqjax.layers.splash import splash_attention

        return splash_attention
    try:
        from seqjax.layers.cudnn import cudnn_attention
    except ImportError:
        return None
    return cudnn_attention


def fused_attention(
    kernel: Kernel,
    q_BxNxTxK: Array,
    k_BxGxTxK: Array,
    v_BxGxTxK: Array,
    mask_BxT: Array | None,
    causal: bool,
    window: int | None = None,
) -> Array:
    """softmax(Q K^T / sqrt(K)) V, BxNxTxK in the dtype of the arguments. Each device computes its rows of the batch.

    Args:
      k_BxGxTxK, v_BxGxTxK: query head n reads head n // (N / G).
      mask_BxT: true for elements, false for padding, which comes after them; None: no padding.
      causal: a query sees no later keys.
      window: query t sees keys s > t - window; only if causal.
    """
    length_B = None if mask_BxT is None else jnp.maximum(mask_BxT.sum(axis=1, dtype=jnp.int32), 1)
    window = None if window is None or window >= q_BxNxTxK.shape[2] else window

    def of_rows(q: Array, k: Array, v: Array, length_B: Array | None) -> Array:
        return _function(kernel)(q, k, v, length_B, causal, window)

    return _over_devices(of_rows, target().mesh)(q_BxNxTxK, k_BxGxTxK, v_BxGxTxK, length_B)


def _over_devices(of_rows: Callable[..., Array], mesh: Mesh | None) -> Callable[..., Array]:
    """`of_rows` with the rows of the batch shared among the devices. XLA cannot look into a kernel to share its work.

    If the devices do not divide the batch, it is padded with its last row.
    """
    if mesh is None:
        return of_rows
    shared = P(mesh.axis_names)
    on_each = jax.shard_map(of_rows, mesh=mesh, in_specs=shared, out_specs=shared, check_vma=False)

    def shared_rows(*arrays_B: Array | None) -> Array:
        batch = len(arrays_B[0])
        last = [(0, -batch % mesh.size)]
        padded = [None if x is None else jnp.pad(x, last + [(0, 0)] * (x.ndim - 1), "edge") for x in arrays_B]
        return on_each(*(padded if last[0][1] else arrays_B))[:batch]

    return shared_rows
