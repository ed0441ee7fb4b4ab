"""Each kind of doubt is raised where there is reason for it, and none where there is not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import experiment
import numpy as np
import pandas as pd
import pytest

from seqjax.laws import LAWS, Fit, fit, make_points, minimise
from seqjax.laws.diagnostics import hold_out, profiles
from seqjax.laws.doubts import LEAST_MISS
from seqjax.laws.fitting import fit_constants
from seqjax.laws.holding import held
from seqjax.laws.law import Holds
from seqjax.laws.summary import describe

LAW = LAWS["chinchilla"]
TRUTH = {"E": 1.8, "A": 400.0, "B": 900.0, "alpha": 0.33, "beta": 0.30}
FEW = LAW.starts_SxP()[::37]
OFFSETS = LAWS["offset-n"].starts_SxP()[::7]


def kinds(found: Fit) -> set[str]:
    return {flag.partition(":")[0] for flag in found.flags}


def surface(params: np.ndarray, tokens: np.ndarray, noise: float = 2e-3, **options: object) -> Fit:
    loss = LAW.loss(LAW.theta_P(TRUTH), {"params": params, "tokens": tokens})
    loss = loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(loss)))
    return fit(make_points(loss, params=params, tokens=tokens), LAW, bootstrap=200, starts_SxP=FEW, **options)


def line(loss: np.ndarray, params: np.ndarray, law: str = "kaplan-n") -> Fit:
    return fit(make_points(loss, params=params), law, bootstrap=200)


def noisy(loss: np.ndarray, noise: float = 2e-3, seed: int = 0) -> np.ndarray:
    return loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))


WIDE = np.geomspace(1e4, 1e9, 30)


@pytest.fixture(scope="module")
def clean() -> Fit:
    return line(noisy((1e13 / WIDE) ** 0.08), WIDE)


@pytest.fixture(scope="module")
def plane() -> Fit:
    return surface(*(x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6))))


def test_a_clean_fit_raises_no_doubt(clean: Fit) -> None:
    assert clean.flags == () and clean.rests and clean.agreeing > 0.5


def test_its_profile_agrees_with_the_bootstrap(clean: Fit) -> None:
    """Normal noise: two views of the same interval."""
    (low, high), (profile_low, profile_high) = clean.intervals["alpha_N"], clean.details["profiles"]["alpha_N"]
    assert 0.5 < (profile_high - profile_low) / (high - low) < 2.0
    assert profile_low < clean.constants["alpha_N"] < profile_high


def test_a_profile_is_the_likelihood_interval() -> None:
    """Least squares of a straight line in logarithms: Student's interval, but for n - 2 and chi squared."""
    from scipy import stats

    loss = noisy((1e13 / WIDE) ** 0.08, 5e-3)
    found = fit(make_points(loss, params=WIDE), "kaplan-n", objective="least-squares", bootstrap=200)
    line = stats.linregress(np.log(WIDE), np.log(loss))
    np.testing.assert_allclose(found.constants["alpha_N"], -line.slope, rtol=1e-6)
    low, high = found.details["profiles"]["alpha_N"]
    n = len(WIDE)
    half = line.stderr * np.sqrt((n - 2) * np.expm1(3.841 / n))
    np.testing.assert_allclose([low + line.slope, high + line.slope], [-half, half], rtol=0.01)


def test_few_points_and_little_range() -> None:
    few = line(noisy((1e13 / WIDE[:4]) ** 0.08), WIDE[:4])
    assert {"points", "range"} <= kinds(few)
    assert "N varies by a factor" in next(flag for flag in few.flags if flag.startswith("range"))


@pytest.mark.slow
def test_n_and_d_that_vary_together_are_collinear() -> None:
    """Runs all at 20 tokens per parameter."""
    params = np.geomspace(1e6, 1e10, 20)
    found = surface(params, 20 * params)
    assert "collinear" in kinds(found)
    assert "collinear" not in kinds(surface(*(x.ravel() for x in np.meshgrid(params[::3], 20 * params[::3]))))


def test_a_floor_that_is_not_seen_is_not_claimed() -> None:
    found = line(noisy((1e13 / WIDE) ** 0.08, 1e-2), WIDE, "offset-n")
    assert "floor" in kinds(found)


