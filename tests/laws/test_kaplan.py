"""Kaplan's constants against the numbers that the paper prints, and its closed forms against plain minimisation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from seqjax.errors import UserError
from seqjax.laws import kaplan
from seqjax.laws.points import make_points
from seqjax.laws.published import POSITION, PUBLISHED


def test_converged_losses() -> None:
    """4.78, 4.02, 3.37, 2.83, 2.38 nats at 1e5 ... 1e9 parameters."""
    loss = PUBLISHED["kaplan-n"].loss(params=10.0 ** np.arange(5, 10))
    np.testing.assert_allclose(loss, [4.78, 4.02, 3.37, 2.83, 2.38], atol=0.006)


def test_laws_meet_in_their_limits() -> None:
    """L(N, D) with endless data is L(N), and with endless parameters L(D), with the constants of table 2."""
    law = PUBLISHED["kaplan-nd"]
    np.testing.assert_allclose(law.loss(params=1e8, tokens=1e30), (6.4e13 / 1e8) ** 0.076, rtol=1e-6)
    np.testing.assert_allclose(law.loss(params=1e30, tokens=1e10), (1.8e13 / 1e10) ** 0.103, rtol=1e-6)


def test_the_critical_batch_doubles_with_every_13_percent() -> None:
    assert 1.9 < kaplan.critical_batch(3.0 * 0.87) / kaplan.critical_batch(3.0) < 2.1


def test_adjusted_steps_and_compute_obey_their_definition() -> None:
    """(S / S_min - 1) (E / E_min - 1) = 1, E the examples (eq. 5.1)."""
    loss, batch, steps = np.array([4.0, 3.0]), np.array([1e5, 5e6]), np.array([1e4, 3e4])
    critical = kaplan.critical_batch(loss)
    least = kaplan.minimal_steps(steps, batch, critical)
    examples = kaplan.minimal_compute(steps * batch, batch, critical)  # E falls as C does
    np.testing.assert_allclose((steps / least - 1) * (steps * batch / examples - 1), 1.0)
    points = make_points(loss, params=[1e6, 1e7], steps=steps, flops=6 * np.array([1e6, 1e7]) * batch * steps)
    moved = kaplan.adjusted(points, batch)
    np.testing.assert_allclose(moved.variables["steps"], least)
    np.testing.assert_allclose(moved.variables["flops"] / points.variables["flops"], examples / steps / batch)
    with pytest.raises(UserError, match="must be positive"):
        kaplan.adjusted(points, batch, 0.0, 0.2)
    assert moved.conventions["steps"] == "S_min" and "critical batch" in moved.notes[-1]


def test_the_allocation_is_the_minimum() -> None:
    """Against scipy: the least 6 N B_crit S_min at which L(N, S_min) reaches a loss."""
    c = PUBLISHED["kaplan-ns"].constants
    found = kaplan.allocation(c["N_c"], c["S_c"], c["alpha_N"], c["alpha_S"])
    for loss in (2.5, 3.5):

        def compute(log_n: float, loss: float = loss) -> float:
            left = loss - (c["N_c"] / np.exp(log_n)) ** c["alpha_N"]
            steps = c["S_c"] * left ** (-1 / c["alpha_S"]) if left > 0 else np.inf
            return np.log(6 * np.exp(log_n) * kaplan.critical_batch(loss) * steps)

        converged = np.log(c["N_c"] * loss ** (-1 / c["alpha_N"]))
        best = optimize.minimize_scalar(compute, bounds=(converged + 1e-6, converged + 8), method="bounded",
                                        options={"xatol": 1e-10})  # fmt: skip
        at = found.at(np.exp(best.fun))
        np.testing.assert_allclose(at["loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(at["params"], np.exp(best.x), rtol=1e-3)
        np.testing.assert_allclose(6 * at["params"] * at["batch"] * at["steps"], np.exp(best.fun), rtol=1e-6)


def test_the_allocation_has_the_exponents_of_the_paper() -> None:
    """C_min: 0.050 measured, 0.052 derived (B.7), 0.054 (6.4); N 0.73, B 0.24, S 0.03."""
    found = kaplan.allocation(6.5e13, 2.1e3, 0.077, 0.76)
    assert 0.049 < -found.loss[1] < 0.055
    np.testing.assert_allclose([found.params[1], found.batch[1], found.steps[1]], [0.73, 0.24, 0.03], atol=0.055)
    np.testing.assert_allclose(found.params[1] + found.batch[1] + found.steps[1], 1.0)


@pytest.mark.parametrize("curve", POSITION)
def test_every_size_gains_late_in_the_context(curve: dict[str, float]) -> None:
    """0.22 to 0.25 nat between positions 100 and 1000 (appendix D.5)."""
    early, late = (curve["E"] + curve["A"] * t ** -curve["alpha"] for t in (100.0, 1000.0))
    assert 0.215 < early - late < 0.255
