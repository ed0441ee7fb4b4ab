"""Truncated back-propagation in whole models: all layers are cut at the same steps, and values stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import slow

from seqjax.errors import UserError
from seqjax.families import FAMILIES, GRU, Transformer, Window
from seqjax.models import build_model
from seqjax.models.backbone import Backbone

V, B, T, K = 6, 2, 8, 4


@pytest.mark.parametrize("d_hidden", [slow(None), 7])
@pytest.mark.parametrize("family", ["lstm", "mingru"])
def test_a_context_in_pieces_is_as_many_contexts_that_carry_a_state(family: str, d_hidden: int | None) -> None:
    """Two layers, on which a carry of the piece before falls as a constant: loss, state and gradients."""
    conv = {"conv": 3} if family == "mingru" else {}
    config = FAMILIES[family](d_model=5, d_hidden=d_hidden, n_layers=2, **conv)
    model = build_model(config, V, T, bptt=K)
    tokens_BxT = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)))
    params = jax.jit(model.init)(jax.random.key(1), tokens_BxT)
    weights_BxTxV = jax.random.normal(jax.random.key(2), (B, T, V))

    def in_pieces(params: dict) -> tuple[jax.Array, tuple]:
        logits_BxTxV, state = model.apply(params, tokens_BxT)
        return (logits_BxTxV * weights_BxTxV).sum(), state

    def by_hand(params: dict) -> tuple[jax.Array, tuple]:
        whole, state, total = build_model(config, V, T), None, 0.0
        for first in range(0, T, K):
            piece = slice(first, first + K)
            logits_BxTxV, state = whole.apply(params, tokens_BxT[:, piece], jax.lax.stop_gradient(state))
            total += (logits_BxTxV * weights_BxTxV[:, piece]).sum()
        return total, state

    got, want = (jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (in_pieces, by_hand))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_a_backbone_is_cut_where_each_direction_starts() -> None:
    """Five steps in pieces of two: the last output sees its own piece, one step; so does the first backward."""
    backbone = Backbone(GRU(d_model=5, n_layers=2), max_length=5, causal=False, bptt=2)
    x_BxTxD = jax.random.normal(jax.random.key(0), (B, 5, 5))
    params = jax.jit(backbone.init)(jax.random.key(1), x_BxTxD)
    gradient = jax.jit(jax.grad(lambda x, weights_BxTxH: (backbone.apply(params, x) * weights_BxTxH).sum()))
    for output, reached in (((-1, slice(5)), [4]), ((0, slice(5, 10)), [0]), ((3, slice(5)), [2, 3])):
        d_x = gradient(x_BxTxD, jnp.zeros((B, 5, 10)).at[:, output[0], output[1]].set(1.0))
        assert [t for t in range(5) if np.any(d_x[:, t])] == reached


@pytest.mark.parametrize("config", [Transformer(d_model=8), Window(d_model=8)])
def test_without_recurrence_there_is_nothing_to_cut(config: Transformer | Window) -> None:
    with pytest.raises(UserError, match=f"bptt 4: the family '{config.family}' has no recurrence"):
        build_model(config, V, T, bptt=4)
    with pytest.raises(UserError, match=f"bptt 4: the family '{config.family}' has no recurrence"):
        Backbone(config, max_length=T, bptt=4).init(jax.random.key(0), jnp.zeros((1, T, 8)))
