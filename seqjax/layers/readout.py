"""From hidden states to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.typing import DTypeLike

from seqjax.layers.dense import Params
from seqjax.layers.precision import contract
from seqjax.layers.sharing import gathered

Readout = Callable[[Array, Params, DTypeLike], Any]
"""(x_BxTxD, parameters of the model, compute dtype) -> the output of the model: logits, or a loss."""


def readout_weights(params: Params) -> tuple[str, Array, Array | None]:
    """The readout: axes of its matrix, "DV" or "VD"; the matrix; its bias or None.

    The matrix is "readout" (DxV) if `params` has it, else "embedding" (VxD): tied (Press & Wolf 2017, arXiv
    1608.05859). The bias is "readout_bias" V.
    """
    letters, name = ("DV", "readout") if "readout" in params else ("VD", "embedding")
    return letters, params[name], params.get("readout_bias")


def unembed(x_BxTxD: Array, params: Params, dtype: DTypeLike) -> Array:
    """Readout: logits_BxTxV, float32; `params` as for `readout_weights`."""
    letters, W, b_V = readout_weights(params)
    W = gathered(W)
    logits_BxTxV = contract(f"BTD,{letters}->BTV", x_BxTxD, W, dtype)
    return logits_BxTxV if b_V is None else logits_BxTxV + b_V[None, None, :]
