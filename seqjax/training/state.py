"""The state of one run between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seqjax.models.accounting import group_of

Tree = Any  # a pytree of arrays


class TrainState(struct.PyTreeNode):
    """The state of a run; a pytree, so it can be stacked over runs, sharded and saved.

    Attributes:
        step: int32, optimizer steps taken.
        params: float32 parameters.
        opt_state: the optimizer's moments.
        carry: recurrent state passed from batch to batch (streams), or None.
        key: PRNG key of dropout; step t uses ``fold_in(key, t)``.
        alive: bool; False once a loss, gradient or parameter was not finite. From then on the state is unchanged.
    """

    step: jax.Array
    params: Tree
    opt_state: Tree
    carry: Tree
    key: jax.Array
    alive: jax.Array


class Hyper(struct.PyTreeNode):
    """The traced hyper-parameters of one step: they may differ between the runs of a bundle.

    Attributes:
        learning_rate: float32, of this step.
        weight_decay: float32.
    """

    learning_rate: jax.Array
    weight_decay: jax.Array


def init_state(
    init: Callable[[jax.Array], Tree],
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    init_scale: float | jax.Array = 1.0,
    carry: Tree = None,
) -> TrainState:
    """The state before the first step; a pure function of ``seed`` and ``init_scale``, so it can be vmapped over runs.

    Args:
        init: key -> params.
        init_scale: multiplies every weight matrix, with embeddings and readout, but not biases and gains.
    """
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    params = jax.tree.map_with_path(
        lambda path, p: p if group_of(path) in ("vectors", "readout_bias") else p * init_scale, init(init_key)
    )
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        carry=carry,
        key=jax.random.key_data(dropout_key),
        alive=jnp.bool_(True),
    )
