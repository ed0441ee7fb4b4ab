"""cuDNN's attention on NVIDIA GPUs: no T x S array, and no half above the diagonal, forward and backward.

JAX's own function (`jax.nn.dot_product_attention`) cannot be used in bundles: `jax.vmap` of its gradient fails (jax
0.10 and 0.11, issue 38495), and its checks ask the machine that compiles. So the two calls under it are used, and a
mapped axis becomes a part of the batch. That is exact, since attention has no parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax._src.cudnn.fused_attention_stablehlo import (
    AttentionLayout,
    MaskType,
    _dot_product_attention_bwd_p,
    _dot_product_attention_fwd_p,
)
from jax.custom_batching import custom_vmap

GRAIN = 8  # head widths are multiples of it


class Form(NamedTuple):
    """What is fixed in a compiled call: the factor of the scores, the mask, and keys that a query sees at most."""

    scale: float
    causal: bool
    window: int | None


def cudnn_attention(
    q_BxNxTxK: Array, k_BxGxTxK: Array, v_BxGxTxK: Array, length_B: Array | None, causal: bool, window: int | None
) -> Array:
    """softmax(Q K^T / sqrt(K)) V, BxNxTxK in the dtype of the arguments: bfloat16 or float16.

    Args:
      k_BxGxTxK, v_BxGxTxK: query head n reads head n // (N / G).
      length_B: int32, at least 1: keys s < length are seen; None: all.
      causal: a query sees no later keys.
      window: a query t sees keys s > t - window; only if causal.
    """
    width = q_BxNxTxK.shape[-1]
    missing = [(0, 0)] * 3 + [(0, -width % GRAIN)]
    padded = [jnp.pad(x, missing) for x in (q_BxNxTxK, k_BxGxTxK, v_BxGxTxK)]
    return _attention(Form(1 / math.sqrt(width), causal, window), *padded, length_B)[..., :width]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(form: Form, q: Array, k: Array, v: Array, length_B: Array | None) -> Array:
    return _folded(partial(forward, form, False))(q, k, v, length_B)[0]


def _forward(form: Form, q: Array, k: Array, v: Array, length_B: Array | None) -> tuple[Array, tuple]:
    y, log_sum_BxNxT = _folded(partial(forward, form, True))(q, k, v, length_B)
    return y, (q, k, v, length_B, y, log_sum_BxNxT)


def _backward(form: Form, kept: tuple, d_y: Array) -> tuple[Array, Array, Array, None]:
    return *_folded(partial(backward, form))(*kept, d_y), None


_attention.defvjp(_forward, _backward)


def _folded(call: Callable[..., Sequence[Array]]) -> Callable[..., Sequence[Array]]:
    """`call` of arrays with a leading axis B (or None); an axis of `vmap` is folded into B."""

    @custom_vmap
    def folding(*arrays: Array | None) -> list[Array]:
        return list(call(*arrays))

    @folding.def_vmap
    def over_runs(runs: int, batched: list[bool], *arrays: Array | None) -> tuple[list[Array], list[bool]]:
        def fold(x: Array, is_batched: bool) -> Array:
            x = x if is_batched else jnp.broadcast_to(x, (runs, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        results = folding(*jax.tree.map(fold, arrays, tuple(batched)))
        return [y.reshape(runs, -1, *y.shape[1:]) for y in results], [True] * len(results)

    return folding


def forward(form: Form, trained: bool, q: Array, k: Array, v: Array, length_B: Array | None) -> Sequence[Array]:
    """The result, and if `trained` the logarithm of each row's sum of exponentials, BxNxT."""
    inputs = (q, k, v, *_others(q, length_B))
    return _dot_product_attention_fwd_p.bind(*inputs, **_settings(form, length_B), is_training=trained)


def backward(
    form: Form, q: Array, k: Array, v: Array, length_B: Array | None, y: Array, log_sum_BxNxT: Array, d_y: Array
) -> Sequence[Array]:
    """The gradients of q, k and v."""
    inputs = (q, k, v, *_others(q, length_B), log_sum_BxNxT, y, d_y)
    return _dot_product_attention_bwd_p.bind(*inputs, **_settings(form, length_B))


def _others(q: Array, length_B: Array | None) -> tuple[Array, ...]:
    """Bias, lengths of queries and keys, two offsets, two page tables; empty ones are not used. All queries count, so
    that rows of padding are finite."""
    none = jnp.zeros(0, q.dtype)
    lengths = (none, none) if length_B is None else (jnp.full_like(length_B, q.shape[2]), length_B)
    return none, *lengths, none, none, none, none


def _settings(form: Form, length_B: Array | None) -> dict[str, object]:
    plain, padded = (MaskType.NO_MASK, MaskType.CAUSAL), (MaskType.PADDING, MaskType.PADDING_CAUSAL)
    return {
        "scale": form.scale,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),
        "mask_type": (plain if length_B is None else padded)[form.causal],
        "layout": AttentionLayout.BNTH.value,
        "sliding_window_length": form.window,
    }
