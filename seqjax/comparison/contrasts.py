"""Contrasts between families: each a statistic of the measured curves, [S]: the measured value, then the draws.

Losses are in nats per 4.3 characters, the text of one token of Kaplan et al. 2020: with a smaller vocabulary a token
holds less text and fewer nats. The best depth of a size is chosen once, by the measured mean loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqjax.comparison.judging import LSTM, TRANSFORMER, Unmeasured
from seqjax.comparison.measured import Comparison
from seqjax.laws.position import power_law

RESIDUAL = 0.03  # nats: largest allowed deviation from the law of position


def _both(c: Comparison) -> list[int]:
    sizes = c.sizes(TRANSFORMER, LSTM)
    if not sizes:
        raise Unmeasured("there is no size that both families have")
    return sizes


def _best_pair(c: Comparison) -> tuple[int, int]:
    """The best LSTM and the best Transformer of the largest common size."""
    size = _both(c)[-1]
    return c.best(LSTM, size), c.best(TRANSFORMER, size)


def _envelope(c: Comparison, family: str, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """log N [K] and the loss of the best depth [S, K], at each size."""
    best = [c.best(family, size) for size in sizes]
    return np.log([c.models[i].params for i in best]), c.mean_SxM[:, best]


def _slope(x_K: np.ndarray, y_SxK: np.ndarray) -> np.ndarray:
    """Least-squares slope, [S]."""
    if len(x_K) < 2:
        raise Unmeasured("needs two sizes of both families")
    centred = x_K - x_K.mean()
    return (y_SxK * centred).sum(axis=1) / (centred**2).sum()


def lead(c: Comparison) -> np.ndarray:
    """Loss of the best LSTM minus loss of the best Transformer, largest size."""
    lstm, transformer = _best_pair(c)
    return (c.mean_SxM[:, lstm] - c.mean_SxM[:, transformer]) * c.per_kaplan_token


def early_difference(c: Comparison) -> np.ndarray:
    """Loss of the best LSTM minus loss of the best Transformer over the first 16 positions, largest size."""
    lstm, transformer = _best_pair(c)
    first = c.at(1, 16)
    return (first[:, lstm] - first[:, transformer]) * c.per_kaplan_token


def lead_growth(c: Comparison) -> np.ndarray:
    """Growth of the lead for ten times the parameters."""
    sizes = _both(c)
    log_n, lstm = _envelope(c, LSTM, sizes)
    _, transformer = _envelope(c, TRANSFORMER, sizes)
    return _slope(log_n, lstm - transformer) * np.log(10) * c.per_kaplan_token


def _depths(c: Comparison) -> np.ndarray:
    """Losses of the LSTMs of the largest size by rising depth, [S, depths]."""
    size = _both(c)[-1]
    here = [i for i in c.of(LSTM) if c.models[i].size == size]
    if len(here) < 3 or c.models[here[0]].layers != 1:
        raise Unmeasured("needs LSTMs of one, two and more layers at the largest size")
    return c.mean_SxM[:, here] * c.per_kaplan_token


def depth_difference(c: Comparison) -> np.ndarray:
    """Of the two depths with the largest difference: loss of the deeper minus loss of the shallower, largest size."""
    losses = _depths(c)
    measured = losses[0]
    shallow, deep = sorted((int(measured.argmin()), int(measured.argmax())))
    return losses[:, deep] - losses[:, shallow]


def depth_helps(c: Comparison) -> np.ndarray:
    """Loss with one layer minus loss of the best larger depth, largest size."""
    losses = _depths(c)
    return losses[:, 0] - losses[:, 1 + int(losses[0, 1:].argmin())]


def lstm_gain(c: Comparison) -> np.ndarray:
    """Fall of the best LSTM's loss on the same tokens, from 430 to 550 characters of context to the end."""
    return c.gain_SxM[:, _best_pair(c)[0]] * c.per_kaplan_token


def transformer_gain(c: Comparison) -> np.ndarray:
    """Fall of the best Transformer's loss on the same tokens, from 430 to 550 characters of context to the end."""
    return c.gain_SxM[:, _best_pair(c)[1]] * c.per_kaplan_token


def gain_difference(c: Comparison) -> np.ndarray:
    """The Transformer's late gain minus the LSTM's."""
    return transformer_gain(c) - lstm_gain(c)


