"""Scaling laws: points in, laws out, with honest uncertainty; nothing here needs a model or a training run.

points = make_points(loss, params=N, tokens=D)          # arrays; read_points for a table
found = fit(points, "chinchilla")                       # constants, intervals, flags
found.predict(params=1e9, tokens=2e10)                  # loss with its interval, nats
found.optimal(flops=1e21)                               # the best N and D
"""

from seqjax.scaling.fits import fit
from seqjax.scaling.fitting import Fit, Prediction, predict
from seqjax.scaling.frontier import envelope, isoflops
from seqjax.scaling.laws import LAWS, Constant, Law
from seqjax.scaling.points import Points, make_points, read_points

__all__ = [
    "LAWS", "Constant", "Fit", "Law", "Points", "Prediction",
    "envelope", "fit", "isoflops", "make_points", "predict", "read_points",
]  # fmt: skip
