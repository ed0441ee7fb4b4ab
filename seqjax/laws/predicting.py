"""Losses that a law predicts, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqjax.errors import UserError
from seqjax.host.wording import with_and
from seqjax.laws.intervals import bounds_of
from seqjax.laws.law import Law


@dataclass(frozen=True)
class Prediction:
    """Loss in nats with its 95 % interval, that of the law: single runs scatter around it. Each [n]."""

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def predict(law: Law, theta: np.ndarray, draws: np.ndarray, variables: Mapping[str, Any]) -> Prediction:
    """As :meth:`seqjax.laws.fitting.Fit.predict`; without draws the interval is not a number."""
    for name in variables:
        if name not in law.variables:
            raise UserError(f"{law.name} has no variable '{name}'; it has {', '.join(law.variables)}")
    if missing := [name for name in law.variables if name not in variables]:
        raise UserError(f"{law.name} needs {with_and(law.variables)}: {with_and(missing)} is missing")
    arrays = dict(
        zip(variables, np.broadcast_arrays(*(np.atleast_1d(np.float64(v)) for v in variables.values())), strict=True)
    )
    for name, values in arrays.items():
        if not (good := np.isfinite(values) & (values > 0)).all():
            raise UserError(f"{name}: {values[~good][0]} is not a positive number")
    loss = law.loss(theta, arrays)
    return Prediction(loss, *bounds_of(law.loss(draws, arrays) if len(draws) else np.empty((0, len(loss)))))
