"""Chinchilla's law by variable projection, with scipy alone: a second solver to hold `seqjax.laws` against.

    min over alpha, beta of  min over E, A, B >= 0 of  1/2 sum_i (E + A N_i^-alpha + B D_i^-beta - L_i)^2

The inner minimum is exact: nonnegative least squares (Lawson & Hanson 1974). Only the two exponents are searched, from
the best of a grid, with the gradient at fixed E, A, B (envelope theorem). Golub & Pereyra 1973; the package vpnls does
this for scaling laws (Czech et al. 2026, arXiv 2603.22339). This file shares no code with `seqjax.laws`.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize, nnls

NAMES = ("E", "A", "B", "alpha", "beta")
GRID = np.linspace(0.05, 1.5, 30)  # of each exponent
RANGE = (0.01, 2.0)


def projected(params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> tuple[float, dict[str, float]]:
    """The minimum, nats^2, and the constants there."""
    logs_2xn = np.log(np.stack([params, tokens]))
    middle_2 = logs_2xn.mean(axis=1)
    logs_2xn = logs_2xn - middle_2[:, None]  # columns near 1: the inner problem is well scaled

    def inner(exponents: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        terms_2xn = np.exp(-exponents[:, None] * logs_2xn)
        linear, _ = nnls(np.column_stack([np.ones_like(loss), *terms_2xn]), loss)
        slopes_2xn = linear[1:, None] * terms_2xn
        miss = linear[0] + slopes_2xn.sum(axis=0) - loss
        return float(miss @ miss) / 2, -(slopes_2xn * logs_2xn) @ miss, linear

    grid = [np.array([alpha, beta]) for alpha in GRID for beta in GRID]
    start = min(grid, key=lambda exponents: inner(exponents)[0])
    scale = inner(start)[0]  # values near 1, so that the tolerances are relative
    found = minimize(
        lambda x: tuple(part / scale for part in inner(x)[:2]), start, jac=True, method="L-BFGS-B",
        bounds=[RANGE] * 2, options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 1000},
    )  # fmt: skip
    value, _, (floor, *terms) = inner(found.x)
    a, b = (float(term * np.exp(x * m)) for term, x, m in zip(terms, found.x, middle_2, strict=True))
    return value, dict(zip(NAMES, (float(floor), a, b, *map(float, found.x)), strict=True))
