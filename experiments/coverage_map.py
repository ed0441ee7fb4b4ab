"""How often the 95 % intervals of D*(N) hold a known crossing of two surfaces, and how wide they are.

The case ``map`` of `experiments/coverage.py --few`: two families with one run at each size and D, which cross at
D = 1.318 M whatever N, with normal noise of 0.3 % in log L. Widths are over those of an oracle, as in
`coverage_few.py`.
"""

from __future__ import annotations

import numpy as np
from coverage_few import NOISE, ORACLE, summary

from seqjax.laws.crossing import crossings
from seqjax.laws.points import make_points
from seqjax.laws.surfaces import Surface, fit_surface

GRIDS = {9: (3, 3), 12: (3, 4), 20: (4, 5)}  # runs of a family: sizes x D
EARLY = (2.0, 12.0, 35.0, 0.30, 0.28)  # E, A, B, alpha, beta of the family that leads first
LATE = (1.75, 12.0, 260.0, 0.30, 0.40)
CROSSING = 1_317_973.0


def few_of_a_map(count: int, tables: int, draws: int) -> dict[str, dict[str, float]]:
    """``coverage`` and ``width`` of D*(N) at the smallest, a middle and the largest size.

    Args:
        count: runs of each family, of `GRIDS`.
    """
    n, d = _grid(count)
    sizes = np.unique(n)
    at = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    found = np.array([_places(n, d, at, seed, draws if seed < tables else 0) for seed in range(tables + ORACLE)])
    names = ("D* at the smallest N", "D* at a middle N", "D* at the largest N")
    return {
        name: summary(CROSSING, [*map(tuple, found[tables:, k])], [*map(tuple, found[:tables, k])])
        for k, name in enumerate(names)
    }


def _grid(count: int) -> tuple[np.ndarray, np.ndarray]:
    sizes, horizons = GRIDS[count]
    found = np.meshgrid(np.geomspace(2.5e4, 4e5, sizes), np.geomspace(5e5, 8e6, horizons), indexing="ij")
    return found[0].ravel(), found[1].ravel()


def _places(n: np.ndarray, d: np.ndarray, at: list[float], seed: int, draws: int) -> list[tuple[float, float, float]]:
    rng = np.random.default_rng(seed)
    a, b = (_fitted(truth, n, d, rng, draws, 2 * seed + i) for i, truth in enumerate((EARLY, LATE)))
    return [(place.x, place.low, place.high) for place in crossings(a, b, ("early", "late"), at)]


def _fitted(
    truth: tuple[float, ...], n: np.ndarray, d: np.ndarray, rng: np.random.Generator, draws: int, seed: int
) -> Surface:
    e, a, b, alpha, beta = truth
    loss = (e + a / n**alpha + b / d**beta) * np.exp(NOISE * rng.standard_normal(len(n)))
    return fit_surface(make_points(loss, params=n, tokens=d), draws, seed)
