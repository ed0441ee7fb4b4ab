"""How often 95 % intervals of what is derived from a fit hold the truth with few points, and how wide they are.

A part of `experiments/coverage.py`: predictions inside and outside of the data, constants, optima, ratios, crossings,
for 5 to 40 points with 0.3 % normal noise in log L. Widths are in logarithms, over those of an oracle: the range of
95 % of the estimates that the same estimator finds in `ORACLE` other tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from textwrap import fill
from typing import Any

import numpy as np

from seqjax.laws.fitting import Fit, noise_to_refit
from seqjax.laws.forms import LAWS
from seqjax.laws.law import Law
from seqjax.laws.points import Points, make_points
from seqjax.laws.ratios import crossing, matched_ratio
from seqjax.laws.searching import DELTAS, deltas_to, refit

NOISE, ORACLE = 3e-3, 300
TARGET, WIDEST = (90, 98), 1.5  # coverage (%), and width over the oracle's
WIDTH = 120  # of the text
CASES = {
    "offset-c": (5, 8, 12, 20, 40),
    "pair": (5, 8, 12, 20, 40),
    "chinchilla": (8, 12, 20, 40),
    "kaplan-n": (5, 8, 12, 20, 40),
    "offset-n": (5, 8, 12, 20, 40),
    "map": (9, 12, 20),
}
"""Numbers of points of each case: a law of `LINES`, ``pair`` (two families), ``chinchilla`` or ``map`` (two surfaces,
see `coverage_map.py`)."""
LINES: dict[str, dict[str, float]] = {
    "kaplan-n": {"N_c": 8.8e13, "alpha_N": 0.076},
    "offset-n": {"E": 1.9, "A": 40.0, "alpha": 0.25},
    "offset-c": {"E": 1.7, "A": 120.0, "alpha": 0.1},
}
PAIR = {"N_c": 1e13, "alpha_N": 0.08}, {"N_c": 10**11.6, "alpha_N": 0.10}  # of kaplan-n: they cross at N = 1e6
SURFACE = {"E": 1.8172, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672}
GRIDS = {8: None, 12: (4, 3), 20: (5, 4), 40: (8, 5)}  # sizes x tokens of a chinchilla law; 8: nine without a corner
SPANS = {"params": (1e4, 1e8), "flops": (1e14, 1e18)}

Quantities = Callable[[list[Fit]], dict[str, tuple[float, float, float]]]
"""From the fits of a table to (estimate, low, high) of each quantity."""


def few(law: str, objective: str, count: int, tables: int, draws: int) -> dict[str, dict[str, float]]:
    """``coverage`` and ``width`` (over the oracle's, median) of each quantity.

    Args:
        law: one of `LINES`, ``pair`` (ratio and crossing of two families) or ``chinchilla``.
    """
    truths, exact, quantities = _case(law, count)
    delta = DELTAS[objective]
    rng = np.random.default_rng(0)
    noise_FxTxn = NOISE * rng.standard_normal((len(exact), tables + ORACLE, len(exact[0])))
    thetas_FxTxP = np.stack(
        [
            refit(law, points, np.tile(truth, (len(noise), 1)), deltas_to(delta), noise_Sxn=noise).theta_SxP
            for (law, truth), points, noise in zip(truths, exact, noise_FxTxn, strict=True)
        ]
    )
    none = np.empty((0, thetas_FxTxP.shape[-1]))

    def fits_of(thetas: list[np.ndarray], drawn: list[np.ndarray], points: list[Points]) -> list[Fit]:
        return [
            Fit(law, objective, delta, theta, 0.0, p, d, 1, 1.0, 0.0, 1.0)
            for (law, _), theta, d, p in zip(truths, thetas, drawn, points, strict=True)
        ]

    real = quantities(fits_of([t for _, t in truths], [none] * len(truths), exact))
    thetas_OxFxP = thetas_FxTxP[:, tables:].swapaxes(0, 1)
    others = [quantities(fits_of(list(thetas), [none] * len(truths), exact)) for thetas in thetas_OxFxP]
    drawn_FxT = [
        refits_of_tables(law, p, noise_TxN[:tables], theta_TxP[:tables], delta, draws, f)
        for f, ((law, _), p, noise_TxN, theta_TxP) in enumerate(
            zip(truths, exact, noise_FxTxn, thetas_FxTxP, strict=True)
        )
    ]
    found = []
    for table in range(tables):
        points = [with_noise(p, noise[table]) for p, noise in zip(exact, noise_FxTxn, strict=True)]
        drawn = [drawn_T[table] for drawn_T in drawn_FxT]
        found.append(quantities(fits_of(list(thetas_FxTxP[:, table]), drawn, points)))
    return {name: summary(real[name][0], [one[name] for one in others], [one[name] for one in found]) for name in real}


def with_noise(points: Points, noise: np.ndarray) -> Points:
    """The points with this noise in log L."""
    return replace(points, loss=points.loss * np.exp(noise))


def refits_of_tables(
    law: Law, exact: Points, noise_Txn: np.ndarray, theta_TxP: np.ndarray, delta: float, count: int, seed: int
) -> list[np.ndarray]:
    """For each table ``exact`` with noise: what :func:`seqjax.laws.fitting.refits` draws from its theta, [R, P].

    All tables are refitted together, which saves most of the time of small fits. The seeds are seed, seed + 2, ...
    """
    smooth = [DELTAS["least-squares"]]
    squares_TxP = refit(law, exact, theta_TxP, smooth, noise_Sxn=noise_Txn).theta_SxP
    targets = [
        noise + noise_to_refit(law, with_noise(exact, noise), theta, squares, count, 2 * table + seed)
        for table, (noise, theta, squares) in enumerate(zip(noise_Txn, theta_TxP, squares_TxP, strict=True))
    ]
    starts = np.repeat(theta_TxP, count, axis=0)
    found = refit(law, exact, starts, deltas_to(delta)[-4:], noise_Sxn=np.concatenate(targets))
    theta_TxRxP = found.theta_SxP.reshape(len(theta_TxP), count, -1)
    return [theta_RxP[np.isfinite(theta_RxP).all(axis=1)] for theta_RxP in theta_TxRxP]


def summary(truth: float, others: list[tuple[float, ...]], found: list[tuple[float, ...]]) -> dict[str, float]:
    """Share of the intervals that hold the truth, and their median width in logarithms over that of ``others``."""
    low, high = np.array([one[1:] for one in found]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        oracle = np.diff(np.nanpercentile(np.log([one[0] for one in others]), (2.5, 97.5)))[0]
        widths = np.log(high) - np.log(low)
        best = np.log([one[0] for one in found])
        sides = np.nanmedian((np.log(high) - best) / (best - np.log(low)))
    covered = (low <= truth) & (truth <= high)
    return {
        "coverage": float(covered.mean()),
        "width": float(np.nanmedian(widths) / oracle),
        "upper_over_lower": float(sides),
    }


def _case(name: str, count: int) -> tuple[list[tuple[Law, np.ndarray]], list[Points], Quantities]:
    """Laws with true thetas, points without noise, and what is derived."""
    if name == "chinchilla":
        law = LAWS[name]
        n, d = _grid(count)
        variables = {"params": n, "tokens": d}
        truth = law.theta_P(SURFACE)
        return [(law, truth)], [make_points(law.loss(truth, variables), **variables)], _of_a_surface
    law = LAWS["kaplan-n" if name == "pair" else name]
    (variable,) = law.variables
    values = np.geomspace(*SPANS[variable], count)
    truths = [law.theta_P(constants) for constants in (PAIR if name == "pair" else (LINES[name],))]
    exact = [make_points(law.loss(truth, {variable: values}), **{variable: values}) for truth in truths]
    return [(law, truth) for truth in truths], exact, _of_a_pair if name == "pair" else _of_a_line


def _grid(count: int) -> tuple[np.ndarray, np.ndarray]:
    sizes, tokens = GRIDS[count] or (3, 3)
    grid = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(1e9, 1e11, tokens))
    return tuple(x.ravel()[:count] for x in grid)


def _constants(fit: Fit) -> dict[str, tuple[float, float, float]]:
    nan = (np.nan, np.nan)
    return {f"constant {name}": (value, *fit.intervals.get(name, nan)) for name, value in fit.constants.items()}


def _losses(fit: Fit, places: list[str], **at: np.ndarray) -> dict[str, tuple[float, float, float]]:
    found = fit.predict(**at)
    losses = zip(found.loss.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    return {f"loss {place}": loss for place, loss in zip(places, losses, strict=True)}


def _of_a_line(fits: list[Fit]) -> dict[str, tuple[float, float, float]]:
    (fit,) = fits
    (name,) = fit.law.variables
    first, last = SPANS[name]
    places = {
        "at the first point": first,
        "in the middle": np.sqrt(first * last),
        "at the last point": last,
        "10 x beyond": 10 * last,
        "100 x beyond": 100 * last,
    }
    return _constants(fit) | _losses(fit, list(places), **{name: np.array(list(places.values()))})


def _of_a_pair(fits: list[Fit]) -> dict[str, tuple[float, float, float]]:
    where = crossing(*fits)
    loss = LAWS["kaplan-n"].loss(LAWS["kaplan-n"].theta_P(PAIR[0]), {"params": np.array([1e5, 1e10])})
    ratio = matched_ratio(*fits, loss)
    return {
        "crossing": (np.nan if where.x is None else where.x, where.low, where.high),
        "ratio inside": (ratio.ratio[0], ratio.low[0], ratio.high[0]),
        "ratio 100 x beyond": (ratio.ratio[1], ratio.low[1], ratio.high[1]),
    }


def _of_a_surface(fits: list[Fit]) -> dict[str, tuple[float, float, float]]:
    (fit,) = fits
    losses = _losses(fit, ["inside", "10 x beyond"], params=np.array([1e8, 1e10]), tokens=np.array([1e10, 1e12]))
    best = fit.optimal(np.array([6e18, 6e22]))
    optima = zip(best.params.tolist(), *best.params_interval.T.tolist(), strict=True)
    return _constants(fit) | losses | dict(zip(("optimal N inside", "optimal N 100 x beyond"), optima, strict=True))


def few_as_text(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = ["| of | objective | points | tables | coverage (%), width over the oracle's |", "|---|---|---|---|---|"]
    for row in rows:
        cells = "; ".join(f"{n} {100 * q['coverage']:.0f}, {q['width']:.2f}" for n, q in row["quantities"].items())
        lines.append(f"| {row['case']} | {row['objective']} | {row['points']} | {row['tables']} | {cells} |")
    return "\n".join(lines)


def few_sentence(rows: list[dict[str, Any]]) -> str:
    """What docs/laws.md says of few points."""
    parts = []
    for points in sorted({row["points"] for row in rows}):
        found = [q for row in rows if row["points"] == points for q in row["quantities"].values()]
        coverage, width = (np.median([q[key] for q in found]) for key in ("coverage", "width"))
        parts.append(f"{points} points {100 * coverage:.0f} %, {width:.1f}")
    cases = ", ".join(dict.fromkeys(row["case"] for row in rows))
    return (
        f"With few points ({cases}; {span(rows, 'tables')} tables each),\n"
        "medians over all that is derived of coverage, and of the width over that of an oracle which knows the noise:\n"
        + "; ".join(parts)
        + ".\n"
        + fill(f"Not within 90 to 98 %, or wider than 1.5: {'; '.join(misses(rows)) or 'none'}.", WIDTH)
    )


def span(rows: list[dict[str, Any]], name: str) -> str:
    """The values of a number in all rows: ``60 to 100``."""
    ends = sorted({min(row[name] for row in rows), max(row[name] for row in rows)})
    return " to ".join(map(str, ends))


def misses(rows: list[dict[str, Any]]) -> list[str]:
    """What misses `TARGET` or `WIDEST`, row by row."""
    found = []
    for row in rows:
        shares = {name: round(100 * q["coverage"]) for name, q in row["quantities"].items()}
        words = [f"{name} {share} %" for name, share in shares.items() if not TARGET[0] <= share <= TARGET[1]]
        wide = [round(q["width"], 2) for q in row["quantities"].values() if round(q["width"], 2) > WIDEST]
        if wide:
            ends = " to ".join(f"{end:.2f}" for end in sorted({min(wide), max(wide)}))
            words.append(f"{len(wide)} of {len(row['quantities'])} widths {ends}")
        if words:
            found.append(f"{row['case']} ({row['objective']}) of {row['points']} points: {', '.join(words)}")
    return found
