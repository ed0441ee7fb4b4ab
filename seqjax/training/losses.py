"""What is minimised: losses as functions ``(params, batch, carry, key) -> (mean in nats, new carry)``."""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import linen as nn

from seqjax.training.step import Loss

Tree = Any


def next_token_loss(model: nn.Module) -> Loss:
    """Mean cross-entropy of each next token, in nats per token.

        L = - 1 / (B T) sum_{b,t} log softmax(logits_{b,t})[x_{b,t+1}]

    The batch is int32 [B, T + 1]: inputs are its first T tokens, targets its last T.
    """

    def loss(params: Tree, batch_BxT1: jax.Array, carry: Tree, key: jax.Array) -> tuple[jax.Array, Tree]:
        logits_BxTxV, new_carry = model.apply(
            {"params": params}, batch_BxT1[:, :-1], carry, train=True, rngs={"dropout": key}
        )
        loss_BxT = optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, batch_BxT1[:, 1:])
        return loss_BxT.mean(), None if carry is None else new_carry

    return loss


def token_losses(model: nn.Module, params: Tree, batch_BxT1: jax.Array, carry: Tree = None) -> tuple[jax.Array, Tree]:
    """Cross-entropy of every next token without dropout: ``loss_BxT`` in nats, and the new carry."""
    logits_BxTxV, carry = model.apply({"params": params}, batch_BxT1[:, :-1], carry)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, batch_BxT1[:, 1:]), carry
