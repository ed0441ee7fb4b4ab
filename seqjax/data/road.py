"""A drawn road and a driver with a known steering rule. The same seed gives the same frames; no file is needed.

The car moves v metres a frame along a road of smooth random curvature kappa. Offset e from the middle (metres, to the
right), heading psi against the road (radians) and steering s follow

    goal_t = kappa(x_t + L) / g - k_e e_t - k_psi psi_t                the driver's goal
    s_t    = s_{t-1} + (goal_t - s_{t-1}) / tau                        the hands: a lag of tau frames
    psi_{t+1} = psi_t + v (g s_t - kappa(x_t)) + gust                  gusts turn the car
    e_{t+1}   = e_t + v psi_t

A frame shows the road z metres ahead at the row h f / z below the horizon, with the road's middle at column f c(z) / z,

    c(z) = -e - psi z + kappa(x) z^2 / 2

with noise in every pixel and a camera that shakes sideways. One frame shows the goal with noise, and does not show the
lag. The steering is a weighted mean of past goals, with weights that fall as (1 - 1 / tau)^j. So more frames help, and
the gain diminishes after a few tau.
"""

from __future__ import annotations

import numpy as np

from seqjax.data.driving import HEIGHT, WIDTH, Drive

SPEED, GAIN, LAG, PREVIEW = 1.5, 0.1, 4.0, 6.0  # v metres a frame, g 1/m, tau frames, L metres
K_OFFSET, K_HEADING = 0.15, 3.0
CURVATURE, SMOOTH, GUST = 0.02, 16, 0.01  # 1/m; frames; radians
FOCAL, CAMERA_HEIGHT, HORIZON = 32.0, 1.6, -2.0  # pixels, metres, row: above the image
HALF_ROAD, LINE = 1.8, 0.3  # metres
GRASS, ASPHALT, PAINT = 90.0, 135.0, 225.0
SHAKE, NOISE = 1.0, 25.0  # standard deviations: pixels, grey levels


def drive_road(n_frames: int, seed: int = 0) -> Drive:
    """``n_frames`` frames of 32 x 64 pixels, and the steering at each, float32 in [-1, 1]."""
    rng = np.random.default_rng(seed)
    curvature_T = _curvature(n_frames + int(np.ceil(PREVIEW / SPEED)) + 1, rng)
    states_Tx3, steer_T = simulate(curvature_T, n_frames, GUST * rng.standard_normal(n_frames))
    frames = [render(state, SHAKE * rng.standard_normal(), rng) for state in states_Tx3]
    speed_T = np.full(n_frames, SPEED, np.float32)
    return Drive(np.stack(frames), steer_T.astype(np.float32), speed_T, f"the drawn road of seed {seed}")


def simulate(curvature_T: np.ndarray, n_frames: int, gust_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset, heading and curvature [T, 3] at each frame, and the steering [T]; see the module's equations.

    Args:
        curvature_T: kappa at x = 0, v, 2 v, ..., up to the preview of the last frame.
        gust_T: radians, added to the heading after each frame.
    """
    places_T = SPEED * np.arange(len(curvature_T))
    offset = heading = steer = 0.0
    states, steers = [], []
    for t in range(n_frames):
        ahead = np.interp(places_T[t] + PREVIEW, places_T, curvature_T)
        states.append((offset, heading, curvature_T[t]))
        goal = ahead / GAIN - K_OFFSET * offset - K_HEADING * heading
        steer = float(np.clip(steer + (goal - steer) / LAG, -1, 1))
        steers.append(steer)
        offset += SPEED * heading
        heading += SPEED * (GAIN * steer - curvature_T[t]) + gust_T[t]
    return np.array(states), np.array(steers)


def render(state_3: np.ndarray, shake: float, rng: np.random.Generator | None) -> np.ndarray:
    """The frame of a car at (offset, heading, curvature), uint8 [32, 64]. ``rng`` draws the noise; None: no noise."""
    offset, heading, curvature = state_3
    z_Yx1 = CAMERA_HEIGHT * FOCAL / (np.arange(HEIGHT)[:, None] + 0.5 - HORIZON)
    middle_Yx1 = -offset - heading * z_Yx1 + curvature * z_Yx1**2 / 2
    column_1xX = np.arange(WIDTH)[None, :] + 0.5 - WIDTH / 2 - shake
    from_middle_YxX = np.abs(column_1xX * z_Yx1 / FOCAL - middle_Yx1)
    pixel_Yx1 = z_Yx1 / FOCAL  # metres: the width of a soft edge

    def within(metres: float) -> np.ndarray:
        return np.clip((metres - from_middle_YxX) / pixel_Yx1 + 0.5, 0.0, 1.0)

    grey_YxX = GRASS + (PAINT - GRASS) * within(HALF_ROAD) + (ASPHALT - PAINT) * within(HALF_ROAD - LINE)
    if rng is not None:
        grey_YxX = grey_YxX + NOISE * rng.standard_normal(grey_YxX.shape)
    return np.clip(np.round(grey_YxX), 0, 255).astype(np.uint8)


def _curvature(length: int, rng: np.random.Generator) -> np.ndarray:
    """White noise smoothed twice over SMOOTH frames, with standard deviation CURVATURE."""
    kernel = np.convolve(np.full(SMOOTH, 1 / SMOOTH), np.full(SMOOTH, 1 / SMOOTH))
    smooth = np.convolve(rng.standard_normal(length + len(kernel) - 1), kernel, "valid")
    return CURVATURE * smooth / np.sqrt((kernel**2).sum())
