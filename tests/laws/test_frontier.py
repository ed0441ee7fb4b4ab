"""Approaches 1 and 3 to the best split of compute, on surfaces whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from balanced_law import loss_of
from quick import quick

from seqjax.errors import UserError
from seqjax.laws import LAWS, envelope, fit, make_points


def test_the_envelope_of_training_curves() -> None:
    """Curves whose loss at D tokens is the law's: the sizes on the envelope grow as C^0.5."""
    curves = {}
    for size in np.geomspace(1e6, 1e10, 41):
        flops = np.geomspace(6 * size * size * 0.3, 6 * size * size * 3000, 60)
        curves[size] = (flops, loss_of(size, flops / 6 / size))
    found = envelope(curves, bootstrap=200)
    np.testing.assert_allclose(found.exponent, 0.5, atol=0.02)
    assert found.interval[0] < 0.5 < found.interval[1]
    with pytest.raises(UserError, match="at least three sizes"):
        envelope(dict(list(curves.items())[:2]))


def test_an_envelope_of_few_sizes_has_no_interval() -> None:
    """Of four sizes nine draws in ten have no two inner ones, and all the others are the four."""
    curves = {}
    for size in np.geomspace(1e6, 1e10, 4):
        tokens = np.geomspace(1e6, 1e12, 60)
        curves[size] = (6 * size * tokens, loss_of(size, tokens))
    found = envelope(curves, bootstrap=200)
    assert 0.2 < found.exponent < 0.8 and np.isnan(found.interval).all()


@pytest.mark.parametrize("name", quick(["chinchilla", "chinchilla-outer", "kaplan-nd", "over-training"], "chinchilla"))
def test_the_best_split_is_lower_than_its_neighbours(name: str) -> None:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e10, 8), np.geomspace(1e8, 1e12, 8)))
    starts = LAWS[name].starts_SxP()[::23]
    found = fit(make_points(loss_of(n, d), params=n, tokens=d), name, bootstrap=40, diagnose=False, starts_SxP=starts)
    best = found.optimal(1e20)
    for factor in (0.9, 1.1):
        beside = found.predict(params=best.params * factor, tokens=best.tokens / factor)
        assert beside.loss[0] > best.loss[0]
    np.testing.assert_allclose(found.predict(params=best.params, tokens=best.tokens).loss, best.loss)


def test_laws_of_something_else_have_no_split() -> None:
    points = make_points(np.linspace(4, 2, 10), params=np.geomspace(1e5, 1e8, 10))
    with pytest.raises(UserError, match="no law of N and D"):
        fit(points, "kaplan-n", bootstrap=0).optimal(1e20)
