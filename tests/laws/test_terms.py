"""Derivatives that are written out are those of the equations."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import logsumexp

from seqjax.laws.terms import repeated, sum_of


def plain_sum(*terms: jax.Array) -> jax.Array:
    return logsumexp(jnp.stack(terms), axis=0)


def plain_repeated(log_ratio: jax.Array, log_worth: jax.Array) -> jax.Array:
    worth = jnp.exp(log_worth)
    return jnp.log1p(worth * (1 - jnp.exp(-(jnp.exp(log_ratio) - 1) / worth)))


@pytest.mark.parametrize(("ours", "plain"), [(sum_of, plain_sum), (repeated, plain_repeated)])
def test_first_and_second_derivatives(ours: Callable, plain: Callable) -> None:
    """At common values; the second number of a pair is also far above and below the first."""
    with jax.enable_x64(True):
        for at in (jnp.array([0.7, 1.3]), jnp.array([2.0, -0.5]), jnp.array([4.1, 2.7])):
            for derivative in (jax.grad, jax.hessian):
                found, wanted = (derivative(lambda x, f=f: f(x[0], x[1]))(at) for f in (ours, plain))
                np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_many_epochs_of_little_worth_stay_finite() -> None:
    """1,000 epochs at R* = 0.05: exp(q) alone would overflow; y is log(1 + R*)."""
    with jax.enable_x64(True):
        y, slope = jax.value_and_grad(repeated, argnums=1)(jnp.log(1000.0), jnp.log(0.05))
    np.testing.assert_allclose([y, slope], [np.log1p(0.05), 0.05 / 1.05], rtol=1e-12)
