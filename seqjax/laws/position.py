"""Loss per token by position in the context: the law L(T) = E + A T^-p, the late gain, and the plateau.

Positions count from 1. Losses have standard errors over held-out windows. Positions of one window have much in common,
so the error of a bin is measured as that of its mean over windows. The gain treats the errors of different positions as
independent, which hardly changes its interval: what they have in common drops out of a difference. Resampled bins give
the intervals of the law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqjax.errors import UserError
from seqjax.host.wording import readable
from seqjax.laws.fits import fit
from seqjax.laws.fitting import Fit
from seqjax.laws.intervals import bounds_of
from seqjax.laws.points import make_points
from seqjax.laws.position_bins import spans_of

MARGIN = 0.02  # nats: less is no improvement
DRAWS = 2000

Curve = tuple[Sequence[float], Sequence[float], Sequence[float] | None]
"""Losses at positions 1, 2, ..., their standard errors, and those of the bins, which runs of before 2026-11-28 lack."""

STEEPEST = 10.0  # the fall is over, to a thousandth, where the position has doubled


@dataclass(frozen=True)
class Bins:
    """Log-spaced bins of positions.

    Attributes:
        first, last: position of each bin, from 1, both inclusive.
        center: geometric mean of its positions; loss: mean, nats; error: its standard error.
    """

    first: np.ndarray
    last: np.ndarray
    center: np.ndarray
    loss: np.ndarray
    error: np.ndarray


def binned(loss_T: Sequence[float], error_T: Sequence[float], bin_error: Sequence[float] | None = None) -> Bins:
    """Mean loss in the bins of `seqjax.laws.position_bins`.

    Args:
        bin_error: standard errors of these means over windows. None: positions are taken as independent, and the errors
            of wide bins come out too small, by up to a half.
    """
    loss, error = np.asarray(loss_T, np.float64), np.asarray(error_T, np.float64)
    if loss.shape != error.shape or loss.ndim != 1 or not len(loss):
        raise UserError(f"losses {loss.shape} and their errors {error.shape} must be lists of one length")
    spans, positions = spans_of(len(loss)), np.log(np.arange(1, len(loss) + 1))
    if bin_error is None:
        bin_error = [np.sqrt((error[span] ** 2).sum()) / len(error[span]) for span in spans]
    if len(bin_error) != len(spans):
        raise UserError(f"{len(bin_error)} errors of bins: expected {len(spans)} for {len(loss)} positions")
    return Bins(
        np.array([span.start + 1 for span in spans]),
        np.array([span.stop for span in spans]),
        np.exp([positions[span].mean() for span in spans]),
        np.array([loss[span].mean() for span in spans]),
        np.asarray(bin_error, np.float64),
    )


def fit_position(loss_T: Sequence[float], error_T: Sequence[float], skip: int = 1, bootstrap: int = 1000) -> Fit:
    """L(T) = E + A T^-alpha through binned positions after the first ``skip``: the law does not hold for the first."""
    bins = binned(loss_T, error_T)
    keep = bins.first > skip
    return fit(
        make_points(bins.loss[keep], position=bins.center[keep]), "position", objective="lad", bootstrap=bootstrap
    )


def is_determined(law: Fit) -> bool:
    """Whether the exponent of a law by position lies between 0 and `STEEPEST`: its whole interval, if there are refits.

    A steeper one says that the first position lies above the others, which fall no more.
    """
    without = float("nan") if len(law.draws) else law.constants["alpha"]
    low, high = law.intervals.get("alpha", (without, without))
    return bool(low > 0.005 and high < STEEPEST)


def power_words(law: Fit) -> str:
    """``2.90 + 4.50 / T^0.56 (0.52 to 0.61)``: E, A and alpha with its 95 % interval."""
    c, (low, high) = law.constants, law.intervals.get("alpha", (float("nan"),) * 2)
    sure = f" ({low:.2f} to {high:.2f})" if np.isfinite([low, high]).all() else " (no interval)"
    return f"{c['E']:.3g} + {readable(c['A'], 3)} / T^{c['alpha']:.2f}{sure}"


@dataclass(frozen=True)
class Gain:
    """Nats by which the loss falls between two positions, with its 95 % interval."""

    nats: float
    low: float
    high: float


def late_gain(loss_T: Sequence[float], error_T: Sequence[float], early: int, late: int) -> Gain:
    """Loss around position ``early`` minus loss around ``late``; each is a mean over positions within 12 %.

    Raises:
        UserError: positions outside the context, or in the wrong order.
    """
    loss, error = np.asarray(loss_T, np.float64), np.asarray(error_T, np.float64)
    if not 1 <= early < late <= len(loss):
        raise UserError(f"positions {early} and {late}: expected 1 <= early < late <= {len(loss)}, the context")
    means, variances = [], []
    for position in (early, late):
        span = slice(int(np.ceil(position / 1.12)) - 1, min(len(loss), int(position * 1.12)))
        means.append(loss[span].mean())
        variances.append((error[span] ** 2).sum() / len(loss[span]) ** 2)
    half = 1.96 * np.sqrt(sum(variances))
    gain = means[0] - means[1]
    return Gain(float(gain), float(gain - half), float(gain + half))


@dataclass(frozen=True)
class Plateau:
    """The position where the loss stops falling.

    Attributes:
        position: center of the first bin after which the loss falls by at most ``margin`` nats; None: there is none.
        low, high: 95 % interval of that position; ``high`` is infinite if falling to the end is not excluded.
        falls_to_the_end: share of the draws without such a position.
        margin: nats that count as no improvement.
    """

    position: float | None
    low: float
    high: float
    falls_to_the_end: float
    margin: float


def plateau(
    loss_T: Sequence[float], error_T: Sequence[float], margin: float = MARGIN, bin_error: Sequence[float] | None = None
) -> Plateau:
    """The first bin whose loss is within ``margin`` nats of the lowest loss after it.

    A plateau cannot begin in the second half of the context. Repeating the search under the noise of each bin gives the
    interval.
    """
    bins = binned(loss_T, error_T, bin_error)
    may_begin = bins.last <= len(np.asarray(loss_T)) / 2
    noise = np.random.default_rng(0).standard_normal((DRAWS, len(bins.loss)))
    drawn = np.concatenate([bins.loss[None], bins.loss + noise * bins.error])
    later = np.minimum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
    flat = (drawn - later <= margin) & may_begin
    begins = np.where(flat.any(axis=1), bins.center[flat.argmax(axis=1)], np.inf)
    low, high = bounds_of(begins[1:])
    return Plateau(
        position=float(begins[0]) if np.isfinite(begins[0]) else None,
        low=float(low),
        high=float(high),
        falls_to_the_end=float(np.isinf(begins[1:]).mean()),
        margin=margin,
    )


EXPONENTS = np.linspace(0.02, 2.5, 497)


def power_law(position_P: np.ndarray, loss_SxP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares fits of E + A T^-p to many curves at once: p [S] and the fitted losses [S, P].

    For each p of a grid, E and A have a closed form (variable projection). p is the minimum of the parabola through the
    best grid point and its neighbours. The fitted losses are for the best grid point.
    """
    powers_GxP = np.asarray(position_P, np.float64)[None, :] ** -EXPONENTS[:, None]
    centred_GxP = powers_GxP - powers_GxP.mean(axis=1, keepdims=True)
    unit_GxP = centred_GxP / np.linalg.norm(centred_GxP, axis=1, keepdims=True)
    loss = loss_SxP - loss_SxP.mean(axis=1, keepdims=True)
    left_SxG = (loss**2).sum(axis=1, keepdims=True) - (loss @ unit_GxP.T) ** 2
    best = np.clip(left_SxG.argmin(axis=1), 1, len(EXPONENTS) - 2)
    before, here, after = (left_SxG[np.arange(len(best)), best + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    step = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1.0), 0.0)
    fitted = (loss * unit_GxP[best]).sum(axis=1, keepdims=True) * unit_GxP[best] + loss_SxP.mean(axis=1, keepdims=True)
    return EXPONENTS[best] + np.clip(step, -1, 1) * (EXPONENTS[1] - EXPONENTS[0]), fitted
