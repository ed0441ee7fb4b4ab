"""Where one family overtakes another: at each size N, the tokens D*(N), compute or seconds where the gap is 0.

    gap(N, u) = L_a(N, D_a(N, u)) - L_b(N, D_b(N, u)),    D_f = u / c_f(N)

u is a budget: tokens (c = 1), FLOPs or seconds, with the cost c_f of a token of each family at that size. The crossing
is the zero of the gap in log u. It is estimated twice: from the surfaces of :mod:`seqjax.laws.surfaces`, and directly,
from losses interpolated over log D at each size that both families have. Draws of the gap have Welch's degrees of
freedom (:mod:`seqjax.laws.differences`). A draw without a crossing counts as one at 0 or at infinity. So every interval
uses all draws, and it may have an open end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqjax.laws.differences import difference
from seqjax.laws.intervals import bounds_of
from seqjax.laws.noise import students_factor
from seqjax.laws.points import Points
from seqjax.laws.surfaces import SAME_SIZE, Surface, sizes_of

BEYOND = np.log(30.0)  # the search for a crossing extends this far beyond the data, in log u
FINE = 0.03  # step of the grid in log u
SAME_TOKENS = 1.05  # runs have the same D within this factor
APART = 1.25  # crossings without intervals disagree beyond this factor


@dataclass(frozen=True)
class Place:
    """The crossing at one size.

    Attributes:
        params: N.
        span: lowest and highest budget at which both families were measured.
        x: the budget where the gap is 0. 0: the second family of ``order`` always leads; infinite: the first one does.
        low, high: 95 % interval of x; NaN: the noise is unknown.
        order: the family that leads before x, and the one that leads after.
        gaps: loss of the first family minus that of the second, nats, at both ends of the span.
        outside: whether N lies outside the sizes that both families have.
    """

    params: float
    span: tuple[float, float]
    x: float
    low: float
    high: float
    order: tuple[str, str]
    gaps: tuple[float, float]
    outside: bool = False

    @property
    def beyond(self) -> bool:
        """Whether x lies outside the data."""
        return self.outside or not self.span[0] <= self.x <= self.span[1]

    @property
    def verdict(self) -> str:
        """The result in words."""
        return self._told[1]

    @property
    def leader(self) -> str | None:
        """The family that leads by the verdict; None: each does somewhere, or it is not known."""
        return self._told[0]

    @property
    def _told(self) -> tuple[str | None, str]:
        before, after = self.order
        first, last = self.span
        if self.outside:
            return None, "beyond the sizes in the data"
        if np.isnan(self.low):
            if self.beyond:
                return (leader := self.order[self.x < first]), f"{leader} leads everywhere in the data (noise unknown)"
            return None, f"{before}, then {after} (noise unknown)"
        if self.high < first:
            return after, f"{after} leads everywhere in the data"
        if self.low > last:
            return before, f"{before} leads everywhere in the data"
        if self.low < first and self.high > last:
            return None, "not resolved"
        if self.low < first:
            return after, f"{after} leads at the end; a crossing before the data is not excluded"
        if self.high > last:
            return before, f"{before} leads at first; a crossing after the data is not excluded"
        return None, f"{before}, then {after}"


@dataclass(frozen=True)
class Cost:
    """Cost of a token at N: log cost is linear in log N between the measured sizes, and beyond them."""

    log_params: np.ndarray
    log_cost: np.ndarray

    def __call__(self, params: np.ndarray | float) -> np.ndarray:
        at, x, y = np.log(params), self.log_params, self.log_cost
        found = np.interp(at, x, y)
        if len(x) > 1:
            found += np.minimum(at - x[0], 0) * (y[1] - y[0]) / (x[1] - x[0])
            found += np.maximum(at - x[-1], 0) * (y[-1] - y[-2]) / (x[-1] - x[-2])
        return np.exp(found)


def cost_of(points: Points, budget: str) -> Cost:
    """Cost of a token of these runs in ``tokens``, ``flops`` or ``seconds``: the geometric mean at each size."""
    log_n = np.log(points.variables["params"])
    cost = np.log(points.variables[budget] / points.variables["tokens"])
    ranks = sizes_of(points.variables["params"])
    means = [(log_n[ranks == rank].mean(), cost[ranks == rank].mean()) for rank in range(ranks.max() + 1)]
    return Cost(*np.array(means).T)


def common_sizes(a: Points, b: Points) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(N, mask of the points of a, mask of the points of b) for each size that both have."""
    together = np.concatenate([a.variables["params"], b.variables["params"]])
    ranks = sizes_of(together)
    of_a, of_b = ranks[: len(a)], ranks[len(a) :]
    return [
        (float(np.exp(np.log(together[ranks == rank]).mean())), of_a == rank, of_b == rank)
        for rank in sorted({*of_a} & {*of_b})
    ]


