"""Norms and activations in C++ against those of JAX: values and gradients, any width, one run or several."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.layers.native.rows import activate, branch
from seqjax.layers.norms import normalize

pytestmark = pytest.mark.usefixtures("needs_compiled")


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def agree(compiled, plain, *operands):
    """Values and gradients of a weighted sum of both functions' outputs."""

    def found(f):
        def loss(*operands):
            leaves = jax.tree.leaves(f(*operands))
            return sum((leaf * draw(i, *leaf.shape)).sum() for i, leaf in enumerate(leaves)), leaves

        return jax.jit(jax.value_and_grad(loss, argnums=range(len(operands)), has_aux=True))(*operands)

    ((_, values), grads), ((_, want_values), want_grads) = found(compiled), found(plain)
    for got, want in zip([*values, *grads], [*want_values, *want_grads], strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1.0, np.abs(want).max(initial=0.0)))


def activated(kind, u, bias):
    u = u + bias if bias.size else u
    if kind == "gelu":
        return jax.nn.gelu(u)
    gate, a = jnp.split(u, 2, axis=-1)
    return jax.nn.silu(gate) * a


@pytest.mark.parametrize("kind, width, biased", [("gelu", 22, True), ("swiglu", 44, True), ("swiglu", 32, False)])
def test_activations(kind, width, biased):
    """70 rows are two blocks; some arguments are far out."""
    u, bias = 4 * draw(0, 2, 35, width), draw(1, width if biased else 0)
    u = u.at[0, 0, :4].set(jnp.array([-200.0, 200.0, -30.0, 30.0]))
    agree(lambda *x: activate(kind, *x), lambda *x: activated(kind, *x), u, bias)


@pytest.mark.parametrize("kind, biased", [("layernorm", True), ("layernorm", False), ("rmsnorm", False)])
@pytest.mark.parametrize("width", [16, 21])
def test_norms(kind, biased, width):
    """One row is so small that epsilon decides."""
    x, gain, bias = 2 + draw(0, 2, 35, width), draw(1, width), draw(2, width if biased else 0)
    x = x.at[0, 0].multiply(3e-3)

    def plain(x, gain, bias):
        return x, normalize(kind, {"gain": gain} | ({"bias": bias} if biased else {}), x)

    agree(lambda *operands: branch(kind, *operands), plain, x, gain, bias)


def test_vmapped_runs_are_each_run_alone():
    operands = draw(0, 3, 2, 35, 12), draw(1, 3, 12), draw(2, 3, 12)

    def run(x, gain, bias):
        loss = lambda *p: jnp.square(activate("swiglu", branch("layernorm", *p)[1], p[2])).sum()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1, 2))(x, gain, bias)

    together = jax.jit(jax.vmap(run))(*operands)
    for i in range(3):
        alone = jax.jit(run)(*(x[i] for x in operands))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5), together, alone)
