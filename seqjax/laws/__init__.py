"""Scaling laws: fits of laws to points, with intervals and reasons to doubt. Nothing here needs a model or a run.

points = make_points(loss, params=N, tokens=D)          # arrays; read_points for a table
found = fit(points, "chinchilla")                       # constants, intervals, flags
found.predict(params=1e9, tokens=2e10)                  # loss with its interval, nats
found.optimal(flops=1e21)                               # the best N and D

A name is imported when it is first used: modules that only sort rows of tables need no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqjax.laws.fits import fit
    from seqjax.laws.fitting import Fit
    from seqjax.laws.forms import LAWS
    from seqjax.laws.frontier import envelope
    from seqjax.laws.isoflop import isoflops
    from seqjax.laws.law import Constant, Law
    from seqjax.laws.points import Points, make_points, read_points
    from seqjax.laws.predicting import Prediction, predict

__all__ = [
    "LAWS", "Constant", "Fit", "Law", "Points", "Prediction",
    "envelope", "fit", "isoflops", "make_points", "predict", "read_points",
]  # fmt: skip

_FILES = {
    "fits": ["fit"],
    "fitting": ["Fit"],
    "forms": ["LAWS"],
    "frontier": ["envelope"],
    "isoflop": ["isoflops"],
    "law": ["Constant", "Law"],
    "points": ["Points", "make_points", "read_points"],
    "predicting": ["Prediction", "predict"],
}


def __getattr__(name: str) -> Any:
    for file, names in _FILES.items():
        if name in names:
            globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{file}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
