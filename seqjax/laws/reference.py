"""Power laws at a reference inside the data: L = 2.310 (N / 1e6)^-0.0760, not a constant N_c far outside of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from seqjax.host.wording import power, readable
from seqjax.laws.law import Law
from seqjax.laws.points import Points

LETTERS = {"params": "N", "tokens": "D", "flops": "C", "position": "T"}
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "eta": "η"}


class Fitted(Protocol):
    """What is asked of a fit here (:class:`seqjax.laws.fitting.Fit`, which shows itself in this form in a notebook)."""

    @property
    def law(self) -> Law: ...

    @property
    def theta(self) -> np.ndarray: ...

    @property
    def points(self) -> Points: ...

    @property
    def constants(self) -> Mapping[str, float]: ...

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]: ...


def greek(text: str) -> str:
    """Names of constants as papers write them: alpha_N -> α_N."""
    for name, letter in GREEK.items():
        text = text.replace(name, letter)
    return text


def reference(values: np.ndarray) -> float:
    """A round number inside the values: the power of ten nearest to their middle, else the middle to one digit."""
    middle = float(np.exp(np.log(values).mean()))
    nearest = 10.0 ** round(np.log10(middle))
    return nearest if values.min() <= nearest <= values.max() else float(f"{middle:.0e}")


def at_reference(fit: Fitted, at: float | None = None) -> str:
    """A power law of one variable with its scale inside the data, and the 95 % interval of its exponent.

    ``L = 2.310 (N / 1e6)^-0.0760 (-0.0800 to -0.0720)`` for (N_c / N)^alpha; a law with a floor has ``E +`` before it.
    Empty for other laws.

    Args:
        at: the reference; None: that of its own points.
    """
    exponent = next((name for name in fit.law.names if name.startswith("alpha")), "")
    name = fit.law.variables[0]
    is_power = fit.law.names == ("E", "A", exponent) or (len(fit.law.names) == 2 and fit.law.name.startswith("kaplan-"))
    if len(fit.law.variables) != 1 or not is_power or name not in LETTERS:
        return ""
    at = at or reference(fit.points.variables[name])
    floor = fit.constants.get("E", 0.0)
    scale = float(fit.law.loss(fit.theta, {name: np.array([at])})[0]) - floor
    alpha = fit.constants[exponent]
    low, high = fit.intervals.get(exponent, (np.nan, np.nan))
    sure = f" ({readable(-high, 3)} to {readable(-low, 3)})" if np.isfinite([low, high]).all() else ""
    before = f"{readable(floor) if floor else 0} + " if fit.law.has_floor else ""
    return f"L = {before}{readable(scale)} ({LETTERS[name]} / {power(at, 1)})^{readable(-alpha, 3)}{sure}"
