"""The loss of one family as a surface over parameters N and tokens D, fitted to few runs, with bootstrap draws.

    L(N, D) = E + A / N^alpha + B / D^beta                              (Hoffmann et al. 2022, eq. 2)
    theta = argmin  sum_i (log L(N_i, D_i; theta) - log L_i)^2  +  sum_k (TAU (theta_k - prior_k) / width_k)^2

theta is (log E, log of the N term, log of the D term, alpha, beta), with both terms taken at the middle of the data.
The prior is weak: it has the weight of residuals of size `TAU`. It fixes only what the runs do not determine. Two sizes
do not separate E and A; one size also leaves alpha open. :mod:`seqjax.laws.fitting` is for the constants, and needs
more runs.

Uncertainty is a wild bootstrap over clusters (Cameron, Gelbach & Miller 2008): the residuals of a
cluster are multiplied by one random number. Before that they are corrected for their shrinkage by the fit (CR2, Bell &
McCaffrey 2002), and widened by Student's t for the degrees of freedom left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from seqjax.errors import UserError
from seqjax.laws.noise import students_factor
from seqjax.laws.points import Points
from seqjax.laws.ranks import ranks_of

NAMES = ("E", "A", "B", "alpha", "beta")
LEAST_TOKENS = 3  # different D that a surface needs
TAU = 1e-3  # in log L
EXPONENT, EXPONENT_WIDTH = 0.35, 0.25
SHARES, SHARE_WIDTHS = (0.6, 0.3, 0.3), (0.7, 1.5, 1.5)  # of the lowest loss: E and both terms; widths in logarithms
SAME_SIZE = 1.25  # sorted N with ratios up to this factor are one size
ITERATIONS, REST = 60, 1e-9
RANK = 1e-3  # singular values below this share of the largest count as 0


@dataclass(frozen=True)
class Surface:
    """A fitted surface.

    Attributes:
        theta: float64 [5], see the module.
        draws: float64 [R, 5], empty if the noise is unknown.
        middle: mean of log N and of log D.
        points: the fitted points. Points of one cluster share their noise.
        left: degrees of freedom: clusters minus directions that they determine; 0: the noise is unknown.
        error: root mean square of the residuals, in log L.
    """

    theta: np.ndarray
    draws: np.ndarray
    middle: tuple[float, float]
    points: Points
    left: int
    error: float

    def loss(self, params: np.ndarray, tokens: np.ndarray, thetas: np.ndarray | None = None) -> np.ndarray:
        """Nats per token at N and D, both [n]: [n], or [R, n] for thetas [R, 5]."""
        theta_RxP = np.atleast_2d(self.theta if thetas is None else thetas)
        found = _terms(theta_RxP, np.log(params) - self.middle[0], np.log(tokens) - self.middle[1]).sum(axis=0)
        return found[0] if thetas is None else found

    @property
    def constants(self) -> dict[str, float]:
        """E, A, B, alpha and beta of the equation."""
        e, a, b, alpha, beta = self.theta
        values = (np.exp(e), np.exp(a + alpha * self.middle[0]), np.exp(b + beta * self.middle[1]), alpha, beta)
        return dict(zip(NAMES, map(float, values), strict=True))


def fit_surface(points: Points, draws: int = 1000, seed: int = 0) -> Surface:
    """Fit the surface to the runs of one family.

    Args:
        points: with params and tokens; cluster: runs that share their noise, such as branches of one trunk.
        draws: number of bootstrap draws; 0: none.
    Raises:
        UserError: there are fewer than `LEAST_TOKENS` different D.
    """
    tokens = np.unique(points.variables["tokens"])
    if len(tokens) < LEAST_TOKENS:
        raise UserError(
            f"runs at {len(tokens)} different D are too few for a surface: {LEAST_TOKENS} or more are needed"
        )
    log_n, log_d = np.log(points.variables["params"]), np.log(points.variables["tokens"])
    middle = float(log_n.mean()), float(log_d.mean())
    n, d, log_loss = log_n - middle[0], log_d - middle[1], np.log(points.loss)
    thetas, costs = _minimise(_starts(points.loss), log_loss[None], n, d, _prior(points.loss))
    theta = thetas[np.argmin(costs)]
    residuals = log_loss - _log_loss(theta[None], n, d)[0]
    surface = Surface(
        theta, np.empty((0, 5)), middle, points, 0, float(np.sqrt((residuals**2).mean())),
    )  # fmt: skip
    jacobian = _jacobian(theta[None], n, d)[0]
    left, corrected = _corrected(residuals, jacobian, points.cluster)
    if draws == 0 or left == 0:
        return replace(surface, left=left)
    wild = np.random.default_rng(seed).standard_normal((draws, int(points.cluster.max()) + 1))[:, points.cluster]
    targets = log_loss - residuals + students_factor(left) * wild * corrected  # not theta: its valley is curved
    drawn, _ = _minimise(np.tile(theta, (draws, 1)), targets, n, d, _prior(points.loss))
    return replace(surface, left=left, draws=drawn)


def sizes_of(params: np.ndarray) -> np.ndarray:
    """Rank, from 0, of the size that each N belongs to; see `SAME_SIZE`."""
    return ranks_of(params, SAME_SIZE)


def _terms(theta_RxP: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """E, the term of N and the term of D, [3, R, n]."""
    e, a, b, alpha, beta = theta_RxP.T[:, :, None]
    with np.errstate(over="ignore"):
        return np.stack(np.broadcast_arrays(np.exp(e), np.exp(a - alpha * n), np.exp(b - beta * d)))


def _log_loss(theta_RxP: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.log(_terms(theta_RxP, n, d).sum(axis=0))


def _jacobian(theta_RxP: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """d log L / d theta, [R, n, 5]."""
    terms = _terms(theta_RxP, n, d)
    e, a, b = terms / terms.sum(axis=0)
    return np.stack([e, a, b, -a * n, -b * d], axis=-1)


def _prior(loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The expected theta, and the weight of each squared deviation from it, [5] each."""
    expected = np.array([*np.log(np.multiply(SHARES, loss.min())), EXPONENT, EXPONENT])
    return expected, (TAU / np.array([*SHARE_WIDTHS, EXPONENT_WIDTH, EXPONENT_WIDTH])) ** 2


