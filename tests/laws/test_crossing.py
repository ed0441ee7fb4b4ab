"""Surfaces of few runs and where they cross: known crossings, none, beyond the data, one size, no seeds, coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.laws.crossing import Place, cost_of, crossings, direct, disagree, gaps, place_of
from seqjax.laws.noise import students_factor
from seqjax.laws.points import Points, make_points
from seqjax.laws.surfaces import Surface, fit_surface, sizes_of

Truth = tuple[float, float, float, float, float]
EARLY: Truth = (2.0, 12.0, 35.0, 0.30, 0.28)  # good with few tokens
LATE: Truth = (1.75, 12.0, 260.0, 0.30, 0.40)  # and this with many: they cross at D = 1.318 M, whatever N
CROSSING = 1_317_973.0
SIZES, TOKENS = (5e4, 1e5), (5e5, 1e6, 2e6, 4e6, 8e6)
NAMES = ("early", "late")


def runs(
    truth: Truth, rng: np.random.Generator, sizes: tuple[float, ...] = SIZES, tokens: tuple[float, ...] = TOKENS,
    seeds: int = 3, trunk: float = 3e-3, own: float = 1e-3,
) -> Points:  # fmt: skip
    """Runs at each size and D, with noise in log L that branches of a trunk share and noise of their own."""
    e, a, b, alpha, beta = truth
    rows = []
    for n in sizes:
        for seed in range(seeds):
            shared = trunk * rng.standard_normal()
            for d in tokens:
                loss = e + a / n**alpha + b / d**beta
                rows.append((n, d, f"{n} {seed}" if trunk else f"{n} {seed} {d}",
                             loss * np.exp(shared + own * rng.standard_normal())))  # fmt: skip
    params, at, cluster, loss = zip(*rows, strict=True)
    return make_points(loss, cluster=list(cluster), params=list(params), tokens=list(at))


def pair(seed: int, draws: int = 200, **how: object) -> tuple[Surface, Surface]:
    rng = np.random.default_rng(seed)
    first, second = runs(EARLY, rng, **how), runs(LATE, rng, **how)
    return fit_surface(first, draws, 2 * seed), fit_surface(second, draws, 2 * seed + 1)


def test_a_known_crossing_is_found_by_law_and_directly() -> None:
    early, late = pair(0)
    for place in crossings(early, late, NAMES, SIZES) + direct(early.points, late.points, NAMES):
        assert place.low < CROSSING < place.high < 1.6 * place.low
        assert place.verdict == "early, then late" and not place.beyond
        assert place.gaps[0] < 0 < place.gaps[1]
    (turned,) = crossings(late, early, NAMES[::-1], SIZES[:1])
    assert turned.order == NAMES and turned.x == pytest.approx(crossings(early, late, NAMES, SIZES[:1])[0].x)


def test_without_noise_the_surface_is_the_truth() -> None:
    sizes = (1e4, 1e5, 1e6)
    early, late = pair(1, draws=0, sizes=sizes, seeds=1, trunk=0.0, own=0.0)
    constants = early.constants
    assert constants["beta"] == pytest.approx(EARLY[4], abs=0.02) and constants["E"] == pytest.approx(2.0, abs=0.05)
    for place in crossings(early, late, NAMES, sizes):
        assert place.x == pytest.approx(CROSSING, rel=0.02) and np.isnan(place.low)
        assert place.verdict == "early, then late (noise unknown)"


def test_budgets_move_the_crossing_by_the_cost_of_a_token() -> None:
    early, late = pair(2, draws=60)
    for surface, price in ((early, 1.0), (late, 4.0)):
        surface.points.variables["seconds"] = price * 1e-9 * np.prod([surface.points.variables[v] for v in
                                                                      ("params", "tokens")], axis=0)  # fmt: skip
    assert cost_of(late.points, "seconds")(2e5) == pytest.approx(4e-9 * 2e5)  # beyond the sizes too
    (by_flops,) = crossings(early, late, NAMES, [1e5], "flops")
    (by_tokens,) = crossings(early, late, NAMES, [1e5])
    assert by_flops.x == pytest.approx(6e5 * by_tokens.x, rel=1e-3)
    (by_seconds,) = crossings(early, late, NAMES, [1e5], "seconds")
    assert by_seconds.x > 4 * 1e-9 * 1e5 * by_tokens.x  # the slower family needs more than its price


def test_a_crossing_before_or_after_the_data_is_marked_and_none_is_said_to_be_none() -> None:
    early, late = pair(3, tokens=(4e6, 8e6, 1.6e7, 3.2e7))
    (place,) = crossings(early, late, NAMES, [1e5])
    assert place.beyond and place.verdict == "late leads everywhere in the data" and place.leader == "late"
    (place,) = direct(early.points, late.points, NAMES)[1:]
    assert place.x == 0 and place.verdict == "late leads everywhere in the data"
    early, late = pair(4, tokens=(1e5, 2e5, 4e5))
    (place,) = crossings(early, late, NAMES, [1e5])
    assert place.beyond and place.verdict == "early leads everywhere in the data"
    (place,) = crossings(early, late, NAMES, [1e7])
    assert place.outside and place.beyond and "beyond the sizes" in place.verdict


def test_families_that_are_alike_are_seldom_resolved() -> None:
    """At an end of the data one of twenty may be."""
    verdicts = []
    for seed in range(5, 10):
        rng = np.random.default_rng(seed)
        a, b = (fit_surface(runs(EARLY, rng), 80, 2 * seed + i) for i in range(2))
        verdicts += [place.verdict for place in crossings(a, b, NAMES, SIZES)]
    assert verdicts.count("not resolved") >= 8, verdicts


def test_a_gap_of_two_surfaces_has_the_degrees_of_freedom_of_both() -> None:
    """Two fits of equal scatter with 2 degrees each have 4: t of 4 over t of 2, 0.65."""
    early, _ = pair(6, sizes=(1e5,), seeds=1, trunk=0.0, own=2e-3)
    again = replace(early, draws=early.draws[::-1])
    at, cost = (np.array([1e5]), np.array([2e6])), cost_of(early.points, "tokens")
    drawn = gaps(early, again, *at, (cost, cost), draws=True)[1:]
    wide = early.loss(*at, early.draws) - early.loss(*at, again.draws)
    np.testing.assert_allclose(drawn, students_factor(4) / students_factor(2) * wide, rtol=0.02, atol=1e-9)


def test_draws_without_a_value_take_the_interval() -> None:
    """They do not count as a lead of the first."""
    log_u = np.linspace(0, 10, 200)
    gaps_RxM = np.concatenate([[log_u - 5], (log_u - 5) + 0.1 * np.random.default_rng(0).standard_normal((200, 1))])
    whole = place_of(1e5, gaps_RxM, log_u, (np.exp(1), np.exp(9)), ("a", "b"))
    assert 4.5 < np.log(whole.low) < 5 < np.log(whole.high) < 5.5
    gaps_RxM[1:41] = np.nan
    some = place_of(1e5, gaps_RxM, log_u, (np.exp(1), np.exp(9)), ("a", "b"))
    assert some.x == whole.x and np.isnan([some.low, some.high]).all()


def test_one_size_and_one_seed() -> None:
    early, late = pair(6, sizes=(1e5,), seeds=1, trunk=0.0, own=2e-3)
    assert early.left == late.left == 2  # 5 runs, 3 directions that they can see
    (place,) = crossings(early, late, NAMES, [1e5])
    assert place.low < CROSSING < place.high
    (read,) = direct(early.points, late.points, NAMES)
    assert np.isnan(read.low) and read.verdict.endswith("(noise unknown)")
    one_trunk = runs(EARLY, np.random.default_rng(0), seeds=1)
    assert fit_surface(one_trunk).left == 0  # two trunks, two levels: nothing says how trunks scatter


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="runs at 2 different D are too few"):
        fit_surface(runs(EARLY, np.random.default_rng(0), tokens=(1e6, 2e6)))


def test_sizes_that_differ_a_little_are_one() -> None:
    assert sizes_of(np.array([97e3, 24e3, 100e3, 26e3, 400e3])).tolist() == [1, 0, 1, 0, 2]


def test_readings_that_contradict_each_other() -> None:
    def place(x: float, low: float, high: float) -> Place:
        return Place(1e5, (1e6, 1e7), x, low, high, NAMES, (-0.1, 0.1))

    assert disagree(place(2e6, 1.8e6, 2.2e6), place(4e6, 3.5e6, 4.5e6))
    assert not disagree(place(2e6, 1.5e6, 4.2e6), place(4e6, 3.5e6, 4.5e6))
    assert disagree(place(2e6, np.nan, np.nan), place(4e6, np.nan, np.nan))
    assert disagree(place(0, 0, 0), place(np.inf, np.inf, np.inf))
    assert not disagree(place(2e5, 1e5, 3e5), place(0, 0, 0))  # early or none: late leads in the data
    turned = replace(place(2e7, 1.5e7, 3e7), order=NAMES[::-1])
    assert not disagree(turned, place(0, 0, 0)) and disagree(turned, place(2e7, 1.5e7, 3e7))  # late leads; early leads
    assert disagree(place(2e6, 1.8e6, 2.2e6), replace(place(2e6, 1.8e6, 2.2e6), order=NAMES[::-1]))


def test_sizes_without_a_common_budget_have_no_crossing() -> None:
    """Late costs ten times as many seconds a token, over a factor of 4 in tokens."""
    rng = np.random.default_rng(0)
    surfaces = []
    for truth, price in ((EARLY, 1e-9), (LATE, 1e-8)):
        points = runs(truth, rng, tokens=(1e6, 2e6, 4e6))
        variables = points.variables | {"seconds": price * points.variables["params"] * points.variables["tokens"]}
        surfaces.append(fit_surface(replace(points, variables=variables), 20))
    assert crossings(*surfaces, NAMES, SIZES, "seconds") == []
    assert [place.params for place in crossings(*surfaces, NAMES, SIZES)] == [*SIZES]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"seeds": 3},
        {"sizes": (2.5e4, 5e4, 1e5, 2e5), "seeds": 1, "trunk": 0.0, "own": 3e-3},
    ],
)
def test_95_percent_intervals_cover_between_90_and_99_percent(how: dict[str, object]) -> None:
    covered = []
    for seed in range(100):
        early, late = pair(seed, draws=200, **how)
        sizes = sorted({*early.points.variables["params"]})
        covered += [p.low <= CROSSING <= p.high for p in crossings(early, late, NAMES, (sizes[0], sizes[-1]))]
    assert 0.90 <= np.mean(covered) <= 0.99, np.mean(covered)


@pytest.mark.slow
def test_direct_intervals_cover_too() -> None:
    """Interpolated losses lie a little off the curves, so more tokens than elsewhere."""
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tokens = tuple(np.geomspace(5e5, 8e6, 17))
        early, late = (runs(truth, rng, tokens=tokens) for truth in (EARLY, LATE))
        covered += [p.low <= CROSSING <= p.high for p in direct(early, late, NAMES, draws=200, seed=seed)]
    assert 0.90 <= np.mean(covered) <= 0.99, np.mean(covered)


def test_direct_intervals_cover_runs_that_share_no_trunk() -> None:
    """Losses on lines in log D, which interpolation does not bend, with noise of its own at each size, D and seed."""
    n, d, seed = (axis.ravel() for axis in np.meshgrid((5e4, 1e5, 2e5), (1e6, 2e6, 4e6), (0, 1, 2)))
    covered = []
    for repeat in range(40):
        rng = np.random.default_rng(repeat)
        pair = [
            make_points(
                4 + slope * np.log(d / 2e6) + 0.01 * rng.standard_normal(len(d)),
                cluster=[f"{key}" for key in zip(n, d, seed, strict=True)],
                params=n,
                tokens=d,
            )
            for slope in (-0.1, -0.2)
        ]
        covered += [place.low <= 2e6 <= place.high for place in direct(*pair, NAMES, draws=200, seed=repeat)]
    assert 0.90 <= np.mean(covered) <= 0.99, np.mean(covered)