def test_refits_along_a_valley_come_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded LSTMs of 4 layers hardly bend along N: a refit in seven needs hundreds of steps down to E = 0."""
    recorded = experiment.REPOSITORY / "experiments/results/prediction/workstation-1.6M/errors.json"
    runs = pd.DataFrame(json.loads(recorded.read_text())["at_best"])
    runs = runs[(runs["kind"] == "lstm") & (runs["layers"] == 4) & (runs["params"] < 8e5)]
    points = make_points(runs["loss"], params=runs["params"], tokens=runs["tokens"])
    found = fit(points, LAW, bootstrap=200, starts_SxP=FEW)
    assert found.failed_draws <= 4 and found.intervals["E"][0] < 0.05
    assert any("E is not determined" in flag for flag in found.flags)

    low = found.predict(params=1.6e6, tokens=8e6).low[0]
    assert low < 3.755
    monkeypatch.setattr(minimise, "ITERATIONS", 200)  # cut off on the way, they still are the lower end
    cut = fit(points, LAW, bootstrap=200, starts_SxP=FEW)
    assert cut.failed_draws > 10 and len(cut.draws) == 200
    assert any("of the bootstrap refits came to no rest" in flag for flag in cut.flags)
    assert cut.predict(params=1.6e6, tokens=8e6).low[0] == pytest.approx(low, abs=0.01)


def test_a_wrong_law_leaves_a_trend() -> None:
    """A floor that the law does not have: residuals bend; a straight trend shows where the law cannot turn."""
    found = surface(*(x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 8), np.geomspace(1e8, 1e11, 8))))
    assert "trend" not in kinds(found)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 8), np.geomspace(1e8, 1e11, 8)))
    loss = LAW.loss(LAW.theta_P(TRUTH), {"params": n, "tokens": d})
    only_n = fit(make_points(loss, params=n, tokens=d), "offset-n", bootstrap=50, starts_SxP=OFFSETS)
    assert "trend" in kinds(only_n)  # with C, which grows with the D that the law does not know
    assert "residuals fall with C" in next(flag for flag in only_n.flags if flag.startswith("trend"))


def test_a_floor_that_the_law_does_not_have_bends_the_residuals() -> None:
    found = line(noisy(2.2 + 100 / WIDE**0.35, 1e-3), WIDE)
    assert any(flag.startswith("trend: the residuals bend with N") for flag in found.flags)


@pytest.mark.slow
def test_a_law_without_a_best_split_says_so() -> None:
    """Loss that does not fall with tokens: all compute into parameters, without end."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    loss = noisy(1.8 + 400 / n**0.33 + 0.05 * (d / 1e8) ** 0.1, 1e-4)
    found = fit(make_points(loss, params=n, tokens=d), LAW, bootstrap=60, starts_SxP=FEW)
    assert "split" in kinds(found)
    assert np.isnan(found.exponent(1e18)[0]) and np.isnan(found.optimal(1e18).params).all()


def test_one_run_that_decides_is_named() -> None:
    loss = noisy((1e13 / WIDE[::3]) ** 0.08, 1e-3)
    loss[-1] *= 1.2
    found = fit(make_points(loss, params=WIDE[::3]), "kaplan-n", objective="least-squares", bootstrap=300)
    top = found.details["influence"][0]
    assert top["points"] == "row 10" and top["standard_errors"] > 0.5
    assert found.details["influence"][0]["standard_errors"] >= found.details["influence"][1]["standard_errors"]


def test_a_law_that_breaks_at_large_compute_fails_the_hold_out() -> None:
    loss = (1e13 / WIDE) ** 0.08
    loss = noisy(np.maximum(loss, loss[-4]), 1e-4)  # a plateau for the largest three
    found = line(loss, WIDE)
    assert "hold-out" in kinds(found)
    held = found.details["hold_out"]
    assert held["points"] == 3 and held["largest_error"] < 0  # predicted too low


