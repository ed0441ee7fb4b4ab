"""Differences between the points of a fit that its law does not know."""

from __future__ import annotations

from seqjax.host.wording import amount
from seqjax.laws.law import Law
from seqjax.laws.points import Points

ALIKE = 1.1  # largest over smallest value of a variable that counts as constant: budgets are rounded to whole steps
OUTSIDE = {"params": "tokens", "tokens": "params"}
"""A law of the one alone asks for runs that are alike in the other."""


def of_other_variables(points: Points, law: Law) -> list[str]:
    """Flags: D varies in a law of N alone, or N in a law of D alone."""
    other = OUTSIDE.get(law.variables[0]) if len(law.variables) == 1 else None
    values = points.variables.get(other) if other else None
    if values is None or values.max() / values.min() < ALIKE:
        return []
    letter = {"params": "N", "tokens": "D"}[other]
    return [
        f"mixed: {letter} varies from {amount(other, values.min())} to {amount(other, values.max())}, and "
        f"{law.name} does not know it"
    ]
