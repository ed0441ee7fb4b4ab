"""Embeddings before a backbone and heads after it: language model, classifier, regressor.

    SequenceModel(TokenEmbedding(...), Backbone(...), Classifier(...))

Every part is a Flax module, and any backbone takes any head. Sequence to sequence is in `seqjax.models.seq2seq`.
"""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from seqjax.layers.dense import dropout, normal_init
from seqjax.layers.pooling import pool_attention, pool_last, pool_mean
from seqjax.layers.precision import contract

Pool = Literal["last", "mean", "attention"]


class SequenceModel(nn.Module):
    """Embedding, backbone and head, each a module; the head gets the hidden states and the mask."""

    embedding: nn.Module
    backbone: nn.Module
    head: nn.Module

    def __call__(self, inputs: Array, mask_BxT: Array | None = None, train: bool = False) -> Array:
        """The output of the head for ``inputs`` (tokens_BxT, or another input of the embedding)."""
        x_BxTxD = self.embedding(inputs, train)
        return self.head(self.backbone(x_BxTxD, mask_BxT, train), mask_BxT, train)


class TokenEmbedding(nn.Module):
    """x_t = sqrt(D) E[token_t]; E is normal with standard deviation D^-0.5, so that x has unit variance.

    Parameters: "embedding" VxD.
    """

    vocab_size: int
    d_model: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, tokens_BxT: Array, train: bool = False) -> Array:
        """x_BxTxD, float32."""
        E_VxD = self.param("embedding", normal_init(self.d_model**-0.5, self.vocab_size, self.d_model))
        key = self.make_rng("dropout") if train and self.dropout > 0 else None
        return dropout(math.sqrt(self.d_model) * E_VxD[tokens_BxT], key, 0, self.dropout)


class Classifier(nn.Module):
    """One class of C from a sequence: logits = W pool(h_1 .. h_T) + b.

    Parameters: "out" {"W" HxC, "b" C}; with attention pooling also "W_pool" HxH, "b_pool" H, "u_pool" H.

    Attributes:
      pool: the last state, the mean of all, or a weighted mean with learned weights.
    """

    n_classes: int
    pool: Pool = "last"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, h_BxTxH: Array, mask_BxT: Array | None = None, train: bool = False) -> Array:
        """logits_BxC, float32."""
        width = h_BxTxH.shape[-1]
        mask_BxT = jnp.ones(h_BxTxH.shape[:2], bool) if mask_BxT is None else mask_BxT
        if self.pool == "attention":
            W = self.param("W_pool", normal_init(width**-0.5, width, width))
            b = self.param("b_pool", lambda _: jnp.zeros(width))
            y_BxH = pool_attention(h_BxTxH, mask_BxT, W, b, self.param("u_pool", normal_init(width**-0.5, width)))
        else:
            y_BxH = (pool_last if self.pool == "last" else pool_mean)(h_BxTxH, mask_BxT)
        key = self.make_rng("dropout") if train and self.dropout > 0 else None
        return Affine(self.n_classes, name="out")(dropout(y_BxH, key, 0, self.dropout)[:, None])[:, 0]


class Regressor(nn.Module):
    """Numbers from every state of a sequence: y_t = W h_t + b.

    Parameters: "out" {"W" HxO, "b" O}.
    """

    n_outputs: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, h_BxTxH: Array, mask_BxT: Array | None = None, train: bool = False) -> Array:
        """y_BxTxO, float32."""
        key = self.make_rng("dropout") if train and self.dropout > 0 else None
        return Affine(self.n_outputs, name="out")(dropout(h_BxTxH, key, 0, self.dropout))


class TokenHead(nn.Module):
    """Logits of the next token after each element: W h_t + b. Parameters: "out" {"W" HxV, "b" V}."""

    vocab_size: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, h_BxTxH: Array, mask_BxT: Array | None = None, train: bool = False) -> Array:
        """logits_BxTxV, float32."""
        key = self.make_rng("dropout") if train and self.dropout > 0 else None
        return Affine(self.vocab_size, name="out")(dropout(h_BxTxH, key, 0, self.dropout))


class Affine(nn.Module):
    """x W + b over the last axis. Parameters: "W" HxO, normal with standard deviation H^-0.5; "b" O, zero."""

    n_outputs: int
    bias: bool = True
    compute_dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x_BxTxH: Array) -> Array:
        """BxTxO, float32."""
        width = x_BxTxH.shape[-1]
        W_HxO = self.param("W", normal_init(width**-0.5, width, self.n_outputs))
        y_BxTxO = contract("BTH,HO->BTO", x_BxTxH, W_HxO, self.compute_dtype)
        return y_BxTxO + self.param("b", lambda _: jnp.zeros(self.n_outputs))[None, None] if self.bias else y_BxTxO
