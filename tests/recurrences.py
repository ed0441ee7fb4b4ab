"""One layer of a cell with random parameters, and the gradients of a loss of its outputs and its last state."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np

from seqjax.through_time.nonlinear import tabulate, unroll

V, D = 7, 3


def example(config, times, batch, d_hidden, seed):
    """Parameters, a table of inputs, tokens, states and the weights of the outputs in the loss, float64."""
    rng = np.random.default_rng(seed)
    cell = replace(config, d_hidden=d_hidden)
    params = cell.init_cell(jax.random.key(seed), D)
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape), params)
    state = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), cell.cell_state(batch))
    weights = rng.standard_normal((times, batch, d_hidden)), jax.tree.map(lambda h: rng.standard_normal(h.shape), state)
    return params, rng.standard_normal((V, D)), state, rng.integers(0, V, (times, batch)), weights


def value_and_grads(config, arguments, tokens, weights, dtype, how, mask=None, table=False):
    """A weighted sum of outputs and last state; its gradients for parameters, inputs and first state."""
    cell = config

    def loss(params, embedding, state):
        if table:
            h, last = unroll(cell, tabulate(cell, params, embedding, dtype), tokens, state, dtype, how, mask)
        else:
            h, last = unroll(cell, params, embedding[tokens], state, dtype, how, mask)
        products = jax.tree.map(lambda a, b: (a.astype(b.dtype) * b).sum(), (h, last), weights)
        return sum(jax.tree.leaves(products))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments)
