"""Constants that are fixed, tied or bounded; errors in nats; weights; the noise of repeated runs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from seqjax.errors import UserError
from seqjax.laws import LAWS, Fit, Law, fit, make_points, read_points
from seqjax.laws.diagnostics import diagnosed
from seqjax.laws.files import from_dict, to_dict
from seqjax.laws.fitting import repeated_noise
from seqjax.laws.holding import held, read_holds
from seqjax.laws.law import Holds
from seqjax.laws.noise import drawn_noise
from seqjax.laws.searching import refit
from seqjax.laws.summary import describe

LAW = LAWS["offset-n"]
PARAMS = np.geomspace(1e4, 1e9, 24)
TRUTH = {"E": 1.9, "A": 40.0, "alpha": 0.25}


def holding(*, law: Law = LAW, **words: list[str]) -> Law:
    return held(law, read_holds(law, **words))


def noisy(noise: float = 2e-3, seed: int = 0) -> np.ndarray:
    loss = 1.9 + 40.0 * PARAMS**-0.25
    return loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))


def fitted(law: Law, loss: np.ndarray | None = None, **options: object) -> Fit:
    starts = law.starts_SxP()
    few = starts[:: -(-len(starts) // 16)]  # one chunk of the minimiser
    options = {"bootstrap": 0, "diagnose": False, "starts_SxP": few} | options
    return fit(make_points(noisy() if loss is None else loss, params=PARAMS), law, **options)


@pytest.fixture(scope="module")
def fixed() -> Fit:
    return fitted(holding(fix=["E=1.9"]), bootstrap=60)


def test_a_fixed_constant_makes_the_others_surer(fixed: Fit) -> None:
    """The rest is a line in log(L - E); the law has two constants, and its predictions those of the whole law."""
    free = fitted(LAW, bootstrap=60)
    assert fixed.law.names == ("A", "alpha") and fixed.theta.shape == (2,) and not fixed.law.has_floor
    assert np.ptp(fixed.intervals["alpha"]) < 0.7 * np.ptp(free.intervals["alpha"])
    low, high = fixed.intervals["alpha"]
    assert low < 0.25 < high
    whole = LAW.theta_P({"E": 1.9, **fixed.constants})
    np.testing.assert_allclose(
        fixed.predict(params=[1e6, 1e12]).loss, LAW.loss(whole, {"params": np.array([1e6, 1e12])})
    )


def test_what_is_held_is_printed_and_saved(fixed: Fit) -> None:
    printed = describe(fixed)
    assert "L = E + A N^-alpha;  E = 1.9" in printed
    assert ["E", "1.900", "fixed"] in [line.split() for line in printed.splitlines()]
    again = from_dict(json.loads(json.dumps(to_dict(fixed))))
    assert again.law is fixed.law and again.constants == fixed.constants
    plain = to_dict(fitted(LAW))
    assert "held" not in plain and "errors" not in plain


def test_tied_exponents_are_equal() -> None:
    law = holding(law=LAWS["chinchilla"], tie=["beta=alpha"], fix=["E=1.8"])
    assert law.names == ("A", "B", "alpha") and len(law.starts_SxP()) == 6 * 6 * 5
    n, d = np.meshgrid(np.geomspace(1e6, 1e9, 4), np.geomspace(1e8, 1e11, 4))
    at = {"params": n.ravel(), "tokens": d.ravel()}
    theta = law.theta_P({"A": 400.0, "B": 900.0, "alpha": 0.3})
    np.testing.assert_allclose(law.loss(theta, at), 1.8 + 400 / at["params"] ** 0.3 + 900 / at["tokens"] ** 0.3)
    np.testing.assert_allclose(law.constants_of(theta), [400.0, 900.0, 0.3])


def test_a_bound_that_holds_is_reached_and_flagged() -> None:
    """alpha is 0.25, and E is between its ends."""
    found = diagnosed(fitted(holding(bound=["alpha=0:0.2", "E=0.5:"])))
    np.testing.assert_allclose(found.constants["alpha"], 0.2, rtol=1e-3)
    assert [flag.partition(";")[0] for flag in found.flags if flag.startswith("bound")] == [
        "bound: alpha = 0.2000 is at its bound 0.2000"
    ]
    again = from_dict(json.loads(json.dumps(to_dict(found))))
    assert again.law is found.law and again.law.holds.bounds == (("alpha", 0.0, 0.2), ("E", 0.5, np.inf))


@pytest.mark.slow
def test_bounds_that_are_not_reached_change_nothing() -> None:
    inside = fitted(holding(bound=["alpha=0.1:1", "E=:3"]))
    np.testing.assert_allclose(list(inside.constants.values()), list(fitted(LAW).constants.values()), rtol=1e-4)


def test_scales_that_are_no_coordinates_cannot_be_held_and_exponents_can() -> None:
    law = holding(law=LAWS["kaplan-ns"], tie=["alpha_S=alpha_N"])
    theta = law.theta_P({"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.1})
    np.testing.assert_allclose(law.constants_of(theta), [6.5e13, 2.1e3, 0.1])
    with pytest.raises(UserError, match=r"N_c of kaplan-n cannot be held, .* can be held: alpha_N"):
        holding(law=LAWS["kaplan-n"], fix=["N_c=1e13"])


MISTAKES = {
    "no constant": ({"fix": ["EE=1.9"]}, "--fix EE=1.9: offset-n has no constant EE; did you mean 'E'"),
    "no value": ({"fix": ["E"]}, "--fix E: expected a constant and what it is, such as --fix E=1.9"),
    "no number": ({"fix": ["E=low"]}, "--fix E=low: 'low' is not a number"),
    "tied to nothing": ({"tie": ["alpha=beta"]}, "--tie alpha=beta: offset-n has no constant beta"),
    "unlike": ({"tie": ["alpha=A"]}, "tie a coefficient to a coefficient"),
    "twice": ({"fix": ["alpha=0.3"], "bound": ["alpha=0:1"]}, "alpha is held twice"),
    "turned ends": ({"bound": ["alpha=1:0"]}, "--bound alpha=1:0: expected a lower and a higher end"),
    "no ends": ({"bound": ["alpha=:"]}, "--bound alpha=:: expected a lower and a higher end"),
    "below 0": ({"fix": ["A=-1"]}, "A of offset-n is above 0: it cannot be -1"),
    "all": ({"fix": ["E=1", "A=2", "alpha=0.3"]}, "all of its constants are held; leave one free"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_says_what_is_allowed(name: str) -> None:
    words, message = MISTAKES[name]
    with pytest.raises(UserError) as error:
        holding(**words)
    assert message in str(error.value)


def test_bounds_take_starts_inside() -> None:
    law = holding(bound=["alpha=0.1:0.6"])
    alphas = law.constants_of(law.starts_SxP())[:, 2]
    assert law.holds == Holds(bounds=(("alpha", 0.1, 0.6),)) and ((alphas > 0.1) & (alphas < 0.6)).all()


def test_least_squares_of_nats_are_those_of_another_program() -> None:
    """Noise in nats: the minimum of sum (L - model)^2 by scipy, and the objective in words."""
    from scipy.optimize import curve_fit

    loss = 1.9 + 40.0 * PARAMS**-0.25 + 0.02 * np.random.default_rng(1).standard_normal(len(PARAMS))
    found = fitted(LAW, loss, objective="least-squares", errors="nats", bootstrap=60)
    (e, a, alpha), _ = curve_fit(lambda x, e, a, alpha: e + a * x**-alpha, PARAMS, loss, (1.9, 40.0, 0.25))
    np.testing.assert_allclose(list(found.constants.values()), [e, a, alpha], rtol=1e-4)
    np.testing.assert_allclose(found.value, ((loss - e - a * PARAMS**-alpha) ** 2).sum() / 2, rtol=1e-6)
    assert "least squares of L in nats" in describe(found)
    assert from_dict(json.loads(json.dumps(to_dict(found)))).errors == "nats"
    low, high = found.intervals["alpha"]
    assert low < 0.25 < high < low + 0.1
    with pytest.raises(UserError, match="errors: 'loss' is not allowed; allowed: relative, nats"):
        fitted(LAW, errors="loss")


def test_weights_count_rows() -> None:
    """Weights of the points are those of the objective, over their mean; they are saved and stay with their rows."""
    loss, weight = noisy(), np.where(np.arange(24) % 3 == 0, 2.0, 1.0)
    table = pd.DataFrame({"params": PARAMS, "loss": loss, "w": weight})
    points = read_points(table, needs=("params",), weights="w")
    start = LAW.theta_P(TRUTH)[None]
    weighed = fit(points, LAW, objective="least-squares", bootstrap=0, diagnose=False, starts_SxP=start)
    plain = make_points(loss, params=PARAMS)
    by_hand, without = (refit(LAW, plain, start, [1e3], w[None]).theta_SxP[0] for w in (weight, np.ones(24)))
    np.testing.assert_allclose(weighed.theta, by_hand, rtol=1e-6)
    assert np.abs(by_hand / without - 1).max() > 1e-4
    assert points.notes == ("rows are weighed by the column 'w'",)
    again = from_dict(json.loads(json.dumps(to_dict(weighed)))).points.weight
    np.testing.assert_allclose(again, weight / weight.mean())
    assert points.chosen(PARAMS > 1e6, "small").weight.shape == ((PARAMS > 1e6).sum(),)


def test_the_noise_of_repeated_runs_is_the_least() -> None:
    """Six points that lie on a line by chance, three of them repeated with a scatter of 1 %."""
    params = np.concatenate([PARAMS[:6], PARAMS[:3], PARAMS[:3]])
    loss = (1e13 / params) ** 0.08 * np.exp(0.01 * np.repeat([0.0, 1.0, -1.0], [6, 3, 3]))
    points = make_points(loss, params=params)
    np.testing.assert_allclose(repeated_noise(points), 0.01 * np.sqrt(6 / 6))
    assert repeated_noise(make_points(loss[:6], params=params[:6])) == 0
    x = np.vander(np.arange(6.0), 2)
    residuals = 1e-4 * np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    known = drawn_noise(residuals, np.arange(6.0), np.arange(6), x, 400, 0, least=0.01)
    alone = drawn_noise(residuals, np.arange(6.0), np.arange(6), x, 400, 0)
    assert 0.008 < known.std() / 1.4166 < 0.012 and alone.std() < 1e-3  # t with 4 over z
    np.testing.assert_allclose(known / known.std(), alone / alone.std())