def gain_ratio(c: Comparison) -> np.ndarray:
    """The LSTM's late gain over the Transformer's, if the Transformer's interval is above 0."""
    transformer = transformer_gain(c)
    if not c.interval(transformer)[1] > 0:
        raise Unmeasured("the Transformer's own gain is not above 0 beyond doubt")
    return lstm_gain(c) / np.where(transformer > 0, transformer, np.nan)


def short_context(c: Comparison) -> np.ndarray:
    """Loss over the first 8 positions: Transformer with long context minus one trained on 8 tokens, largest size."""
    short = c.of(TRANSFORMER, context=8)
    pairs = [
        (i, j)
        for i in short
        for j in c.of(TRANSFORMER)
        if (c.models[i].size, c.models[i].layers) == (c.models[j].size, c.models[j].layers)
    ]
    if not pairs:
        raise Unmeasured("no Transformer was trained on 8 tokens of context")
    first = c.at(1, 8)
    short_one, long_one = max(pairs, key=lambda pair: c.models[pair[0]].size)
    return (first[:, long_one] - first[:, short_one]) * c.per_kaplan_token


def _position_law(c: Comparison, model: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponent and largest residual of E + A T^-p through the bins from the second position on, [S] each."""
    loss_SxP = c.loss_SxMxP[:, model, 1:-1]  # the first bin is position 1, the last bin all positions
    exponent, fitted = power_law(c.chains.centers()[1:], loss_SxP)
    return exponent, np.abs(fitted - loss_SxP).max(axis=1)


def exponent(c: Comparison) -> np.ndarray:
    """p of the best Transformer of the largest size."""
    return _position_law(c, _best_pair(c)[1])[0]


def exponent_growth(c: Comparison) -> np.ndarray:
    """p of the best Transformer of the largest size minus p of the smallest."""
    sizes = _both(c)
    if len(sizes) < 2:
        raise Unmeasured("needs two sizes of both families")
    ends = [_position_law(c, c.best(TRANSFORMER, size))[0] for size in (sizes[0], sizes[-1])]
    return ends[1] - ends[0]


def law_residual(c: Comparison) -> np.ndarray:
    """Largest deviation of the best Transformer's curve from its law, if the noise of the text is small enough."""
    transformer = _best_pair(c)[1]
    curve_RxP = c.loss_SxMxP[1:, transformer, 1:-1]
    noise = (curve_RxP - curve_RxP.mean(axis=1, keepdims=True)).std(axis=0).max() * c.per_kaplan_token
    if noise > RESIDUAL / 2:
        raise Unmeasured(f"more held-out windows are needed: positions are uncertain by {noise:.3f} nats")
    return _position_law(c, transformer)[1] * c.per_kaplan_token


def transformer_slope(c: Comparison) -> np.ndarray:
    """alpha of L ~ N^-alpha at the best depth of each size."""
    log_n, loss = _envelope(c, TRANSFORMER, _both(c))
    return -_slope(log_n, np.log(loss))


def slope_difference(c: Comparison) -> np.ndarray:
    """alpha of the Transformer minus alpha of the LSTM over the upper half of the sizes."""
    sizes = _both(c)
    upper = sizes[min(len(sizes) // 2, len(sizes) - 2) :]
    slopes = []
    for family in (TRANSFORMER, LSTM):
        log_n, loss = _envelope(c, family, upper)
        slopes.append(-_slope(log_n, np.log(loss)))
    return slopes[0] - slopes[1]


def lead_at_equal_compute(c: Comparison) -> np.ndarray:
    """Loss of the LSTM minus loss of the Transformer at the largest compute that both families reach."""
    _both(c)
    ends = {}
    for family in (LSTM, TRANSFORMER):
        models = c.of(family)
        flops = np.array([c.models[i].flops for i in models])
        order = np.argsort(flops)
        reached = np.minimum.accumulate(c.mean_SxM[:, models[order]], axis=1)  # the best for no more compute
        ends[family] = np.log(flops[order]), np.log(reached)
    most = min(x[-1] for x, _ in ends.values())
    if most < max(x[0] for x, _ in ends.values()):
        raise Unmeasured("one family's cheapest run had more compute than any of the other")
    at = [np.exp([np.interp(most, x, row) for row in y]) for x, y in (ends[LSTM], ends[TRANSFORMER])]
    return (at[0] - at[1]) * c.per_kaplan_token
