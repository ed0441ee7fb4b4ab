"""The drawn road: its pictures lie where the geometry says, and its steering follows the equations."""

from __future__ import annotations

import numpy as np
import pytest

from seqjax.data import road


def test_the_same_seed_gives_the_same_road() -> None:
    one, again, other = road.drive_road(40), road.drive_road(40), road.drive_road(40, seed=1)
    np.testing.assert_array_equal(one.frames_TxYxX, again.frames_TxYxX)
    np.testing.assert_array_equal(one.steer_T, again.steer_T)
    assert (one.frames_TxYxX != other.frames_TxYxX).any() and (one.steer_T != other.steer_T).any()
    assert one.frames_TxYxX.shape == (40, 32, 64) and one.frames_TxYxX.dtype == np.uint8


def test_in_a_steady_bend_the_driver_steers_by_its_curvature() -> None:
    """At rest psi = e = 0 and g s = kappa."""
    states_Tx3, steer_T = road.simulate(np.full(420, 0.03), 400, np.zeros(400))
    assert steer_T[-1] == pytest.approx(0.03 / road.GAIN, rel=1e-4)
    np.testing.assert_allclose(states_Tx3[-1, :2], 0, atol=1e-4)


def test_steering_is_a_weighted_mean_of_past_goals() -> None:
    """s_t = sum_j (1 - 1/tau)^j goal_{t-j} / tau, from the recorded states."""
    rng = np.random.default_rng(0)
    curvature_T = 0.01 * np.sin(np.arange(80) / 9)
    states_Tx3, steer_T = road.simulate(curvature_T, 60, 0.005 * rng.standard_normal(60))
    ahead_T = np.interp(road.SPEED * np.arange(60) + road.PREVIEW, road.SPEED * np.arange(80), curvature_T)
    goal_T = ahead_T / road.GAIN - road.K_OFFSET * states_Tx3[:, 0] - road.K_HEADING * states_Tx3[:, 1]
    weights = (1 - 1 / road.LAG) ** np.arange(60) / road.LAG
    expected_T = [float(weights[: t + 1] @ goal_T[t::-1]) for t in range(60)]
    np.testing.assert_allclose(steer_T, expected_T, atol=1e-12)


@pytest.mark.parametrize("state", [(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.0, 0.05, 0.0), (-0.2, 0.03, 0.02)])
@pytest.mark.parametrize("shake", [0.0, 2.0])
def test_the_lines_are_where_the_geometry_puts_them(state: tuple[float, float, float], shake: float) -> None:
    """Where both lines are seen and wider than a pixel, their middle is at column W/2 + shake + f c(z) / z."""
    offset, heading, curvature = state
    frame_YxX = road.render(np.array(state), shake, None).astype(float)
    for row in range(6, 12):
        z = road.CAMERA_HEIGHT * road.FOCAL / (row + 0.5 - road.HORIZON)
        middle = 32 + shake + road.FOCAL * (-offset - heading * z + curvature * z * z / 2) / z
        inside = frame_YxX[row] > (road.GRASS + road.PAINT) / 2
        columns = np.arange(64)[inside] + 0.5
        assert columns[0] > 1 and columns[-1] < 63, "both lines are in the picture"
        assert (columns[0] + columns[-1]) / 2 == pytest.approx(middle, abs=0.6)
        half = road.FOCAL * road.HALF_ROAD / z
        assert (columns[-1] - columns[0] + 1) / 2 == pytest.approx(half, abs=0.6)


def test_mirrored_states_make_mirrored_frames() -> None:
    """So that flipping a frame and negating the steering makes a true example."""
    state = np.array([0.3, -0.04, 0.02])
    np.testing.assert_array_equal(road.render(-state, -1.5, None), road.render(state, 1.5, None)[:, ::-1])
