"""A law whose best N and D grow alike with compute: the answers of IsoFLOP profiles and envelopes are known."""

from __future__ import annotations

import numpy as np

from seqjax.laws import LAWS

LAW = LAWS["chinchilla"]
TRUTH = {"E": 1.8, "A": 400.0, "B": 400.0, "alpha": 0.34, "beta": 0.34}  # alike, so that a parabola is not biased


def loss_of(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The loss at each N and D, which are broadcast together."""
    shape = np.broadcast_shapes(np.shape(params), np.shape(tokens))
    n, d = (np.broadcast_to(x, shape).ravel() for x in (params, tokens))
    return LAW.loss(LAW.theta_P(TRUTH), {"params": n, "tokens": d}).reshape(shape)
