"""The diagonal linear recurrence: every way against a plain scan that JAX differentiates, in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quick import slow

from seqjax.layers.activations import bounded_sqrt
from seqjax.layers.convolution import convolve
from seqjax.layers.target import Target, compiled_for
from seqjax.through_time.linear import linear_scan

RUNS, T, B, R = 2, 11, 2, 3
WAYS = ["auto", "sequential", "associative", "blocked"]


def plain(a_TxBxR, b_TxBxR, h_BxR, mask_TxB):
    """The recurrence as it is written."""

    def step(h, inputs):
        a, b, mask = inputs
        h = jnp.where(mask[:, None], a * h + b, h)
        return h, h

    return lax.scan(step, h_BxR, (a_TxBxR, b_TxBxR, mask_TxB))[1]


def example(times=T):
    """Factors in (0, 1), terms, first states and weights of the outputs for every run; a mask for all."""
    rng = np.random.default_rng(0)
    a, b, w = rng.uniform(0.02, 0.98, (RUNS, times, B, R)), *rng.standard_normal((2, RUNS, times, B, R))
    return (a, b, rng.standard_normal((RUNS, B, R))), rng.random((times, B)) < 0.7, w


def over_runs(scan, mask, arguments, weights):
    """Of every run: a value, its gradients by a, b and h_0, and the gradient of their squares by a."""

    def value(w, *arguments):
        return (w * jnp.sin(scan(*arguments))).sum()

    def squares(a, w, *others):
        return sum(jnp.square(d).sum() for d in jax.grad(value, (1, 2, 3))(w, a, *others))

    def of_run(w, *arguments):
        return *jax.value_and_grad(value, (1, 2, 3))(w, *arguments), jax.grad(squares)(arguments[0], w, *arguments[1:])

    with jax.enable_x64(True):
        return jax.jit(jax.vmap(of_run))(*map(jnp.asarray, (weights, *arguments)))


@pytest.mark.parametrize(
    ("way", "times"), [("auto", T), slow("sequential", T), ("associative", T), ("blocked", T), slow("blocked", 1)]
)
def test_values_and_gradients_are_those_of_a_plain_scan(way, times):
    """Over runs, with a mask and a state carried in; second derivatives too."""
    arguments, mask, weights = example(times)
    mask = jnp.asarray(mask)
    want = over_runs(partial(plain, mask_TxB=mask), mask, arguments, weights)
    got = over_runs(partial(linear_scan, way=way, mask_TxB=mask), mask, arguments, weights)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-12), got, want)


def test_on_a_cpu_auto_is_sequential():
    """Bit for bit, in float32; elsewhere it is blocked."""
    (a, b, h), _, _ = example()
    arguments = [jnp.asarray(x[0], jnp.float32) for x in (a, b, h)]
    auto, *ways = (jax.jit(partial(linear_scan, way=way)) for way in ("auto", "sequential", "blocked"))
    for platform, way in zip(("cpu", "cuda"), ways, strict=True):
        with compiled_for(Target(platform)):
            np.testing.assert_array_equal(auto(*arguments), way(*arguments))
    assert np.any(np.asarray(ways[0](*arguments)) != np.asarray(ways[1](*arguments)))


def test_a_convolution_by_loops_in_pieces_and_with_padding():
    """One call, calls of 2 and 3 elements, and a padded row whose state is that of its last elements."""
    rng = np.random.default_rng(0)
    kernel, bias, x = rng.standard_normal((4, R)), rng.standard_normal(R), rng.standard_normal((B, 5, R))
    params = {"kernel": jnp.asarray(kernel, jnp.float32), "b": jnp.asarray(bias, jnp.float32)}
    want = np.array([[sum(kernel[3 - j] * row[t - j] for j in range(min(t, 3) + 1)) + bias for t in range(5)]
                     for row in x])  # fmt: skip
    run, start = jax.jit(convolve), jnp.zeros((B, 3, R))
    whole, last = run(params, jnp.asarray(x, jnp.float32), start)
    np.testing.assert_allclose(whole, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, x[:, -3:], rtol=1e-6)
    first, middle = run(params, jnp.asarray(x[:, :2], jnp.float32), start)
    second, end = run(params, jnp.asarray(x[:, 2:], jnp.float32), middle)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(end, last)
    mask = jnp.arange(5)[None] < jnp.array([2, 5])[:, None]
    padded, ends = run(params, jnp.asarray(x, jnp.float32), start, mask)
    np.testing.assert_allclose(padded[0, :2], want[0, :2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ends, jnp.stack([middle[0], last[1]]))


def test_the_square_root_has_a_slope_of_at_most_1000():
    slope = jax.grad(bounded_sqrt)
    assert float(slope(4.0)) == 0.25
    assert float(slope(0.0)) == 1000.0
