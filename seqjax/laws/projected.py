"""Starts of a fit, with the constants that enter linearly solved exactly (variable projection, Golub & Pereyra 1973).

    L(x; c, t) = sum_g c_g phi_g(x; t),    c = argmin_{c >= 0} sum_i w_i (L(x_i; c, t) / L_i - 1)^2

for the nonlinear constants t of each start. Starts that differ in linear constants alone become one: chinchilla's 4,500
starts become 25, one for each two exponents. To first order the objective is least squares of log L;
:mod:`seqjax.laws.minimise` goes on from there with the objective that was asked for, in all constants.

A group may be several constants that multiply one term together, such as A and B of (A / N^alpha + B / D^beta)^gamma,
whose ratio is nonlinear; A^gamma is then what is linear.
"""

from __future__ import annotations

import itertools

import numpy as np

from seqjax.laws.law import Law
from seqjax.laws.points import Points

GONE = 600.0  # a term is switched off by taking this from the logarithms of its coefficients
LEAST = 1e-3  # the smallest share of the losses that a term begins with: from 0 no step leads back


def solved(law: Law, points: Points, theta_SxP: np.ndarray) -> np.ndarray:
    """The starts with their linear constants solved, [S, P]; those that cannot be solved as they are."""
    if not law.linear:
        return theta_SxP
    places = [[law.names.index(name) for name in group] for group in law.linear]
    nonlinear_SxP = theta_SxP.copy()
    for group in places:
        nonlinear_SxP[:, group] -= theta_SxP[:, group[:1]]
    _, firsts, of_start = np.unique(nonlinear_SxP, axis=0, return_index=True, return_inverse=True)
    found = _solved_one_by_one(law, points, theta_SxP[firsts], places)[of_start.reshape(-1)]
    return np.where(np.isfinite(found).all(axis=1, keepdims=True), found, theta_SxP)


def _solved_one_by_one(law: Law, points: Points, theta_SxP: np.ndarray, places: list[list[int]]) -> np.ndarray:
    phi_SxGxn, power_SxG = _terms(law, points, theta_SxP, places)
    y_SxGxn = phi_SxGxn / points.loss
    root = np.ones(len(points)) if points.weight is None else np.sqrt(points.weight)
    with np.errstate(all="ignore"):
        c_SxG = nonnegative(y_SxGxn * root, root)
        moves_SxG = np.log(np.maximum(c_SxG, LEAST / y_SxGxn.mean(axis=2))) / power_SxG
    found = theta_SxP.copy()
    for g, group in enumerate(places):
        found[:, group] += moves_SxG[:, g, None]
    return found


def _terms(law: Law, points: Points, theta_SxP: np.ndarray, places: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Each term with the coefficients of the start, [S, G, n], and the power of exp(theta) in it, [S, G]."""
    others = np.zeros((len(places), theta_SxP.shape[1]))
    for g, group in enumerate(places):
        others[np.arange(len(places)) != g] -= GONE * np.isin(np.arange(theta_SxP.shape[1]), group)
    longer = np.stack([np.isin(np.arange(theta_SxP.shape[1]), group) for group in places]).astype(float)
    shifts_2xGxP = np.stack([others, others + longer])
    thetas = (theta_SxP[:, None, None] + shifts_2xGxP).reshape(-1, theta_SxP.shape[1])
    logs_of_terms = law.log_losses(thetas, points.variables).reshape(len(theta_SxP), 2, len(places), -1)
    alone, twice = logs_of_terms.swapaxes(0, 1)
    with np.errstate(over="ignore"):
        return np.exp(alone), (twice - alone).mean(axis=2)


def nonnegative(y_SxGxn: np.ndarray, target_n: np.ndarray) -> np.ndarray:
    """argmin over c >= 0 of |c y - target|^2, [S, G]: the best of the solutions over all sets of terms."""
    count, terms, _ = y_SxGxn.shape
    best, found = np.full(count, np.inf), np.zeros((count, terms))
    for size in range(1, terms + 1):
        for chosen in map(list, itertools.combinations(range(terms), size)):
            y = y_SxGxn[:, chosen]
            scale = np.sqrt((y**2).sum(axis=2, keepdims=True))
            unit = y / np.where(scale > 0, scale, 1.0)
            gram = unit @ unit.transpose(0, 2, 1) + 1e-13 * np.eye(size)
            sane = np.isfinite(gram).all(axis=(1, 2))
            c = np.zeros((count, size))
            c[sane] = np.linalg.solve(gram[sane], (unit[sane] @ target_n)[..., None])[..., 0]
            left = ((np.einsum("sg,sgn->sn", c, unit) - target_n) ** 2).sum(axis=1)
            better = sane & (c >= 0).all(axis=1) & (left < best)
            best = np.where(better, left, best)
            full = np.zeros((count, terms))
            full[:, chosen] = c / np.where(scale > 0, scale, 1.0)[..., 0]
            found = np.where(better[:, None], full, found)
    return found
