"""Consequences of Kaplan's laws in closed form: the critical batch, adjusted steps and compute, the best allocation.

Kaplan et al. 2020 (arXiv 2001.08361). N counts non-embedding parameters, batches are in tokens, compute is in FLOPs.
The paper's own numbers differ in the second digit (exponent of C_min: 0.050 measured, 0.052 and 0.054 derived); these
agree with it to that precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from seqjax.errors import UserError
from seqjax.laws.points import Points

PF_DAY = 8.64e19  # FLOPs: 1e15 per second for a day
B_STAR, ALPHA_B = 2.1e8, 0.21  # tokens; eq. 1.4, 5.3


def critical_batch(loss: np.ndarray | float, b_star: float = B_STAR, alpha_b: float = ALPHA_B) -> np.ndarray | float:
    """B_crit(L) = B* / L^(1 / alpha_B), in tokens (eq. 1.4): it doubles when the loss falls by 13 %."""
    return b_star / np.asarray(loss, np.float64) ** (1.0 / alpha_b)


def minimal_steps(
    steps: np.ndarray | float, batch: np.ndarray | float, critical: np.ndarray | float
) -> np.ndarray | float:
    """S_min = S / (1 + B_crit / B): steps with a batch far above B_crit (eq. 5.4)."""
    return np.asarray(steps, np.float64) / (1.0 + np.asarray(critical, np.float64) / batch)


def minimal_compute(
    flops: np.ndarray | float, batch: np.ndarray | float, critical: np.ndarray | float
) -> np.ndarray | float:
    """C_min = C / (1 + B / B_crit): compute with a batch far below B_crit (eq. 5.5)."""
    return np.asarray(flops, np.float64) / (1.0 + batch / np.asarray(critical, np.float64))


def adjusted(points: Points, batch: np.ndarray | float, b_star: float = B_STAR, alpha_b: float = ALPHA_B) -> Points:
    """Points with steps and FLOPs replaced by S_min and C_min.

    Args:
        batch: tokens per step, one number or one per point.
        b_star, alpha_b: constants of the critical batch; the defaults were measured on WebText2.

    Raises:
        UserError: a constant that is not positive.
    """
    if not (b_star > 0 and alpha_b > 0):
        raise UserError(f"critical batch: {b_star:g} tokens and exponent {alpha_b:g} must be positive")
    critical = critical_batch(points.loss, b_star, alpha_b)
    variables, conventions = dict(points.variables), dict(points.conventions)
    if "steps" in variables:
        variables["steps"] = np.asarray(minimal_steps(variables["steps"], batch, critical))
        conventions["steps"] = "S_min"
    if "flops" in variables:
        variables["flops"] = np.asarray(minimal_compute(variables["flops"], batch, critical))
        conventions["flops"] = f"C_min, from {conventions.get('flops', 'C')}"
    note = f"steps and FLOPs adjusted to the critical batch {b_star:.3g} / L^(1/{alpha_b:g}) tokens"
    return replace(points, variables=variables, conventions=conventions, notes=(*points.notes, note))


@dataclass(frozen=True)
class Allocation:
    """The best use of C_min: each quantity is ``scale * C_min^exponent``, with C_min in FLOPs (appendix B.3).

    Attributes:
        loss, params, batch (tokens), steps: (scale, exponent); the exponent of the loss is negative.
    """

    loss: tuple[float, float]
    params: tuple[float, float]
    batch: tuple[float, float]
    steps: tuple[float, float]

    def at(self, flops: float) -> dict[str, float]:
        """Loss in nats, parameters, batch in tokens, and steps at a budget of C_min FLOPs."""
        named = {"loss": self.loss, "params": self.params, "batch": self.batch, "steps": self.steps}
        return {name: scale * flops**exponent for name, (scale, exponent) in named.items()}


def allocation(n_c: float, s_c: float, alpha_n: float, alpha_s: float) -> Allocation:
    """The best N, B and S for L(N, S_min) = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S, C_min = 6 N B_crit S_min.

    Training stops when the step term is alpha_N / alpha_S of the other, about 10 % above convergence, and

        1 / alpha_C = 1 / alpha_S + 1 / alpha_B + 1 / alpha_N
        L = (C_c / C_min)^alpha_C,   N ~ C_min^(alpha_C / alpha_N), B ~ C_min^(alpha_C / alpha_B), S ~ C_min^(alpha_C /
        alpha_S),    C_c = 6 N_c B* S_c (1 + alpha_N/alpha_S)^(1/alpha_N) (1 + alpha_S/alpha_N)^(1/alpha_S)
    """
    alpha_c = 1.0 / (1.0 / alpha_s + 1.0 / ALPHA_B + 1.0 / alpha_n)
    over_n, over_s = (1.0 + alpha_n / alpha_s) ** (1.0 / alpha_n), (1.0 + alpha_s / alpha_n) ** (1.0 / alpha_s)
    c_c = 6.0 * n_c * B_STAR * s_c * over_n * over_s
    return Allocation(
        loss=(c_c**alpha_c, -alpha_c),
        params=(n_c * over_n * c_c ** (-alpha_c / alpha_n), alpha_c / alpha_n),
        batch=(B_STAR * c_c ** (-alpha_c / ALPHA_B), alpha_c / ALPHA_B),
        steps=(s_c * over_s * c_c ** (-alpha_c / alpha_s), alpha_c / alpha_s),
    )
