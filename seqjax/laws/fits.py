"""Fit a law and check it for reasons to doubt it."""

from __future__ import annotations

from typing import Any

from seqjax.laws.diagnostics import diagnosed
from seqjax.laws.fitting import Fit, fit_constants
from seqjax.laws.law import Law
from seqjax.laws.points import Points


def fit(points: Points, law: Law | str, *, diagnose: bool = True, **options: Any) -> Fit:
    """Fit a law to points.

        sum_i rho(log L(x_i; theta) - log L_i)   from a grid of starts, then refits to drawn noise

    Args:
        law: one of :data:`seqjax.laws.forms.LAWS`, or its name.
        diagnose: check for reasons to doubt: see :mod:`seqjax.laws.diagnostics`.
        options: ``objective``, ``delta``, ``bootstrap``, ``seed``, ``starts_SxP`` of
            :func:`seqjax.laws.fitting.fit_constants`.
    Raises:
        UserError: an unknown law or objective, a variable that the points lack, fewer points than constants.
    """
    found = fit_constants(points, law, **options)
    return diagnosed(found) if diagnose else found