def crossings(
    a: Surface, b: Surface, names: tuple[str, str], params: Sequence[float], budget: str = "tokens"
) -> list[Place]:
    """The crossing of the fitted surfaces at each N at which both were trained with a budget in common."""
    costs = cost_of(a.points, budget), cost_of(b.points, budget)
    found = (_crossing(a, b, names, float(n), costs) for n in params)
    return [place for place in found if place is not None]


def _crossing(a: Surface, b: Surface, names: tuple[str, str], n: float, costs: tuple[Cost, Cost]) -> Place | None:
    if (span := span_at(a.points, b.points, n, costs)) is None:
        return None
    first, last = span
    log_u = np.arange(np.log(first) - BEYOND, np.log(last) + BEYOND + FINE, FINE)
    gap = gaps(a, b, np.full(len(log_u), n), np.exp(log_u), costs, draws=True)
    return place_of(n, gap, log_u, (first, last), names, outside_sizes(a.points, b.points, n))


def gaps(
    a: Surface, b: Surface, params: np.ndarray, budget: np.ndarray, costs: tuple[Cost, Cost], draws: bool = False
) -> np.ndarray:
    """Loss of a minus loss of b, nats, at N and u, both [n]: by the fits in row 0, by draws below, [1 + R, n]."""
    count = min(len(a.draws), len(b.draws)) if draws else 0
    losses = []
    for surface, cost in zip((a, b), costs, strict=True):
        thetas = np.concatenate([surface.theta[None], surface.draws[:count]])
        losses.append(surface.loss(params, budget / cost(params), thetas))
    return difference(*losses, (a.left, b.left))


def outside_sizes(a: Points, b: Points, params: float) -> bool:
    """Whether N lies outside the sizes that both families have."""
    ns = [points.variables["params"] for points in (a, b)]
    low, high = max(n.min() for n in ns), min(n.max() for n in ns)
    low, high = min(low, high), max(low, high)  # one size, with slightly different N
    return not low / np.sqrt(SAME_SIZE) <= params <= high * np.sqrt(SAME_SIZE)


def span_at(a: Points, b: Points, params: float, costs: tuple[Cost, Cost]) -> tuple[float, float] | None:
    """The budgets at which both families were measured at N, interpolated between their sizes; None: there are none."""
    ends = []
    for points, cost in zip((a, b), costs, strict=True):
        ranks, log_n = sizes_of(points.variables["params"]), np.log(points.variables["params"])
        log_d = np.log(points.variables["tokens"])
        rows = [ranks == rank for rank in range(ranks.max() + 1)]
        at = [log_n[row].mean() for row in rows]
        ends.append([np.exp(np.interp(np.log(params), at, [f(log_d[row]) for row in rows])) * cost(params)
                     for f in (np.min, np.max)])  # fmt: skip
    first, last = max(e[0] for e in ends), min(e[1] for e in ends)
    return (float(first), float(last)) if first < last else None


def place_of(
    params: float,
    gap_SxM: np.ndarray,
    log_u: np.ndarray,
    span: tuple[float, float],
    names: tuple[str, str],
    outside: bool = False,
) -> Place:
    """The crossing from gaps of two families at ``log_u``: that of the first row, its interval from the others.

    Of several crossings it is the one nearest to the middle of ``span``. A row that does not cross in the same
    direction counts as a crossing at 0 or at infinity.
    """
    inside = np.log(span)
    middle = float(np.mean(inside))
    falls = _upward(-gap_SxM[:1], log_u, middle)[0]
    rises = _upward(gap_SxM[:1], log_u, middle)[0]
    turned = np.isfinite(falls) and not abs(rises - middle) <= abs(falls - middle)
    sign, x = (-1, falls) if turned else (1, rises)
    low, high = np.exp(bounds_of(_upward(sign * gap_SxM[1:], log_u, x if np.isfinite(x) else middle)))
    ends = np.interp(inside, log_u, gap_SxM[0])
    order = names[::-1] if turned else names
    return Place(params, span, float(np.exp(x)), float(low), float(high), order, (*map(float, ends),), outside)


