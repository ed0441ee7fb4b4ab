"""IsoFLOP minima on surfaces whose answer is known: windows, noise of each budget, edges, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest
from balanced_law import loss_of

from seqjax.errors import UserError
from seqjax.laws import isoflops, make_points
from seqjax.laws.isoflop import _budgets
from seqjax.laws.points import Points
from seqjax.laws.weighing import noise_sizes, power_law


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
    assert len(found.flags) == 1 and "smallest size, N = 1.29 G, has the lowest loss" in found.flags[0]
    np.testing.assert_allclose(found.params.exponent, 0.5, atol=1e-2)


def test_a_best_run_at_the_edge_is_flagged_even_where_the_parabola_turns_inside() -> None:
    points = grid()
    loss = points.loss.copy()
    lowest = np.flatnonzero(points.variables["flops"] < 5e17)
    loss[lowest[np.argmin(points.variables["params"][lowest])]] = loss[lowest].min() - 0.01
    found = isoflops(make_points(loss, **points.variables))
    edge = "the smallest size, N = 43 M, has the lowest loss: the optimum may lie beyond it"
    assert found.profiles[0].problem == edge and np.isnan(found.profiles[0].akima_params)
    assert len([p for p in found.profiles if not p.problem]) == 4


def test_a_profile_that_bends_the_other_way_is_refused() -> None:
    """The lowest loss is at an end then, and that is what is said."""
    points = grid()
    upside_down = make_points(10 - points.loss, **{k: points.variables[k] for k in ("params", "flops")})
    edge = r"size, N = [^,]*, has the lowest loss: the optimum may lie beyond it"
    with pytest.raises(UserError, match=f"({edge}.*){{2}}; and 3 more without one$"):  # two of the five in words
        isoflops(upside_down)


def curves(offsets: np.ndarray, loss: np.ndarray, budgets: int = 4, step: float = 10.0) -> Points:
    """The same profile at every budget: sizes e^offset around sqrt(C / 6), losses less 0.1 a budget."""
    flops = np.repeat(1e17 * step ** np.arange(budgets), len(offsets))
    losses = np.concatenate([loss - 0.1 * b for b in range(budgets)])
    return make_points(losses, params=np.sqrt(flops / 6) * np.exp(np.tile(offsets, budgets)), flops=flops)


def test_a_spline_has_a_minimum_where_the_parabola_has_none_and_the_reason_is_true() -> None:
    """The second size is the best of five; the parabola through all turns before the first."""
    loss = np.array([3.00, 2.90, 3.30, 3.60, 3.85])
    points = curves(np.log(2.0) * np.arange(-2, 3), loss)
    others = curves(np.log(2.0) * np.arange(-2, 3), 2.5 + 0.1 * np.arange(-2, 3) ** 2, budgets=2, step=100.0)
    both = make_points(
        np.concatenate([points.loss, others.loss]),
        params=np.concatenate([points.variables["params"], others.variables["params"]]),
        flops=np.concatenate([points.variables["flops"], 1.3 * others.variables["flops"]]),
    )
    found = isoflops(both, bootstrap=100)
    first = found.profiles[0]
    assert first.problem.startswith("the lowest loss is at N = 64.5 M, but the parabola through N = 32.3 M to")
    assert first.problem.endswith("has its minimum outside of these sizes") and np.isnan(first.best_params)
    assert first.params[0] < first.akima_params < first.params[2]
    assert found.akima is not None and len(found.akima.x) == 6 and len(found.params.x) == 2


def test_on_wide_grids_the_parabola_sees_the_window_only() -> None:
    """Sizes 2 apart over a factor 256: the loss rises steeply on one side, where no parabola is near it."""
    offsets = np.log(2.0) * np.arange(-4, 5)
    loss = 2.0 + 0.3 * np.exp(-1.5 * offsets) + 0.9 * np.exp(0.5 * offsets)
    # 1.5 x 0.3 = 0.5 x 0.9: the minimum is at offset 0
    near, all_sizes = (isoflops(curves(offsets, loss), 0, window=w) for w in (4.0, 1e9))
    away = [np.log(f.params.y / np.sqrt(f.params.x / 6)) for f in (near, all_sizes)]
    assert near.profiles[0].window.tolist() == [False, False, *[True] * 5, False, False]
    assert np.abs(away[0]).max() < 0.3 < 0.6 < np.abs(away[1]).min()


def test_a_window_has_four_sizes_at_least_and_narrow_grids_are_taken_whole() -> None:
    wide = isoflops(curves(np.log(8.0) * np.arange(-3, 3), 2 + 0.02 * np.arange(-3, 3) ** 2), 0)
    assert wide.profiles[0].window.sum() == 4
    assert not any("so there is no interval" in flag for flag in wide.flags)  # none was asked for
    three = isoflops(curves(np.log(2.0) * np.arange(-1, 2), np.array([2.1, 2.0, 2.1])), 100)
    assert np.isnan(three.params.interval).all() and "so there is no interval" in three.flags[-1]
    off_center = np.log(2.0) * np.arange(-1, 4)  # a factor 16 in all
    assert isoflops(curves(off_center, 2 + 0.02 * off_center**2), 0).profiles[0].window.all()


def test_no_refit_is_dropped_where_one_budget_is_flat() -> None:
    """One budget of five says nothing of its minimum: it weighs little, and the interval is around the estimate."""
    points = grid(1e-3, 1)
    flat = points.variables["flops"] < 5e17
    loss = points.loss.copy()
    loss[flat] = 3.0 + 0.02 * np.array([3, -1, 2, -2, -3, 1, -2, 2, 0.0])
    found = isoflops(make_points(loss, params=points.variables["params"], flops=points.variables["flops"]), 400)
    assert not found.profiles[0].problem and found.params.errors is not None
    assert found.params.errors[0] > 5 * found.params.errors[1:].max()
    low, high = found.params.interval
    assert low < 0.5 < high < low + 0.06
    assert abs(found.params.exponent - 0.5) < abs(found.unweighted - 0.5)
    assert any(
        "at 1 of 5 budgets refits have no minimum within the sizes, most at 1e17" in flag for flag in found.flags
    )


def test_noise_of_budgets_that_differ_is_not_pooled_and_of_those_alike_it_is() -> None:
    rng = np.random.default_rng(0)
    left = np.full(6, 6)
    alike, _ = noise_sizes(rng.chisquare(6, 6), left)
    assert alike.max() / alike.min() < 1.5
    scales = np.array([1.0, 1.0, 1.0, 30.0, 30.0, 30.0])
    apart, known = noise_sizes(scales**2 * rng.chisquare(6, 6), left)
    assert (0.4 < apart / scales).all() and (apart / scales < 2.2).all() and (known < 12).all()
    assert np.isnan(noise_sizes(np.zeros(2), np.zeros(2, int))[0]).all()


def test_values_are_weighed_by_their_uncertainty_and_scatter_beyond_it_joins() -> None:
    rng = np.random.default_rng(0)
    x = 10.0 ** np.arange(5)
    errors = np.array([0.01, 0.01, 0.01, 0.01, 0.5])
    y = x**0.5 * np.exp(np.array([0, 0, 0, 0, 0.6]))
    found = power_law(x, y, np.log(y) + errors * rng.standard_normal((2000, 5)), rng)
    assert abs(found.exponent - 0.5) < 0.002
    np.testing.assert_allclose(found.errors, errors, rtol=0.1)
    scattered = y * np.exp(np.array([0.1, -0.1, -0.1, 0.1, 0.0]))
    wider = power_law(x, scattered, np.log(scattered) + errors * rng.standard_normal((2000, 5)), rng)
    assert np.ptp(wider.interval) > 4 * np.ptp(found.interval)


def test_the_seeds_of_a_size_count_once() -> None:
    points = grid(1e-3, 2)
    twice = make_points(
        np.concatenate([points.loss * 1.001, points.loss * 0.999]),
        cluster=np.arange(2 * len(points)),
        **{name: np.tile(points.variables[name], 2) for name in ("params", "flops")},
    )
    one, two = isoflops(points, 0), isoflops(twice, 0)
    assert len(two.profiles[0].params) == 9
    np.testing.assert_allclose(one.params.y, two.params.y)


def test_splines_and_tokens_have_intervals_too() -> None:
    found = isoflops(grid(3e-3, 3), 200)
    assert found.akima is not None
    for law, truth in ((found.akima, 0.5), (found.tokens, 0.5)):
        low, high = law.interval
        assert low < law.exponent < high and low < truth < high
    assert np.ptp(found.akima.interval) > np.ptp(found.params.interval)
