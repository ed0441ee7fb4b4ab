"""Losses at equal compute, interpolated between the runs of a grid."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.laws import isoflops, make_points
from seqjax.laws.equal_compute import at_equal_compute
from seqjax.laws.points import Points

ALPHA, BETA = 0.5, 0.4


def loss_of(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return 1.2 + 30 / n**ALPHA + 80 / d**BETA


def grid(lengths: int = 5) -> Points:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(3e3, 9e4, 6), np.geomspace(2.5e5, 4e6, lengths)))
    return make_points(loss_of(n, d), params=n, tokens=d, flops=6 * n * d)


def test_losses_at_equal_compute_are_those_of_the_law_and_only_within_the_runs() -> None:
    found = at_equal_compute(grid(), (3e10, 1e11, 3e11))
    n, d, c = (found.variables[name] for name in ("params", "tokens", "flops"))
    np.testing.assert_allclose(6 * n * d, c)
    np.testing.assert_allclose(found.loss, loss_of(n, d), rtol=2e-3)
    assert d.min() >= 2.5e5 and d.max() <= 4e6 and set(c) == {3e10, 1e11, 3e11} and len(found) < 18


def test_the_exponent_of_a_law_is_found_from_its_grid() -> None:
    found = isoflops(at_equal_compute(grid(), (5e10, 1e11, 2e11, 4e11)), bootstrap=40)
    assert found.params.exponent == pytest.approx(BETA / (ALPHA + BETA), abs=0.03)


def test_seeds_count_once_and_two_lengths_are_too_few() -> None:
    one = at_equal_compute(grid(), (1e11,))
    n, d = (np.repeat(grid().variables[name], 2) for name in ("params", "tokens"))
    twice = make_points(np.repeat(grid().loss, 2) * np.tile([0.99, 1.01], 30), params=n, tokens=d, flops=6 * n * d)
    np.testing.assert_allclose(at_equal_compute(twice, (1e11,)).loss, one.loss)
    with pytest.raises(UserError, match="no size has 3 lengths around any of the budgets 1e\\+11"):
        at_equal_compute(grid(2), (1e11,))
