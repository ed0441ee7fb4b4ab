"""Which laws a table can bear: their variables vary, not only together, in more points than there are constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np

from seqjax.errors import UserError
from seqjax.host.wording import amount
from seqjax.laws.forms import LAWS
from seqjax.laws.law import LETTERS, Law
from seqjax.laws.mixed import ALIKE
from seqjax.laws.points import Points

IN_ORDER = ("chinchilla", "kaplan-n", "kaplan-d", "offset-c", "kaplan-c")
"""The laws that are tried where none is named. Those of one variable follow where the other does not vary."""
TOGETHER = 0.9999  # correlation of two logarithms; above it the constants of both cannot be found


def why_not(points: Points, law: Law) -> str:
    """Why these points cannot bear a law; "" if they can."""
    for name in law.variables:
        if name not in points.variables:
            return f"the table has no {name}"
        values = points.variables[name]
        if values.max() / values.min() < ALIKE:
            return f"{LETTERS.get(name, name)} does not vary, it is {amount(name, values[0])} in " + (
                f"all {len(values)} points" if len(values) > 1 else "the one point"
            )
    logs = {name: np.log(points.variables[name]) for name in law.variables}
    for a, b in combinations(law.variables, 2):
        if abs(np.corrcoef(logs[a], logs[b])[0, 1]) > TOGETHER:
            return f"{LETTERS[a]} and {LETTERS[b]} vary only together"
    different = len(np.unique(np.column_stack([points.variables[name] for name in law.variables]), axis=0))
    if different <= len(law.constants):
        return f"{len(law.constants)} constants need more than {different} different points"
    return ""


def law_for(groups: Sequence[Points]) -> tuple[Law, str]:
    """The first law of `IN_ORDER` that all groups can bear, else the first that one can; and why not an earlier one.

    Kaplan's laws of one variable are for runs that differ in nothing else, so N and D must not both vary.

    Raises:
        UserError: there is no such law.
    """
    if not any(points.variables for points in groups):
        raise UserError("the table has no params, tokens or flops: name the column (--params COLUMN)")
    for enough in (all, any):
        reasons: dict[str, list[str]] = {}  # why not -> laws
        for name in IN_ORDER:
            found = [_why_not_chosen(points, LAWS[name]) for points in groups]
            if enough(reason == "" for reason in found):
                return LAWS[name], "".join(f"not {laws[0]}: {reason}" for reason, laws in [*reasons.items()][:1])
            reasons.setdefault(next(reason for reason in found if reason), []).append(name)
    told = "; ".join(f"{', '.join(laws)}: {reason}" for reason, laws in reasons.items())
    raise UserError(f"no law is known for this table: {told}; --laws lists others")


def _why_not_chosen(points: Points, law: Law) -> str:
    others = {"kaplan-n": "tokens", "kaplan-d": "params"}
    if (other := points.variables.get(others.get(law.name, ""))) is not None and other.max() / other.min() >= ALIKE:
        return f"{LETTERS[others[law.name]]} varies too"
    return why_not(points, law)


@contextmanager
def refused_if_impossible(points: Points, law: Law) -> Iterator[None]:
    """Refuse a law that the points cannot bear, before it is fitted in the block; name one that works.

    Raises:
        UserError: the points cannot bear the law; or the block's own, with the same name.
    """
    reason = why_not(points, law)
    try:
        if "vary" in reason:
            raise UserError(f"{law.name} cannot be fitted: {reason}")
        yield
    except UserError as error:
        raise UserError(f"{error}{_another(points) if reason else ''}") from None


def _another(points: Points) -> str:
    try:
        return f"; --law {law_for([points])[0].name} works"
    except UserError:
        return ""
