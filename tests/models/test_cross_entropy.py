"""The loss in chunks against optax on whole logits: values, all gradients, and that the logits are never whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import slow

from seqjax.layers import cross_entropy
from seqjax.layers.cross_entropy import mean_cross_entropy, token_cross_entropy, weighted_cross_entropy
from seqjax.layers.readout import unembed

B, T, D, V = 3, 7, 5, 11


def example(tied, bias, dtype="float64"):
    rng = np.random.default_rng(0)
    params = {"embedding": rng.standard_normal((V, D))} if tied else {"readout": rng.standard_normal((D, V))}
    if bias:
        params["readout_bias"] = rng.standard_normal(V)
    params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, 3 * rng.standard_normal((B, T, D))))
    return params, x, jnp.asarray(rng.integers(0, V, (B, T)))


def whole(x, params, dtype, targets):
    return optax.softmax_cross_entropy_with_integer_labels(unembed(x, params, dtype), targets)


@pytest.mark.parametrize("most", [1, 4 * V, slow(10 * V), slow(2**20)])
@pytest.mark.parametrize("tied, bias", [(False, True), (False, False), (True, True)])
def test_values_and_gradients(monkeypatch, most, tied, bias):
    """One token to a chunk, chunks that do not divide the tokens, one chunk; the loss times a factor."""
    monkeypatch.setattr(cross_entropy, "CPU_LOGITS", most)
    with jax.enable_x64(True):
        params, x, targets = example(tied, bias)
        of = lambda loss: jax.jit(jax.value_and_grad(  # noqa: E731
            lambda x, params: 1.7 * loss(x, params, "float64", targets).mean(), argnums=(0, 1)))(x, params)  # fmt: skip
        want = of(whole)
        for loss in (mean_cross_entropy, token_cross_entropy):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), of(loss), want)
        got, want = (jax.jit(f, static_argnums=2)(x, params, "float64", targets) for f in (token_cross_entropy, whole))
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_narrow_dtypes(dtype, tolerance):
    params, x, targets = example(False, True, "float32")
    of = lambda loss, dtype: jax.jit(jax.value_and_grad(  # noqa: E731
        lambda x, params: loss(x, params, dtype, targets).mean(), argnums=(0, 1)))(x, params)  # fmt: skip
    want, got = of(whole, "float32"), of(mean_cross_entropy, dtype)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))


def test_large_logits_stay_finite():
    params, x, targets = example(False, True, "float32")
    loss, grads = jax.value_and_grad(lambda x: mean_cross_entropy(1e4 * x, params, "float32", targets))(x)
    assert np.isfinite(loss) and np.isfinite(grads).all()


def test_vmapped_runs_are_each_run_alone(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_LOGITS", 4 * V)
    params, x, targets = example(False, True, "float32")
    run = jax.jit(lambda scale: jax.value_and_grad(
        lambda x: mean_cross_entropy(x * scale, params, "float32", targets))(x))  # fmt: skip
    together = jax.jit(jax.vmap(run))(jnp.array([0.5, 2.0]))
    for i, scale in enumerate((0.5, 2.0)):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-8), together, run(scale))


@pytest.mark.parametrize("gradient", [False, True])
def test_no_array_of_all_logits(monkeypatch, gradient):
    """Nothing in the program is as large as tokens x vocabulary."""
    monkeypatch.setattr(cross_entropy, "CPU_LOGITS", 2 * V)
    params, x, targets = example(False, True, "float32")
    loss = lambda x, params: mean_cross_entropy(x, params, "float32", targets)  # noqa: E731
    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)) if gradient else loss)(x, params)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    assert max(sizes(program.jaxpr)) < B * T * V


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_smoothed_and_weighted(smoothing):
    """Against optax's cross-entropy with targets that are spread; a weight of zero leaves a token out."""

    def wanted(x, params):
        labels = optax.smooth_labels(jax.nn.one_hot(targets, V, dtype=x.dtype), smoothing)
        return (weights * optax.softmax_cross_entropy(unembed(x, params, "float64"), labels)).sum()

    with jax.enable_x64(True):
        params, x, targets = example(True, True)
        weights = jnp.arange(float(B * T)).reshape(B, T)
        found = lambda x, params: weighted_cross_entropy(x, params, "float64", targets, weights, smoothing)  # noqa: E731
        of = lambda loss: jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, params)  # noqa: E731
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), of(found), of(wanted))
