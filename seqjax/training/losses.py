"""What is minimised: losses as functions ``(params, batch, carry, key) -> (mean in nats, new carry)``."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from seqjax.layers.cross_entropy import mean_cross_entropy, token_cross_entropy
from seqjax.training.step import Loss

Tree = Any


def next_token_loss(model: nn.Module) -> Loss:
    """Mean cross-entropy of each next token, in nats per token.

        L = - 1 / (B T) sum_{b,t} log softmax(logits_{b,t})[x_{b,t+1}]

    The batch is int32 [B, T + 1]: inputs are its first T tokens, targets its last T.
    """

    def loss(params: Tree, batch_BxT1: jax.Array, carry: Tree, key: jax.Array) -> tuple[jax.Array, Tree]:
        readout = partial(mean_cross_entropy, targets_BxT=batch_BxT1[:, 1:])
        value, new_carry = model.apply(
            {"params": params}, batch_BxT1[:, :-1], carry, train=True, readout=readout, rngs={"dropout": key}
        )
        return value, None if carry is None else new_carry

    return loss


def token_losses(model: nn.Module, params: Tree, batch_BxT1: jax.Array, carry: Tree = None) -> tuple[jax.Array, Tree]:
    """Cross-entropy of every next token without dropout: ``loss_BxT`` in nats, and the new carry."""
    readout = partial(token_cross_entropy, targets_BxT=batch_BxT1[:, 1:])
    return model.apply({"params": params}, batch_BxT1[:, :-1], carry, readout=readout)
