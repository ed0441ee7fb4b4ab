"""Intervals of what is derived from a fit to few points: they follow the curved valley of the constants."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.laws import LAWS, fit, make_points
from seqjax.laws.fitting import refits
from seqjax.laws.noise import drawn_noise, students_factor
from seqjax.laws.predicting import predict
from seqjax.laws.searching import deltas_to, refit

LAW = LAWS["offset-c"]
FLOPS = np.array([1e14, 1e15, 1e16, 1e17, 3e17, 1e18])
LOSS = [6.37, 5.43, 4.70, 4.15, 3.89, 3.68]


def test_bands_of_six_points_stay_by_the_points() -> None:
    """Residuals of 0.3 %; a band that was stretched along straight lines reached from 6.34 to 8.66 at the first."""
    found = fit(make_points(LOSS, flops=FLOPS), LAW, diagnose=False, bootstrap=400, starts_SxP=LAW.starts_SxP()[::4])
    band = found.predict(flops=FLOPS)
    above, below = band.high / band.loss - 1, 1 - band.low / band.loss
    assert (above < 0.03).all() and (below < 0.03).all()
    np.testing.assert_allclose(above / below, 1.0, atol=0.35)


@pytest.mark.slow
def test_bands_of_eight_points_hold_the_truth_on_both_sides_alike() -> None:
    """30 tables with 0.3 % noise: each end of the band at 1e16 is about as far, and holds the truth."""
    truth = LAW.theta_P({"E": 1.7, "A": 120.0, "alpha": 0.1})
    flops = np.geomspace(1e14, 1e18, 8)
    held, above, below = [], [], []
    wanted = float(LAW.loss(truth, {"flops": np.array([1e16])})[0])
    for table in range(30):
        noise = 3e-3 * np.random.default_rng(table).standard_normal(8)
        points = make_points(LAW.loss(truth, {"flops": flops}) * np.exp(noise), flops=flops)
        theta = refit(LAW, points, truth, deltas_to(1e-3)).theta_SxP[0]
        draws, _ = refits(LAW, points, theta, 1e-3, 100, table)
        band = predict(LAW, theta, draws, {"flops": 1e16})
        held.append(band.low[0] <= wanted <= band.high[0])
        above.append(band.high[0] / band.loss[0] - 1)
        below.append(1 - band.low[0] / band.loss[0])
    assert 0.90 <= np.mean(held) <= 1.0
    assert 0.8 < np.mean(above) / np.mean(below) < 1.25
    assert np.mean(above) < 0.01


def test_noise_has_the_size_of_normal_noise_whatever_the_number_of_points() -> None:
    """Residuals about a line: corrected for leverage, the draws have the variance of the noise, over many tables."""
    x = np.column_stack([np.ones(6), np.arange(6.0)])
    rng = np.random.default_rng(0)
    sizes = []
    for table in range(300):
        noise = rng.standard_normal(6)
        residuals = noise - x @ np.linalg.lstsq(x, noise)[0]
        sizes.append((drawn_noise(residuals, -x[:, 1], np.arange(6), x, 50, table) ** 2).mean())
    assert np.mean(sizes) / students_factor(4) ** 2 == pytest.approx(1.0, abs=0.15)


def test_noise_of_few_points_is_not_cut_off_at_their_largest_residual() -> None:
    """5 points with equal residuals, 3 constants: 97.5 % of normal noise of their size is 1.96 of it, not 1."""
    x = np.vander(np.linspace(-1, 1, 5), 3)
    residuals = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    leverage = (np.linalg.qr(x)[0] ** 2).sum(axis=1)
    noise_Rx5 = drawn_noise(residuals, -x[:, 1], np.arange(5), x, 4000, 0)
    largest = students_factor(2) * np.max(np.abs(residuals) / np.sqrt(np.maximum(1 - leverage, 0.2)))
    assert (np.abs(noise_Rx5) > 1.2 * largest).mean() > 0.02


def test_noise_differs_between_low_and_high_losses() -> None:
    """40 clusters, the lower half with ten times the residuals: so have their draws."""
    residuals = np.repeat([0.1, 1.0], 20) * np.tile([1.0, -1.0], 20)
    noise = drawn_noise(
        residuals, np.linspace(2.0, 1.0, 40), np.arange(40), np.vander(np.linspace(-1, 1, 40), 3), 200, 0
    )
    size = np.sqrt((noise**2).mean(axis=0))
    np.testing.assert_allclose(size[25:].mean() / size[:15].mean(), 10.0, rtol=0.2)


def test_a_constant_without_effect_is_left_out() -> None:
    """Its derivatives are zero, or not finite where its power overflows."""
    residuals, x = np.tile([1.0, -1.0], 4), np.arange(8.0)
    clean = drawn_noise(residuals, -x, np.arange(8), np.column_stack([np.ones(8), x, np.zeros(8)]), 40, 0)
    dirty = drawn_noise(residuals, -x, np.arange(8), np.column_stack([np.ones(8), x, np.full(8, np.nan)]), 40, 0)
    assert np.isfinite(clean).all() and (clean == dirty).all()


def test_points_that_lie_on_the_law_have_no_noise() -> None:
    assert (drawn_noise(np.zeros(5), np.arange(5.0), np.arange(5), np.vander(np.arange(5.0), 2), 40, 0) == 0).all()