def test_what_was_held_out_is_said_as_it_was() -> None:
    """Of equal compute some are held out; of runs with checkpoints whole runs, from their first checkpoint on."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 1.6e6, 5), np.geomspace(1e6, 8e6, 4)))
    loss = noisy(1.8 + 40 / n**0.3 + 60 / d**0.3, 1e-3)
    starts = LAWS["chinchilla"].starts_SxP()[::90]
    found = fit(make_points(loss, params=n, tokens=d, flops=6 * n * d), "chinchilla", bootstrap=0, starts_SxP=starts)
    assert "fitted without the 2 points of the 2 clusters with the most C" in describe(found)
    run = np.repeat(np.arange(9), 3)
    points = make_points(noisy(WIDE_LOSS, 1e-3), run, params=np.geomspace(1e5, 1e8, 27))
    found = fit(replace(points, clusters="column 'run_id'"), "kaplan-n", bootstrap=0)
    assert "27 points of 27 rows, 9 clusters" in describe(found)
    assert "3 points of N >= " in describe(found)


WIDE_LOSS = (1e13 / np.geomspace(1e5, 1e8, 27)) ** 0.08


def test_a_floor_without_refits_has_no_interval() -> None:
    found = fit(make_points((1e13 / WIDE) ** 0.08, params=WIDE), "offset-n", bootstrap=0)
    (flag,) = (flag for flag in found.flags if flag.startswith("floor"))
    assert "it is near 0" in flag and "interval" not in flag


def test_the_hold_out_knows_what_noise_does_to_few_points() -> None:
    """Of 20 healthy tables of 8 points with noise of 1 %, a rule by the scatter alone doubts 5."""
    law, params = LAWS["offset-n"], np.geomspace(1e4, 1e8, 8)
    truth = law.theta_P({"E": 1.9, "A": 40.0, "alpha": 0.25})
    missed = []
    for seed in range(20):
        loss = noisy(law.loss(truth, {"params": params}), 1e-2, seed)
        found = fit_constants(make_points(loss, params=params), law, bootstrap=0, starts_SxP=truth[None])
        left_out = hold_out(found)
        missed.append(left_out["mean_error"] > max(left_out["noise"], LEAST_MISS))
    assert not any(missed)


def test_a_law_by_which_the_loss_rises_says_so() -> None:
    found = line(3 + 0.1 * np.arange(7), np.geomspace(1e5, 1e9, 7), "offset-n")
    assert {"rises", "floor"} <= kinds(found)
    assert "E" not in found.intervals and "undetermined" not in kinds(found)


def test_equal_losses_determine_a_sum_only() -> None:
    found = line(np.full(len(WIDE), 3.0), WIDE, "offset-n")
    assert found.intervals == {} and len(found.draws) and "correlated" in kinds(found)


def test_a_constant_at_its_bound_is_not_called_without_effect() -> None:
    law = held(LAWS["offset-n"], Holds(bounds=(("alpha", 0.4, 1.0),)))
    found = fit(make_points(noisy(1.9 + 40 * WIDE**-0.25), params=WIDE), law, bootstrap=60)
    assert "bound" in kinds(found) and not {"undetermined"} & kinds(found)
    assert not any("combination" in flag for flag in found.flags)


def test_a_profile_across_runs_says_nothing_of_what_is_known_within_them() -> None:
    """8 runs of 10 checkpoints: B and beta are known within each run, whatever the runs differ by."""
    law = LAWS["chinchilla"]
    truth = {"E": 1.8172, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672}
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 1e11, 10)))
    variables, run = {"params": params, "tokens": tokens}, np.tile(np.arange(8), 10)
    loss = law.loss(law.theta_P(truth), variables) * np.exp(3e-3 * np.random.default_rng(1).standard_normal(8))[run]
    points = make_points(loss, cluster=list(run), **variables)
    points = replace(points, clusters="column 'run'")
    found = fit_constants(points, law, bootstrap=60, starts_SxP=law.theta_P(truth)[None])
    assert not {"B", "beta"} & set(profiles(found)) and "alpha" in profiles(found)


def test_few_starts_that_agree_are_a_doubt(plane: Fit) -> None:
    assert "starts" not in kinds(plane)
    from dataclasses import replace

    from seqjax.laws.diagnostics import diagnosed

    assert "starts" in kinds(diagnosed(replace(plane, agreeing=0.01)))


def test_correlated_constants_are_named(plane: Fit) -> None:
    assert plane.details["correlations"]["A, alpha"] > 0.95
    assert -1.0 <= min(plane.details["correlations"].values()) and 1.0 < plane.condition < np.inf


def test_a_constant_without_effect_or_end_is_not_determined() -> None:
    """No row repeats its data, so R_D is any number; and a draw to 1e16, a profile to infinity."""
    from seqjax.laws.doubts import _undetermined

    law = LAWS["offset-n"]
    draws = np.column_stack([np.linspace(0.4, 0.6, 50), np.linspace(2.0, 40.0, 50), np.full(50, 0.3)])
    points = make_points(2 + 40 * WIDE**-0.3, params=WIDE)
    found = Fit(law, "huber", 1e-3, np.array([0.5, 3.7, 0.3]), 1.0, points, draws, 1, 1.0, 0.0, 1.0)
    found = replace(found, details={"profiles": {"A": (1.0, np.inf)}})
    assert set(found.intervals) == {"E", "A"}
    assert _undetermined(found, set()) == [
        "undetermined: A: the likelihood allows 1.00 to inf",
        "undetermined: alpha has no effect on these losses: 0.3000 is where the fit began",
    ]
    (wide, _) = _undetermined(replace(found, details={"profiles": {}}), set())
    assert wide.startswith("undetermined: A: its interval, ") and wide.endswith("spans many decades")


def test_other_flops_than_6nd_are_remarked() -> None:
    from seqjax.laws.summary import other_flops

    n, d = np.geomspace(1e6, 1e8, 5), np.full(5, 1e9)
    for over, words in ((np.linspace(1.3, 2, 5), "1.30 to 2.00"), (3.0, "3.00")):
        points = make_points(np.linspace(4, 3, 5), params=n, tokens=d, flops=6 * n * d * over)
        assert other_flops(points) == f" (the FLOPs of these points are {words} times that)"
    assert other_flops(make_points(np.linspace(4, 3, 5), params=n, tokens=d)) == ""
    assert other_flops(make_points(np.linspace(4, 3, 5), params=n, tokens=d, flops=6.3 * n * d)) == ""


def test_nothing_here_needs_a_model() -> None:
    """Figures of laws know the looks of families, but no training."""
    code = (
        "import sys\nfrom seqjax.laws import *\n"
        "assert callable(fit) and LAWS\n"
        "heavy = ('flax', 'optax', 'orbax', 'seqjax.models', 'seqjax.training', 'seqjax.data', 'seqjax.sweeps')\n"
        "assert not [m for m in sys.modules if m.startswith((*heavy, 'seqjax.families', 'seqjax.through_time'))]\n"
        "import seqjax.plots.fits\n"
        "assert not [m for m in sys.modules if m.startswith(heavy)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