def _starts(loss: np.ndarray) -> np.ndarray:
    exponents = (0.1, 0.3, 0.6, 1.0, 1.6)
    found = []
    for share in (0.3, 0.7, 0.95):
        rest = np.log((loss.mean() - share * loss.min()) / 2)
        found += [(np.log(share * loss.min()), rest, rest, alpha, beta) for alpha in exponents for beta in exponents]
    return np.array(found)


def _minimise(
    theta_RxP: np.ndarray, log_loss: np.ndarray, n: np.ndarray, d: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The minima and their values, by the Levenberg-Marquardt method from all starts at once.

    Args:
        log_loss: targets, [R, n] or [1, n].
    """
    expected, weight = prior
    log_loss = np.broadcast_to(log_loss, (len(theta_RxP), len(n)))
    theta = np.array(theta_RxP)
    damping, active = np.full(len(theta), 1e-3), np.arange(len(theta))
    value, _ = _cost(theta, log_loss, n, d, prior)
    for _ in range(ITERATIONS):
        here, target = theta[active], log_loss[active]
        _, residuals = _cost(here, target, n, d, prior)
        jacobian = _jacobian(here, n, d)
        gradient = np.einsum("rip,ri->rp", jacobian, residuals) + weight * (here - expected)
        hessian = np.swapaxes(jacobian, 1, 2) @ jacobian + np.diag(weight)
        scale = np.einsum("rpp->rp", hessian)[:, :, None] * np.eye(len(expected))
        step = np.linalg.solve(hessian + damping[active, None, None] * scale, gradient[..., None])[..., 0]
        tried, _ = _cost(here - step, target, n, d, prior)
        before = value[active]
        better = tried <= before  # False for NaN
        theta[active] = np.where(better[:, None], here - step, here)
        value[active] = np.where(better, tried, before)
        damping[active] *= np.where(better, 0.2, 4.0)
        rests = np.where(better, before - tried <= REST * before, damping[active] > 1e6)
        active = active[~rests]
        if not len(active):
            break
    return theta, value


def _cost(
    theta: np.ndarray, log_loss: np.ndarray, n: np.ndarray, d: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The minimised function [R], and residuals of log L [R, n]."""
    expected, weight = prior
    with np.errstate(over="ignore", invalid="ignore"):
        residuals = _log_loss(theta, n, d) - log_loss
        return (residuals**2).sum(axis=1) + ((theta - expected) ** 2 * weight).sum(axis=1), residuals


def _corrected(residuals: np.ndarray, jacobian: np.ndarray, cluster: np.ndarray) -> tuple[int, np.ndarray]:
    """Degrees of freedom left, and residuals (1 - H_gg)^-1/2 r_g. H projects on the columns of the Jacobian.

    If one cluster alone determines a direction of theta, its residual there is 0. Such directions are not corrected.
    """
    scaled = jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)  # with one size the column of alpha is 0
    count = int(cluster.max()) + 1
    means = np.stack([scaled[cluster == g].mean(axis=0) for g in range(count)])
    left = max(0, count - _rank(means))
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    u = u[:, s > RANK * s[0]]
    found = np.empty_like(residuals)
    for g in range(count):
        rows = cluster == g
        values, vectors = np.linalg.eigh(np.eye(int(rows.sum())) - u[rows] @ u[rows].T)
        root = np.where(values > 1e-3, values, 1.0) ** -0.5
        found[rows] = vectors @ (root * (vectors.T @ residuals[rows]))
    return left, found


def _rank(matrix: np.ndarray) -> int:
    s = np.linalg.svd(matrix, compute_uv=False)
    return int((s > RANK * s[0]).sum())
