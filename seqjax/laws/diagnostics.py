"""What reasons to doubt a fit are decided on: correlations, profiles, trends, influence, hold-out.

The reasons themselves are in :mod:`seqjax.laws.doubts`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from seqjax.laws.doubts import flags_of
from seqjax.laws.fitting import Fit
from seqjax.laws.intervals import LEAST_DRAWS
from seqjax.laws.points import Points
from seqjax.laws.searching import deltas_to, refit

HELD_OUT = 0.1  # share of the clusters, by most compute
SAME = 1e-3  # relative difference that three digits do not show
MOST_LEFT_OUT = 400  # clusters that are left out one at a time
SIDES = np.concatenate([np.linspace(0.25, 5.0, 20), [7, 10, 15, 25, 40]])  # standard errors, for a profile
CHI2 = 3.841  # 95 % point of chi squared with one degree of freedom


def diagnosed(fit: Fit) -> Fit:
    """The fit with its flags and with the numbers that they are based on."""
    details: dict[str, Any] = {
        "scatter": float(np.std(fit.residuals)),
        "correlations": correlations(fit),
        "profiles": profiles(fit),
        "trends": trends(fit),
        "influence": influence(fit),
        "hold_out": hold_out(fit),
    }
    fit = replace(fit, details=details)
    return replace(fit, flags=tuple(flags_of(fit)))


def standard_errors(fit: Fit) -> np.ndarray:
    """Standard errors of theta: half the distance of the 16th and 84th percentiles of the refits, which is robust."""
    if not len(fit.draws):
        return np.full(len(fit.theta), np.nan)
    low, high = np.percentile(fit.draws, (15.87, 84.13), axis=0)
    return (high - low) / 2


def correlations(fit: Fit) -> dict[str, float]:
    """Rank correlation of each two constants over the refits: ``{"A, alpha": 0.99}``."""
    if len(fit.draws) < LEAST_DRAWS:
        return {}
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN for a constant that is equal in all refits
        matrix = np.corrcoef(stats.rankdata(fit.law.constants_of(fit.draws), axis=0).T)
    names = fit.law.names
    return {f"{names[i]}, {names[j]}": float(matrix[i, j]) for i, j in combinations(range(len(names)), 2)}


def profiles(fit: Fit) -> dict[str, tuple[float, float]]:
    """95 % profile-likelihood interval of each constant, to compare with the bootstrap.

    Each constant is fixed at values around the best, the others are fitted again, and the interval is where

        k n ln(F / F_best) <= 3.84,    k = 1 for least squares (normal residuals), 2 for small deltas (Laplace)

    with the scale of the residuals fitted too. n is the number of clusters, since their points are not independent. An
    end that is not reached is infinite (the lower end of a positive constant: 0).
    Constants that are not coordinates of the fit (N_c of a power law) have no profile. Nor has one whose end is not
    reached, where a cluster is a run: what is determined within runs, F hardly knows, since most of F is between runs.
    """
    errors = standard_errors(fit)
    count, n = len(fit.theta), len(np.unique(fit.points.cluster))
    if len(fit.draws) < LEAST_DRAWS or not (errors > 0).all() or fit.value <= 1e-15 * n:
        return {}
    spread = np.cov(fit.draws.T).reshape(count, count)
    variance = np.maximum(np.diag(spread), 1e-300)
    shifts = np.concatenate([-SIDES[::-1], SIDES])
    held = np.repeat(np.arange(count), len(shifts))
    moves = np.tile(shifts, count) * errors[held]
    theta = fit.theta + np.clip(spread[held] / variance[held, None], -1e3, 1e3) * moves[:, None]
    theta[np.arange(len(held)), held] = fit.theta[held] + moves
    free = np.arange(count) != held[:, None]
    found = refit(fit.law, fit.points, theta, deltas_to(fit.delta)[-2:], free_SxP=free, errors=fit.errors)
    factor = 1 if _is_quadratic(fit) else 2
    with np.errstate(invalid="ignore", divide="ignore"):
        rise = factor * n * np.log(found.value_S / fit.value)
    rise = np.where(np.isfinite(rise), rise, np.inf).reshape(count, len(shifts))
    names = [(j, name) for j, name in enumerate(fit.law.names) if fit.law.plain[j]]
    ends = {name: _profile_ends(fit, j, errors[j], shifts, rise[j]) for j, name in names}
    several = n < len(fit.points) and bool(fit.points.clusters)
    return {name: found for name, found in ends.items() if not several or (np.isfinite(found).all() and all(found))}


def _is_quadratic(fit: Fit) -> bool:
    """Whether most residuals are in the quadratic part of the objective."""
    return bool(np.median(np.abs(fit.misses)) <= fit.delta)


def _profile_ends(fit: Fit, j: int, error: float, shifts: np.ndarray, rise: np.ndarray) -> tuple[float, float]:
    half = len(shifts) // 2
    ends = []
    for sign, rises in ((-1, rise[:half][::-1]), (1, rise[half:])):
        beyond = np.flatnonzero(rises > CHI2)
        if not len(beyond):
            ends.append(sign * np.inf)
            continue
        k = beyond[0]
        before, there = (SIDES[k - 1], rises[k - 1]) if k else (0.0, 0.0)
        share = (CHI2 - there) / (rises[k] - there) if np.isfinite(rises[k]) else 1.0
        ends.append(sign * (before + share * (SIDES[k] - before)))
    theta = fit.theta[j] + np.array(ends) * error
    if fit.law.constants[j].positive:
        theta = np.exp(theta)
    return float(theta[0]), float(theta[1])


def trends(fit: Fit) -> dict[str, dict[str, float]]:
    """Trends of the residuals with each variable: Spearman's correlation with its p value, and the p value of a bend.

    The bend is an F test on the ranks of the residuals: a parabola in the logarithm of the variable against a line.
    """
    found = {}
    for name in dict.fromkeys((*fit.law.variables, *(("flops",) if "flops" in fit.points.variables else ()))):
        values = fit.points.variables[name]
        if len(np.unique(values)) > 2 and len(values) >= 6 and np.ptp(fit.residuals) > 1e-12:
            result = stats.spearmanr(values, fit.residuals)
            found[name] = {
                "correlation": float(result.statistic),
                "p": float(result.pvalue),
                "p_bend": _p_of_a_bend(np.log(values), fit.residuals),
            }
    return found


def _p_of_a_bend(x: np.ndarray, residuals: np.ndarray) -> float:
    ranks = stats.rankdata(residuals)
    z = (x - x.mean()) / x.std()
    columns = np.column_stack([np.ones_like(z), z, z**2])
    line, bent = (
        float(((ranks - columns[:, :count] @ np.linalg.lstsq(columns[:, :count], ranks)[0]) ** 2).sum())
        for count in (2, 3)
    )
    rest = len(z) - 3
    return float(stats.f.sf((line - bent) / (bent / rest), 1, rest)) if bent > 0 else 0.0


def influence(fit: Fit) -> list[dict[str, Any]]:
    """The three clusters whose removal moves a constant most, in its standard errors."""
    errors = standard_errors(fit)
    clusters = np.unique(fit.points.cluster)
    if len(fit.draws) < LEAST_DRAWS or not (errors > 0).all() or len(clusters) <= len(fit.theta) + 1:
        return []
    if len(clusters) > MOST_LEFT_OUT:  # only the clusters farthest from the law
        sizes = [np.abs(fit.residuals[fit.points.cluster == c]).sum() for c in clusters]
        clusters = clusters[np.argsort(sizes)[-MOST_LEFT_OUT:]]
    weights = (fit.points.cluster[None, :] != clusters[:, None]).astype(np.float64)
    start, deltas = np.tile(fit.theta, (len(clusters), 1)), deltas_to(fit.delta)[-2:]
    found = refit(fit.law, fit.points, start, deltas, weights, errors=fit.errors)
    moves = (found.theta_SxP - fit.theta) / errors
    largest = np.nanmax(np.abs(moves), axis=1)
    top = np.argsort(-largest)[:3]
    return [
        {
            "points": _names_of(fit.points, clusters[i]),
            "constant": fit.law.names[int(np.nanargmax(np.abs(moves[i])))],
            "standard_errors": float(largest[i]),
        }
        for i in top
    ]


def _names_of(points: Points, cluster: int) -> str:
    names = [row for row, c in zip(points.rows, points.cluster, strict=True) if c == cluster]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def hold_out(fit: Fit) -> dict[str, float]:
    """Fit without the tenth of the clusters with the most compute (or of the last variable); the error on them.

    Returns:
        ``points`` (number held out), ``clusters`` (of which), ``variable`` and ``from`` (its lowest value there),
        ``all_above`` (whether they are all points from there on), ``mean_error`` (mean absolute)
        and ``largest_error`` (with sign) of the predicted loss over the measured loss; ``noise``: the mean error that
        noise explains (see :func:`_noise_of_misses`); empty if too few points remain.
    """
    scale_name = "flops" if "flops" in fit.points.variables else fit.law.variables[-1]
    scale = fit.points.variables[scale_name]
    clusters = np.unique(fit.points.cluster)
    largest = np.array([scale[fit.points.cluster == c].max() for c in clusters])
    count = max(1, round(HELD_OUT * len(clusters)))
    if len(clusters) - count <= len(fit.theta):
        return {}
    held = np.isin(fit.points.cluster, clusters[np.argsort(largest, kind="stable")[-count:]])
    weights, deltas = (~held).astype(np.float64)[None], deltas_to(fit.delta)[-3:]
    found = refit(fit.law, fit.points, fit.theta, deltas, weights, errors=fit.errors)
    theta = found.theta_SxP[0]
    ratio = fit.law.loss(theta, fit.points.variables) / fit.points.loss  # of all points: compiled already
    errors = ratio[held] - 1
    return {
        "noise": _noise_of_misses(fit, theta, np.log(ratio), held),
        "points": int(held.sum()),
        "clusters": count,
        "variable": scale_name,
        "from": float(scale[held].min()),
        "all_above": bool((held == (scale >= scale[held].min() * (1 - SAME))).all()),
        "mean_error": float(np.abs(errors).mean()),
        "largest_error": float(errors[np.abs(errors).argmax()]),
    }


def _noise_of_misses(fit: Fit, theta: np.ndarray, misses: np.ndarray, held: np.ndarray) -> float:
    """Mean |error| of held-out points that one of 100 fits with the right law and normal noise exceeds, at most.

    For a point with derivatives x of log L by the constants it is t_{0.995, k - P} s sqrt(1 + x' (J'J / m)^-1 x): the
    noise of the point, and that of the law fitted to the other points, k clusters of m points with scatter s.

    Args:
        theta: fitted without the held-out points; misses: log of predicted over measured loss, [n].
    """
    steps, variables = 1e-6 * np.eye(len(theta)), fit.points.variables
    above, below = (fit.law.log_losses(theta + sign * steps, variables) for sign in (1.0, -1.0))
    jacobian_nxP = np.nan_to_num((above - below).T / 2e-6)
    inside = ~held
    clusters = len(np.unique(fit.points.cluster[inside]))
    left = clusters - len(theta)
    scatter = np.sqrt((misses[inside] ** 2).mean() * clusters / left)
    inverse_PxP = np.linalg.pinv(jacobian_nxP[inside].T @ jacobian_nxP[inside]) * inside.sum() / clusters
    own_n = np.einsum("np,pq,nq->n", jacobian_nxP[held], inverse_PxP, jacobian_nxP[held])
    return float(stats.t.ppf(0.995, left) * scatter * np.sqrt(1.0 + own_n).mean())
