"""One layer of a cell with random parameters, and the gradients of a loss of its outputs and its last state."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from variants import recurrent

from seqjax.layers.target import Target, compiled_for
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


def both(family, times, batch, d_hidden, dtype, runs=0, masked=True, **kinds):
    """Values and gradients by the whole-sequence kernel (on one or two devices) and by the plain scan, for one run or a
    bundle."""
    config = recurrent(family, bias=kinds.get("bias", True))
    examples = [example(config, times, batch, d_hidden, seed) for seed in range(runs or 1)]
    tokens, weights = examples[0][3:]
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)
    mask = jnp.asarray(np.random.default_rng(0).random((times, batch)) < 0.7) if masked else None
    each = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), example[:3]) for example in examples]
    arguments = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each) if runs else each[0]

    def of(how, table):
        one = lambda *one: value_and_grads(config, one, tokens, weights, dtype, how, mask, table)  # noqa: E731
        return (jax.vmap(one) if runs else one)(*arguments)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)) if kinds.get("devices") == 2 else None
    with compiled_for(Target("cpu", mesh=mesh)):
        by_kernel = of("kernel", kinds.get("table", False))
    return by_kernel, of("scan", False)


def bfloat16_is_within_the_scans_noise(family):
    """The kernel against the scan, both in bfloat16."""
    (got, grads), (want, want_grads) = both(family, 9, 4, 16, "bfloat16")
    np.testing.assert_allclose(got, want, rtol=1e-2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.abs(b).max())), grads, want_grads)
