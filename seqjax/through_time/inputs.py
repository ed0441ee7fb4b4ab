"""The inputs' part of the gates of a cell, for all time steps at once."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers.dense import Params


def project(cell: Any, params: Params, x_TxBxD: Array, dtype: DTypeLike) -> Array:
    """gates_x_TxBxG, float32: the part of the gates that does not depend on the state, for all T at once."""
    return params["table"][x_TxBxD] if "table" in params else cell.project(params, x_TxBxD, dtype)


def project_back(
    cell: Any, params: Params, x_TxBxD: Array, dtype: DTypeLike, d_gates_x_TxBxG: Array
) -> tuple[Params, Array | None]:
    """The gradients of `project`: of all parameters (zero of the recurrent ones), and of the inputs unless they are
    tokens."""
    if "table" in params:
        _, pull = jax.vjp(lambda p: project(cell, p, x_TxBxD, dtype), params)
        return pull(d_gates_x_TxBxG)[0], None
    _, pull = jax.vjp(lambda p, x: project(cell, p, x, dtype), params, x_TxBxD)
    return pull(d_gates_x_TxBxG)