def _upward(gap_RxM: np.ndarray, log_u: np.ndarray, near: float) -> np.ndarray:
    """log u at which each gap rises through 0, nearest to ``near``; inf: it stays below, -inf: above; or NaN."""
    left, right = gap_RxM[:, :-1], gap_RxM[:, 1:]
    rises = (left < 0) & (right >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(rises, log_u[:-1] + left / (left - right) * np.diff(log_u), np.inf)
    nearest = at[np.arange(len(at)), np.abs(at - near).argmin(axis=1)]
    middle = gap_RxM[:, np.abs(log_u - near).argmin()]
    found = np.where(rises.any(axis=1), nearest, np.where(middle >= 0, -np.inf, np.inf))
    return np.where(np.isnan(gap_RxM).any(axis=1), np.nan, found)


def direct(
    a: Points, b: Points, names: tuple[str, str], budget: str = "tokens", draws: int = 1000, seed: int = 0
) -> list[Place]:
    """The crossing without a law: mean losses over the seeds, interpolated over log u at each common size.

    A cluster holds runs of one seed, at all D or at some of them. The deviations of clusters from the mean of each D
    are pooled over the sizes of a family, and drawn with random factors. With one seed per run there is no interval.
    """
    rng = np.random.default_rng(seed)
    found = []
    costs = cost_of(a, budget), cost_of(b, budget)
    pools = _deviations(a), _deviations(b)
    for n, of_a, of_b in common_sizes(a, b):
        if (span := span_at(a, b, n, costs)) is None:
            continue
        log_u = np.linspace(*np.log(span), 2 + int(np.log(span[1] / span[0]) / FINE))
        samples = []
        for points, rows, cost, pool in zip((a, b), (of_a, of_b), costs, pools, strict=True):
            log_d = log_u - np.log(cost(n))
            samples.append(_curve(points, rows, log_d, pool, draws, rng))
        count = min(map(len, samples))
        gap = difference(samples[0][:count], samples[1][:count], (pools[0][1], pools[1][1]))
        found.append(place_of(n, gap, log_u, span, names))
    return found


Pool = tuple[list[tuple[np.ndarray, np.ndarray]], int]
"""(log D, deviation in nats) of each cluster, and the degrees of freedom left after the means."""


def _cells(points: Points, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of D among these rows, and the mean log D of each."""
    log_d = np.log(points.variables["tokens"][rows])
    order = np.argsort(log_d)
    ranks = np.empty(len(log_d), int)
    ranks[order] = np.cumsum(np.concatenate([[0], np.diff(log_d[order]) > np.log(SAME_TOKENS)]))
    return ranks, np.array([log_d[ranks == rank].mean() for rank in range(ranks.max() + 1)])


def _deviations(points: Points) -> Pool:
    sizes = sizes_of(points.variables["params"])
    found, left = [], 0
    for size in range(sizes.max() + 1):
        rows = sizes == size
        ranks, log_d = _cells(points, rows)
        loss, cluster = points.loss[rows], points.cluster[rows]
        count = np.bincount(ranks)
        mean = np.bincount(ranks, loss) / count
        scaled = (loss - mean[ranks]) * np.sqrt(count / np.maximum(count - 1, 1))[ranks]
        several = count[ranks] > 1
        left += _left(ranks, cluster)
        for g in np.unique(cluster[several]):
            mine = several & (cluster == g)
            order = np.argsort(ranks[mine])
            found.append((log_d[ranks[mine]][order], scaled[mine][order]))
    return found, left


def _left(ranks: np.ndarray, cluster: np.ndarray) -> int:
    """Differences between clusters that are free once each rank has its mean: those of other ranks count anew."""
    of_ranks, of_clusters = (values[:, None] == np.unique(values) for values in (ranks, cluster))
    return int(np.linalg.matrix_rank(np.hstack([of_ranks, of_clusters]).astype(float))) - of_ranks.shape[1]


def _curve(
    points: Points, rows: np.ndarray, log_d: np.ndarray, pool: Pool, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Mean loss over log D, then draws of it, [1 + R, n]; only the mean if the noise is unknown."""
    ranks, at = _cells(points, rows)
    count = np.bincount(ranks)
    between = np.stack([np.interp(log_d, at, one) for one in np.eye(len(at))])
    mean = np.bincount(ranks, points.loss[rows]) / count @ between
    deviations, left = pool
    if left == 0:
        return mean[None]
    own, member = np.unique(points.cluster[rows], return_inverse=True)
    shares_GxK = np.zeros((len(own), len(at)))
    np.add.at(shares_GxK, (member, ranks), 1 / count[ranks])
    curves = np.stack([np.interp(at, *deviation) for deviation in deviations])
    drawn_RxGxK = curves[rng.integers(len(curves), size=(draws, len(own)))]
    drawn_RxGxK *= rng.standard_normal((draws, len(own), 1)) * students_factor(left)
    return np.concatenate([mean[None], mean + (drawn_RxGxK * shares_GxK).sum(axis=1) @ between])


def disagree(one: Place, other: Place) -> bool:
    """Whether two readings of the same crossing contradict each other within the data."""
    if one.beyond and other.beyond:
        return one.order[one.x < one.span[0]] != other.order[other.x < other.span[0]]  # who leads in the data
    if not one.beyond and not other.beyond and one.order != other.order:
        return True
    if np.isnan(one.low) or np.isnan(other.low):
        with np.errstate(divide="ignore"):
            return bool(abs(np.log(one.x) - np.log(other.x)) > np.log(APART))
    return not (one.low <= other.x <= one.high or other.low <= one.x <= other.high)
