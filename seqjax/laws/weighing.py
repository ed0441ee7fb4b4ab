"""Estimates of several groups, such as the minima of IsoFLOP profiles: their noise, and a power law through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, polygamma

from seqjax.laws.intervals import bounds_of

FLOOR = 1e-4  # uncertainty of log y below which values weigh alike


@dataclass(frozen=True)
class PowerLaw:
    """y = scale x^exponent, least squares in logarithms, with the 95 % bootstrap interval of the exponent.

    Attributes:
        errors: standard errors of log y, if known.
    """

    scale: float
    exponent: float
    interval: tuple[float, float]
    x: np.ndarray
    y: np.ndarray
    errors: np.ndarray | None = None

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        return self.scale * np.asarray(x, np.float64) ** self.exponent


def power_law(at: np.ndarray, best: np.ndarray, drawn_RxB: np.ndarray, rng: np.random.Generator) -> PowerLaw:
    """y = k x^a by least squares in logarithms, with the 95 % interval of a.

    Each value has the weight 1 / (v + tau^2). v is the variance of its log y over the draws, and tau^2 the variance of
    the values around the line beyond v (DerSimonian & Laird 1986). Noise of variance tau^2 joins the draws.

    Args:
        at, best: x and y of each group, [B].
        drawn_RxB: draws of log y; none: equal weights, no interval.
    """
    x, y = np.log(at), np.log(best)
    variance = np.zeros(len(x))
    if len(drawn_RxB):
        low, high = np.percentile(drawn_RxB, (15.87, 84.13), axis=0)
        variance = ((high - low) / 2) ** 2
    beyond = _beyond(x, y, variance + FLOOR**2)
    weight = 1.0 / np.sqrt(variance + FLOOR**2 + beyond)
    slope, intercept = np.polyfit(x, y, 1, w=weight)
    more = np.sqrt(beyond) * rng.standard_normal(drawn_RxB.shape)
    slopes = np.polyfit(x, (drawn_RxB + more).T, 1, w=weight)[0] if len(drawn_RxB) else np.empty(0)
    low, high = bounds_of(slopes[:, None])[:, 0]
    return PowerLaw(float(np.exp(intercept)), float(slope), (float(low), float(high)), at, best, np.sqrt(variance))


def _beyond(x: np.ndarray, y: np.ndarray, variance: np.ndarray) -> float:
    """tau^2: the variance of y around a line in x beyond its own, by moments (DerSimonian & Laird 1986); at least 0."""
    if len(x) < 3:
        return 0.0
    weight = 1.0 / variance
    line = np.polyval(np.polyfit(x, y, 1, w=np.sqrt(weight)), x)
    columns = np.column_stack([np.ones_like(x), x])
    inner = columns.T @ (weight[:, None] * columns)
    expected = weight.sum() - np.trace(np.linalg.solve(inner, columns.T @ (weight[:, None] ** 2 * columns)))
    return max(0.0, float(((weight * (y - line) ** 2).sum() - (len(x) - 2)) / expected))


def noise_sizes(squares_B: np.ndarray, left_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of the noise of each group, and its degrees of freedom, each [B]; NaN if no group has any.

        s_b^2 <- (d_0 s_0^2 + d_b s_b^2) / (d_0 + d_b),    s_b^2 = squares_b / d_b

    d_0 and s_0 are those of a scaled inverse chi-squared distribution of the variances, by the moments of log s_b^2
    (Smyth 2004, Statistical Applications in Genetics 3). Variances that differ by chance alone are pooled.
    """
    known = (left_B > 0) & (squares_B > 0)
    if not known.any():
        return np.full(len(left_B), 0.0 if (left_B > 0).any() else np.nan), left_B.astype(float)
    half = left_B[known] / 2
    logs = np.log(squares_B[known] / left_B[known]) - digamma(half) + np.log(half)
    beyond = (np.var(logs, ddof=1) if len(logs) > 1 else 0.0) - polygamma(1, half).mean()
    most = 2.0 * left_B.sum()  # pooled: no group is known better than all of them together
    prior = min(2.0 * _inverse_trigamma(float(beyond)), most) if beyond > 0 else most
    usual = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    return np.sqrt((prior * usual + squares_B) / (prior + left_B)), np.minimum(prior + left_B, left_B.sum())


def _inverse_trigamma(y: float) -> float:
    """x with trigamma(x) = y, by Newton's method (Smyth 2004, appendix)."""
    x = 0.5 + 1.0 / y
    for _ in range(50):
        x += float(polygamma(1, x) * (1 - polygamma(1, x) / y) / polygamma(2, x))
    return x
