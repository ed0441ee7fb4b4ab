"""Loss per position: bins, the law, the late gain and the plateau, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.laws.position import binned, fit_position, is_determined, late_gain, plateau

T = np.arange(1, 1025)
SE = np.full(1024, 0.01)


def curve(flat_from: float = np.inf, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """Kaplan's third curve, which stays what it is from a position on."""
    loss = 2.9 + 4.5 * np.minimum(T, flat_from) ** -0.56
    return loss + noise * np.random.default_rng(seed).standard_normal(1024)


def test_bins_have_the_errors_that_were_measured() -> None:
    """Positions with all in common: the mean of a bin is no surer than one of them."""
    loss, together = curve(), np.full(len(binned(curve(), SE).loss), 0.01)
    assert binned(loss, SE).error[-1] < 0.001 and binned(loss, SE, together).error[-1] == 0.01
    alone, shared = plateau(curve(64), SE), plateau(curve(64), SE, bin_error=together)
    assert shared.high - shared.low > alone.high - alone.low
    with pytest.raises(UserError, match="3 errors of bins"):
        binned(loss, SE, [0.1, 0.1, 0.1])


def test_bins_cover_every_position_once() -> None:
    for length in (1, 2, 7, 64, 1024):
        bins = binned(np.arange(length) + 1.0, np.ones(length))
        assert bins.first[0] == 1 and bins.last[-1] == length
        assert (bins.first[1:] == bins.last[:-1] + 1).all()
        np.testing.assert_allclose((bins.loss * (bins.last - bins.first + 1)).sum(), length * (length + 1) / 2)


def test_the_law_comes_back() -> None:
    found = fit_position(curve(), SE, bootstrap=0)
    for name, value in {"E": 2.9, "A": 4.5, "alpha": 0.56}.items():
        np.testing.assert_allclose(found.constants[name], value, rtol=0.05)


@pytest.mark.parametrize("bootstrap", [0, 40])
def test_a_law_that_the_losses_do_not_determine_is_told_apart(bootstrap: int) -> None:
    assert is_determined(fit_position(curve(), SE, bootstrap=bootstrap))
    rising = 2.9 + 1e-4 * T[:64]
    assert not is_determined(fit_position(rising, SE[:64], bootstrap=bootstrap))


def test_the_late_gain_is_that_of_the_law() -> None:
    expected = 4.5 * (100**-0.56 - 1000**-0.56)
    hits = 0
    for seed in range(100):
        found = late_gain(curve(seed=seed), SE, 100, 1000)
        hits += found.low <= expected + 0.003 and expected - 0.003 <= found.high
        np.testing.assert_allclose(found.nats, expected, atol=0.02)
    assert hits >= 90
    flat = late_gain(curve(50), SE, 100, 1000)
    assert flat.low < 0 < flat.high and abs(flat.nats) < 0.01


def test_a_position_stands_for_itself_and_its_neighbours_within_12_percent() -> None:
    loss = 2 + 3 / T**0.6
    assert abs(late_gain(loss, SE, 1, 64).nats - (loss[0] - loss[57:71].mean())) < 1e-12
    assert abs(late_gain(loss, SE, 2, 64).nats - (loss[1] - loss[57:71].mean())) < 1e-12


def test_a_plateau_is_found_where_it_begins() -> None:
    found = plateau(curve(64), SE)
    exact = (64**-0.56 + 0.02 / 4.5) ** (-1 / 0.56)  # within 0.02 nat of the plateau
    assert found.position is not None and 0.6 * exact < found.position < 1.6 * exact
    assert found.low <= found.position <= found.high < 200 and found.falls_to_the_end == 0.0


def test_a_loss_that_falls_to_the_end_has_no_plateau() -> None:
    found = plateau(2.0 + 4.5 * T**-0.3, SE)
    assert found.position is None and np.isinf(found.high) and found.falls_to_the_end > 0.95


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="1 <= early < late <= 1024"):
        late_gain(curve(), SE, 100, 2000)
    with pytest.raises(UserError, match="lists of one length"):
        binned([1.0, 2.0], [1.0])
