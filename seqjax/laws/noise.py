"""Noise drawn from the residuals of a fit. :mod:`seqjax.laws.fitting` refits the law to predictions with such noise.

    e_g = t u_g (+- sqrt(1 - b) s_h + sqrt(b) s z_g),    u_g = r_g / s_g,    s_g = rms(r_g) / sqrt(1 - l_g)

r_g are the residuals of log L in cluster g, of k clusters. The sign is random. With probability
min(1, max(SHARED P / k, l_g)), h is drawn from the `NEAR` clusters with the predicted losses nearest to those of g;
else h = g. So a cluster keeps the shape of its residuals. With few points, and where the fit follows the cluster (l_g
near 1), it mostly takes the size of a similar cluster: a residual that is small by chance must not fix the law. With
many points it mostly keeps its own size, since noise may be larger at the points that determine a constant. The method
lies between a residual bootstrap (Efron 1979) and a wild bootstrap with signs, which is also valid for absolute
deviations (Feng, He & Hu 2011).

+- s_h has few values, and none above the largest residual. Where one point determines a constant, the interval would
end there. So a share b = P / k of the variance is normal (a smoothed bootstrap: Silverman & Young 1987): z_g is
standard normal, and s^2 = sum rms(r)^2 / sum (1 - l) over the nearest clusters. With many points b is small.

The fit follows the noise of each point, and most where a point alone determines a constant. So residuals are too small.
1 - l_g corrects this, with the leverage l_g = |Q_g' r_g|^2 / |r_g|^2, at most 1 - 1 / k. Q is an orthonormal basis of
the derivatives of log L by the constants (for single points: HC2 of MacKinnon & White 1985). With small k - P the size
of the residuals is itself uncertain; t = t_{0.975, k - P} / z_{0.975} corrects this (Student 1908).

The noise is widened, not the refits. The constants of equally good fits lie in a curved valley. Refits to wider noise
stay in it. Refits that are moved along straight lines leave it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import stdtrit

NEAR = 12  # clusters that share the size of their residuals
SHARED = 14.0  # see the module; measured in experiments/coverage.py and on the points of Hoffmann et al. 2022
NORMAL = 1.959964  # 97.5 % point of the normal distribution


def students_factor(left: float | np.ndarray) -> Any:
    """Factor on a 95 % interval whose scale is estimated: t_{0.975, left} / z_{0.975}."""
    return stdtrit(left, 0.975) / NORMAL


def drawn_noise(
    residuals: np.ndarray,
    predicted: np.ndarray,
    cluster: np.ndarray,
    jacobian_nxP: np.ndarray,
    count: int,
    seed: int,
    least: float = 0.0,
) -> np.ndarray:
    """Draws of the noise in log L, [count, n]; see the module.

    Args:
        residuals: of log L, by least squares, [n].
        predicted: log L by the law, [n].
        cluster: of each point, [n], numbered from 0 without gaps.
        jacobian_nxP: derivatives of log L by the P constants; P is less than the number of clusters.
        least: noise of this size is known to be there, such as that between seeds: all noise is scaled up to it.
    """
    k, constants = int(cluster.max()) + 1, jacobian_nxP.shape[1]
    sizes = np.bincount(cluster)
    scale_k = np.sqrt(np.bincount(cluster, residuals**2) / sizes)
    with np.errstate(invalid="ignore", divide="ignore"):
        shape_n = np.where(scale_k[cluster] > 0, residuals / scale_k[cluster], 1.0)
    leverage_k = _leverage(shape_n, cluster, jacobian_nxP)
    own_k = np.maximum(1.0 - leverage_k, 1.0 / k)
    rank_k = np.empty(k, int)
    order = np.argsort(np.bincount(cluster, predicted) / sizes, kind="stable")
    rank_k[order] = np.arange(k)
    near = min(NEAR, k)
    first_k = np.clip(rank_k - near // 2, 0, k - near)
    nearest_kxn = order[first_k[:, None] + np.arange(near)]
    usual_k = np.sqrt((scale_k**2)[nearest_kxn].sum(axis=1) / own_k[nearest_kxn].sum(axis=1))
    scale_k /= np.sqrt(own_k)
    if 0 < (size := np.sqrt((scale_k**2).mean())) < least:
        scale_k, usual_k = scale_k * (least / size), usual_k * (least / size)
    rng = np.random.default_rng(seed)
    other_Rxk = order[first_k + rng.integers(near, size=(count, k))]
    shares_Rxk = rng.random((count, k)) < np.maximum(SHARED * constants / k, leverage_k)
    other_Rxk = np.where(shares_Rxk, other_Rxk, np.arange(k))
    sign_Rxk = rng.choice([-1.0, 1.0], size=(count, k))
    normal = min(1.0, constants / k)
    drawn_Rxk = np.sqrt(1.0 - normal) * sign_Rxk * scale_k[other_Rxk]
    drawn_Rxk += np.sqrt(normal) * usual_k * rng.standard_normal((count, k))
    return students_factor(k - constants) * shape_n * drawn_Rxk[:, cluster]


def _leverage(residuals: np.ndarray, cluster: np.ndarray, jacobian_nxP: np.ndarray) -> np.ndarray:
    """The share of the noise of each cluster that the fit follows, between 0 and 1, [k]."""
    jacobian_nxP = np.where(np.isfinite(jacobian_nxP), jacobian_nxP, 0.0)  # of a constant that is not determined
    norms_P = np.linalg.norm(jacobian_nxP, axis=0)
    basis_nxP, sizes_P, _ = np.linalg.svd(jacobian_nxP / np.where(norms_P > 0, norms_P, 1.0), full_matrices=False)
    basis_nxP = basis_nxP[:, sizes_P > 1e-9]
    followed_kxP = np.stack([np.bincount(cluster, column * residuals) for column in basis_nxP.T], axis=1)
    return (followed_kxP**2).sum(axis=1) / np.bincount(cluster, residuals**2)
