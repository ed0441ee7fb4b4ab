"""Self-attention to the last few elements, with fewer keys and values than queries, and a state of fixed size.

    query t sees the keys s with 0 <= t - s < W                      W: `window`; None: all before t
    head n of the queries reads keys and values n // (N / G)         G of them; G = 1: Shazeer 2019, arXiv 1911.02150

The first half of each query's and key's coordinates is rotated by its position, as in Griffin (De et al. 2024, arXiv
2402.19427, section 2.4). The state holds the keys and values of the last P elements in order, rotated already.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers.attention import attend_heads, init_attention, weights_of_heads
from seqjax.layers.dense import Params
from seqjax.layers.fused_attention import fused_attention, fused_kernel
from seqjax.layers.precision import contract
from seqjax.layers.rotary import rotary_angles
from seqjax.layers.target import target

State = dict[str, Array]


def init_local_attention(
    key: Array, d_model: int, n_heads: int, kv_heads: int, bias: bool, std: float, std_out: float
) -> Params:
    """{"W_q": DxNxK, "W_kv": Dx2xGxK, "W_o": NxKxD}, normal with `std` and `std_out`; with `bias` zeros "b_o" D."""
    params = init_attention(key, d_model, n_heads, False, std, std_out, kv_heads=kv_heads)
    return params | {"b_o": jnp.zeros(d_model)} if bias else params


def local_state(batch: int, past: int, kv_heads: int, d_head: int) -> State:
    """Before the first element: "k" and "v" BxPxGxK, zeros, and "position" B, the number of elements so far."""
    shape = (batch, past, kv_heads, d_head)
    return {"k": jnp.zeros(shape), "v": jnp.zeros(shape), "position": jnp.zeros(batch, jnp.int32)}


def mean_keys(context: int, window: int | None, past: int = 0) -> float:
    """Keys that a query sees, averaged over a context: min(P + t, W) for t = 1 .. T, with P elements in the state."""
    seen = past + context if window is None else min(window, past + context)  # by the last query
    rising = max(0, seen - past)  # queries that see one key more than the one before
    return seen - rising * (rising - 1) / (2 * context)


def local_attention(
    params: Params,
    x_BxTxD: Array,
    state: State,
    window: int | None,
    mask_BxT: Array | None,
    dtype: DTypeLike,
    watched: bool = False,
    q_scale: float = 1.0,
    kernel: str = "auto",
) -> tuple[Array, State, Array | None]:
    """Attention of T elements to themselves and to the P in the state.

    Args:
      mask_BxT: false for padding, which no query sees and which does not enter the state.
      q_scale: factor on the queries.
      kernel: "auto": whole scores. "fused": the device's kernel where it fits (`seqjax.layers.fused_attention`), if the
        state has no elements and the weights are not watched; else whole scores.

    Returns:
      y_BxTxD, float32; the state after; the weights BxNxTxT among the T elements if `watched`, else None.
    """
    n_times, n_past, count_B = x_BxTxD.shape[1], state["k"].shape[1], state["position"]
    q_BxTxNxK = contract("BTD,DNK->BTNK", x_BxTxD, params["W_q"], dtype) * q_scale
    k_BxTxGxK, v_BxTxGxK = contract("BTD,DcGK->cBTGK", x_BxTxD, params["W_kv"], dtype)
    angles_BxTxJ = _angles(count_B[:, None] + jnp.arange(n_times)[None, :], q_BxTxNxK.shape[-1])
    q_BxTxNxK, k_BxTxGxK = (_half_rotated(y, angles_BxTxJ) for y in (q_BxTxNxK, k_BxTxGxK))
    k_BxSxGxK = jnp.concatenate([state["k"], k_BxTxGxK.astype(state["k"].dtype)], axis=1)
    v_BxSxGxK = jnp.concatenate([state["v"], v_BxTxGxK.astype(state["v"].dtype)], axis=1)
    q = q_BxTxNxK.swapaxes(1, 2).astype(dtype)
    k, v = k_BxSxGxK.swapaxes(1, 2), v_BxSxGxK.swapaxes(1, 2)
    may_fuse = kernel == "fused" and n_past == 0 and not watched
    fused = fused_kernel(target(), dtype, *q.shape[-2:]) if may_fuse else None
    if fused:
        heads_BxNxTxK = fused_attention(
            fused, q, k.astype(dtype), v.astype(dtype), mask_BxT, causal=True, window=window
        )
    else:
        visible_BxTxS = _visible(n_times, n_past, count_B, window, mask_BxT)
        k, v = (jnp.repeat(y, q.shape[1] // y.shape[1], axis=1).astype(dtype) for y in (k, v))
        heads_BxNxTxK = attend_heads(q, k, v, visible_BxTxS, dtype)
    y_BxTxD = contract("BNTK,NKD->BTD", heads_BxNxTxK, params["W_o"], dtype)
    y_BxTxD = y_BxTxD + params["b_o"][None, None, :] if "b_o" in params else y_BxTxD
    weights = weights_of_heads(q, k, visible_BxTxS, dtype)[..., n_past:] if watched else None
    steps_B = jnp.full(count_B.shape, n_times) if mask_BxT is None else mask_BxT.sum(axis=1)
    kept_BxP = (steps_B[:, None] + jnp.arange(n_past)[None, :])[:, :, None, None]
    last = {name: jnp.take_along_axis(y, kept_BxP, axis=1) for name, y in (("k", k_BxSxGxK), ("v", v_BxSxGxK))}
    return y_BxTxD, last | {"position": count_B + steps_B.astype(count_B.dtype)}, weights


def _angles(positions_BxT: Array, d_head: int) -> Array:
    """Angles of the J planes, J = K // 4, at each position."""
    return rotary_angles(positions_BxT.reshape(-1), 2 * (d_head // 4)).reshape(*positions_BxT.shape, -1)


def _half_rotated(y_BxTxNxK: Array, angles_BxTxJ: Array) -> Array:
    """y with its first 2 J coordinates rotated."""
    rotated = 2 * angles_BxTxJ.shape[-1]
    cos, sin = (f(angles_BxTxJ).astype(y_BxTxNxK.dtype)[:, :, None, :] for f in (jnp.cos, jnp.sin))
    y1, y2 = jnp.split(y_BxTxNxK[..., :rotated], 2, axis=-1)
    return jnp.concatenate([y1 * cos - y2 * sin, y1 * sin + y2 * cos, y_BxTxNxK[..., rotated:]], axis=-1)


def _visible(n_times: int, n_past: int, count_B: Array, window: int | None, mask_BxT: Array | None) -> Array:
    """True for keys that a query may use, BxTxS or 1xTxS; the S = P + T keys are those of the state, then the new."""
    back_TxS = (n_past + jnp.arange(n_times))[:, None] - jnp.arange(n_past + n_times)[None, :]
    near_TxS = (back_TxS >= 0) & (back_TxS < (window or n_past + n_times))
    if n_past == 0 and mask_BxT is None:
        return near_TxS[None]
    real_BxP = jnp.arange(n_past)[None, :] >= n_past - count_B[:, None]
    new_BxT = jnp.ones((len(count_B), n_times), bool) if mask_BxT is None else mask_BxT
    return near_TxS[None] & jnp.concatenate([real_BxP, new_BxT], axis=1)[:, None, :]
