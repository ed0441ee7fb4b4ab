"""Draws of a difference of two fits: Welch's degrees of freedom (Welch 1947, Biometrika 34; Satterthwaite 1946).

The noise of each fit is widened by Student's t for its own few degrees of freedom (:mod:`seqjax.laws.noise`). A
difference of two independent fits has more of them. With the variances v of both sides, before they are widened,

    left = (v_a + v_b)^2 / (v_a^2 / left_a + v_b^2 / left_b)

Two fits of 5 points and 2 constants have 3 each and, of equal scatter, 6 together: the interval is 0.77 as wide.
"""

from __future__ import annotations

import numpy as np

from seqjax.laws.noise import students_factor

ENDS = (0.16, 0.84)  # of draws: half the distance is their spread, whatever their tails


def difference(a_RxM: np.ndarray, b_RxM: np.ndarray, left: tuple[int, int]) -> np.ndarray:
    """Draws of a - b, [R, M], with row 0 the estimates themselves.

    Args:
        a_RxM, b_RxM: estimates in row 0, draws below; may be infinite.
        left: degrees of freedom of each side.
    """
    with np.errstate(invalid="ignore"):
        gap_RxM = a_RxM - b_RxM
        moved_RxM = gap_RxM[:1] + _factor(a_RxM[1:], b_RxM[1:], left) * (gap_RxM[1:] - gap_RxM[:1])
    usable_RxM = np.isfinite(gap_RxM[:1]) & np.isfinite(gap_RxM[1:])
    return np.concatenate([gap_RxM[:1], np.where(usable_RxM, moved_RxM, gap_RxM[1:])])


def _factor(a_RxM: np.ndarray, b_RxM: np.ndarray, left: tuple[int, int]) -> np.ndarray:
    """By how much the widened draws of a difference are too wide, inverted, [M]; 1 where a spread is not finite."""
    if not len(a_RxM) or min(left) < 1:
        return np.ones(a_RxM.shape[1])
    wide_2 = np.array([students_factor(one) for one in left]) ** 2
    wide_2xM = np.stack([_spread(drawn) ** 2 for drawn in (a_RxM, b_RxM)])
    with np.errstate(invalid="ignore", divide="ignore"):
        own_2xM = wide_2xM / wide_2[:, None]
        together_M = own_2xM.sum(axis=0) ** 2 / (own_2xM**2 / np.array(left)[:, None]).sum(axis=0)
        known_M = np.isfinite(together_M)
        found_M = students_factor(np.where(known_M, together_M, 1.0)) * np.sqrt(
            own_2xM.sum(axis=0) / wide_2xM.sum(axis=0)
        )
    return np.where(known_M, found_M, 1.0)


def _spread(drawn_RxM: np.ndarray) -> np.ndarray:
    low, high = np.quantile(drawn_RxM, ENDS, axis=0, method="nearest")
    with np.errstate(invalid="ignore"):
        return (high - low) / 2
