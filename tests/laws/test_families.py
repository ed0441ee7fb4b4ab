"""Ratios at matched loss and crossings of two families whose laws are known."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.laws import LAWS, Fit, fit, make_points
from seqjax.laws.ratios import _sure, crossing, frontier, matched_ratio
from seqjax.plots.fits import draw_ratio

FEW = LAWS["offset-n"].starts_SxP()[::7]


def power(scale: float, alpha: float, noise: float = 2e-3, seed: int = 0, low: float = 1e4, high: float = 1e8) -> Fit:
    params = np.geomspace(low, high, 25)
    loss = (scale / params) ** alpha * np.exp(noise * np.random.default_rng(seed).standard_normal(25))
    return fit(make_points(loss, params=params), "kaplan-n", bootstrap=300, diagnose=False)


def test_a_constant_factor_is_found() -> None:
    """The same exponent, N_c three times as large: three times the parameters at every loss."""
    found = matched_ratio(power(3e13, 0.08, seed=1), power(1e13, 0.08, seed=2))
    assert found.within.all()
    np.testing.assert_allclose(found.ratio, 3.0, rtol=0.05)
    assert (found.low < 3.0).all() and (found.high > 3.0).all() and (found.high / found.low < 1.3).all()


def test_a_loss_that_one_never_reaches_has_no_ratio() -> None:
    params = np.geomspace(1e4, 1e8, 25)
    floor = fit(
        make_points(2.5 + 30 * params**-0.3, params=params), "offset-n", bootstrap=50, diagnose=False, starts_SxP=FEW
    )
    found = matched_ratio(power(1e13, 0.08, 0.0), floor, np.array([2.4]))
    assert np.isnan(found.ratio[0]) and not found.within[0]


def test_floors_that_are_flat_far_out_hide_no_ratio() -> None:
    """At 1e6 times the data 2 + A / N^1.5 is 2 to the last digit: it falls all the same."""
    params = np.geomspace(1e3, 1e6, 7)

    def floor(scale: float, seed: int) -> Fit:
        loss = (2 + scale * (params / 1e3) ** -1.5) * np.exp(2e-3 * np.random.default_rng(seed).standard_normal(7))
        return fit(make_points(loss, params=params), "offset-n", bootstrap=100, diagnose=False)

    found = matched_ratio(floor(0.5, 1), floor(0.7, 2), [2.1, 2.2])
    assert (found.low < found.ratio).all() and (found.ratio < found.high).all() and (found.high < 2).all()
    np.testing.assert_allclose(found.ratio, (0.5 / 0.7) ** (1 / 1.5), rtol=0.2)


def test_a_ratio_that_is_reached_nowhere_is_not_drawn() -> None:
    found = matched_ratio(power(1e13, 0.08), power(1e13, 0.08, seed=1), [1e-3])
    assert np.isnan(found.ratio).all()
    with pytest.raises(UserError, match="no ratio can be drawn"):
        draw_ratio(found, ("a", "b"))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1e5, 1e6, " (95 %: 100 k to 1 M)"), (0.0, 1e6, " (95 %: below 1 M)"), (1e5, np.inf, " (95 %: above 100 k)"),
     (0.0, np.inf, " (95 %: anywhere)"), (np.nan, np.nan, ""), (np.inf, np.inf, ""), (0.0, 0.0, "")],
)  # fmt: skip
def test_an_interval_without_a_crossing_has_no_words(low: float, high: float, words: str) -> None:
    assert _sure("params", low, high) == words


def test_a_crossing_in_the_data_is_found() -> None:
    """(1e13 / N)^0.08 = (10^11.6 / N)^0.10 = 10^0.56 at N = 1e6."""
    expected = 1e6
    found = crossing(power(1e13, 0.08, seed=3), power(10**11.6, 0.10, seed=4), ("lstm", "transformer"))
    assert found.x is not None and found.low < expected < found.high and found.low < found.x < found.high
    assert not found.beyond and found.crossing == 1.0
    assert "beyond which transformer is better" in found.verdict


def test_refits_that_do_not_cross_open_the_interval() -> None:
    """Exponents that differ by little: where refits do not cross, or cross the other way, an end is 0 or infinite."""
    near = [power(1e13 * factor, 0.08 + more, 5e-3, seed) for seed, factor, more in ((1, 1.0, 0.0), (2, 0.96, 5e-4))]
    found = crossing(near[0], near[1], ("lstm", "transformer"))
    assert found.x is not None and 0.1 < found.crossing < 0.975
    assert found.low == 0 or np.isinf(found.high)
    assert "of the refits cross at all" in found.verdict
    assert any(words in found.verdict for words in ("(95 %: below", "(95 %: above", "(95 %: anywhere)"))


@pytest.mark.slow
def test_crossings_are_covered() -> None:
    expected = 1e6
    hits = []
    for seed in range(60):
        found = crossing(power(1e13, 0.08, 5e-3, 2 * seed), power(10**11.6, 0.10, 5e-3, 2 * seed + 1))
        hits.append(found.low <= expected <= found.high)
    assert 0.88 <= np.mean(hits) <= 1.0


def test_a_crossing_outside_of_the_data_is_flagged() -> None:
    found = crossing(power(1e13, 0.08, 1e-4, 5, high=1e5), power(10**11.6, 0.10, 1e-4, 6, high=1e5))
    assert found.x is not None and found.beyond and "extrapolated" in found.verdict


def test_laws_that_do_not_cross_are_reported_so() -> None:
    found = crossing(power(3e13, 0.08, 1e-4, 7), power(1e13, 0.08, 0.0, 8), ("lstm", "transformer"))
    if found.x is not None:  # exponents that differ by noise cross somewhere, far away
        assert found.beyond
    a = fit(
        make_points(3 + 9 * (x := np.geomspace(1e4, 1e8, 25)) ** -0.2, params=x),
        "offset-n",
        bootstrap=50,
        diagnose=False,
        starts_SxP=FEW,
    )
    b = fit(make_points(2 + 9 * x**-0.2, params=x), "offset-n", bootstrap=50, diagnose=False, starts_SxP=FEW)
    apart = crossing(a, b, ("lstm", "transformer"))
    assert apart.x is None and apart.verdict == "no crossing found: transformer has the lower loss"


@pytest.mark.slow
def test_laws_of_two_variables_cannot_be_compared() -> None:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e8, 4), np.geomspace(1e8, 1e10, 4)))
    both = fit(make_points(2 + 400 / n**0.3, params=n, tokens=d), "chinchilla", bootstrap=0, diagnose=False)
    with pytest.raises(UserError, match="cannot be compared"):
        crossing(both, both)


def test_the_frontier_is_what_no_cheaper_run_beats() -> None:
    points = make_points([4.0, 3.5, 3.7, 3.0, 3.2], params=np.ones(5), flops=[1.0, 2.0, 3.0, 4.0, 5.0])
    on_it = frontier(points)
    assert on_it.loss.tolist() == [4.0, 3.5, 3.0] and len(on_it.left_out) == 2
