"""The three approaches to the best split of compute, on surfaces whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from quick import quick

from seqjax.errors import UserError
from seqjax.laws import LAWS, envelope, fit, isoflops, make_points
from seqjax.laws.frontier import _budgets
from seqjax.laws.points import Points

TRUTH = {"E": 1.8, "A": 400.0, "B": 400.0, "alpha": 0.34, "beta": 0.34}  # alike, so that a parabola is not biased
LAW = LAWS["chinchilla"]


def loss_of(params: np.ndarray, tokens: np.ndarray, truth: dict[str, float] | None = None) -> np.ndarray:
    shape = np.broadcast_shapes(np.shape(params), np.shape(tokens))
    n, d = (np.broadcast_to(x, shape).ravel() for x in (params, tokens))
    return LAW.loss(LAW.theta_P(truth or TRUTH), {"params": n, "tokens": d}).reshape(shape)


def grid(noise: float = 0.0, seed: int = 0, span: float = 3.0, shift: float = 1.0) -> Points:
    flops = np.repeat(10.0 ** np.arange(17, 22), 9)
    best = np.sqrt(flops / 6)
    params = best * np.tile(np.geomspace(1 / span, span, 9), 5) * shift
    loss = loss_of(params, flops / 6 / params)
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return make_points(loss, params=params, flops=flops)


def test_isoflop_minima_lie_on_the_law() -> None:
    found = isoflops(grid())
    np.testing.assert_allclose(found.params.exponent, 0.5, atol=1e-3)
    np.testing.assert_allclose(found.akima_exponent, 0.5, atol=1e-2)
    np.testing.assert_allclose(found.params.y, np.sqrt(found.params.x / 6), rtol=0.01)
    np.testing.assert_allclose(found.params.exponent + found.tokens.exponent, 1.0)
    assert found.flags == () and all(not p.problem for p in found.profiles)


@pytest.mark.slow
def test_isoflop_intervals_cover_the_truth() -> None:
    covered = [low <= 0.5 <= high for low, high in (isoflops(grid(3e-3, s), 100).params.interval for s in range(100))]
    assert 0.90 <= np.mean(covered) <= 1.0


def test_tokens_are_those_of_the_runs_however_compute_is_counted() -> None:
    """C twice 6 N D, with attention say: D / N at the optimum is still that of the runs."""
    points = grid()
    exact = make_points(points.loss, params=points.variables["params"], tokens=points.variables["tokens"],
                        flops=2 * points.variables["flops"])  # fmt: skip
    one, other = isoflops(points), isoflops(exact)
    np.testing.assert_allclose([p.best_tokens for p in one.profiles], [p.best_tokens for p in other.profiles])
    np.testing.assert_allclose([p.best_tokens / p.best_params for p in one.profiles], 1.0, rtol=0.02)


def test_budgets_do_not_chain() -> None:
    """Runs each 5 % dearer than the last are no single budget."""
    flops = 1e18 * 1.05 ** np.arange(30)
    labels = _budgets(flops)
    for label in np.unique(labels):
        assert np.ptp(np.log(flops[labels == label])) <= 0.1 + 1e-9
    assert len(np.unique(labels)) >= 10


def test_an_optimum_beyond_the_sizes_is_flagged() -> None:
    """Sizes all above the best: there is no minimum, and none is made up."""
    with pytest.raises(UserError, match="needs at least two budgets with a minimum"):
        isoflops(grid(shift=30.0))
    points = grid()
    params = points.variables["params"].copy()
    loss = points.loss.copy()
    lowest = points.variables["flops"] < 5e17
    params[lowest] *= 30
    loss[lowest] = loss_of(params[lowest], points.variables["flops"][lowest] / 6 / params[lowest])
    found = isoflops(make_points(loss, params=params, flops=points.variables["flops"]))
    assert len(found.flags) == 1 and "smallest size" in found.flags[0]
    np.testing.assert_allclose(found.params.exponent, 0.5, atol=1e-2)


def test_a_best_run_at_the_edge_is_flagged_even_where_the_parabola_turns_inside() -> None:
    points = grid()
    loss = points.loss.copy()
    lowest = np.flatnonzero(points.variables["flops"] < 5e17)
    loss[lowest[np.argmin(points.variables["params"][lowest])]] = loss[lowest].min() - 0.01
    found = isoflops(make_points(loss, **points.variables))
    assert found.profiles[0].problem == "the smallest size is the best: the optimum is at the edge"
    assert len([p for p in found.profiles if not p.problem]) == 4


def test_a_profile_that_bends_the_other_way_is_refused() -> None:
    points = grid()
    upside_down = make_points(10 - points.loss, **{k: points.variables[k] for k in ("params", "flops")})
    with pytest.raises(UserError, match="bends the other way"):
        isoflops(upside_down)


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
