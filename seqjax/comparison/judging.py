"""Verdicts: a claim has a statistic of the measured curves, and a region for its value that was fixed beforehand.

reproduced                  the value and its whole 95 % interval are in the region
not reproduced              the whole interval is outside the region
not resolved at this scale  otherwise: the interval crosses the border, or the runs are too small, too short,
                            or have too little context for the claim
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from seqjax.comparison.measured import Comparison
from seqjax.errors import UserError

REPRODUCED, NOT_REPRODUCED, NOT_RESOLVED = "reproduced", "not reproduced", "not resolved at this scale"
TRANSFORMER, LSTM = "transformer", "lstm"


@dataclass(frozen=True)
class Scale:
    """The smallest scale at which a claim can be judged: lower bounds for the largest Transformers.

    Attributes:
        params: non-embedding parameters; tokens: training tokens; sizes: number of sizes of both families.
        late: whether losses of the same tokens with short and with long context are needed.
        context: in characters.
    """

    params: float = 0
    tokens: float = 0
    sizes: int = 1
    late: bool = False
    context: float = 0


@dataclass(frozen=True)
class Claim:
    """One claim and its test.

    Attributes:
        name: short, unique; says: the claim as a sentence; tests: the test in words; source: paper and section.
        statistic: comparison -> [S]: the measured value, then the draws; may raise `Unmeasured`.
        region: allowed range of the value, ends included.
        within: allowed range of the whole interval; None: the same region.
        needs: the smallest scale at which it is judged.
    """

    name: str
    says: str
    tests: str
    source: str
    statistic: Callable[[Comparison], np.ndarray]
    region: tuple[float, float]
    unit: str = ""
    within: tuple[float, float] | None = None
    needs: Scale = Scale()


class Unmeasured(Exception):
    """The quantities of a claim were not measured."""


@dataclass(frozen=True)
class Judged:
    """A claim with its measured value, 95 % interval and verdict; NaN if nothing was measured."""

    claim: Claim
    value: float
    low: float
    high: float
    verdict: str
    why: str = ""


def judge(comparison: Comparison, claims: Sequence[Claim]) -> list[Judged]:
    """Every claim with its verdict, in order."""
    return [_judge(claim, comparison) for claim in claims]


def judge_forms(comparison: Comparison, claims: Sequence[Claim]) -> dict[str, list[Judged]]:
    """Every claim about each form of the Transformer, by kind: the Transformers of the other forms are left out."""
    kinds = comparison.kinds(TRANSFORMER) or [TRANSFORMER]
    return {kind: judge(comparison.without(*{*kinds} - {kind}), claims) for kind in kinds}


def _judge(claim: Claim, comparison: Comparison) -> Judged:
    try:
        value, low, high = comparison.interval(claim.statistic(comparison))
    except (Unmeasured, UserError) as reason:
        return Judged(claim, np.nan, np.nan, np.nan, NOT_RESOLVED, str(reason))
    if lacking := _lacking(claim.needs, comparison):
        return Judged(claim, value, low, high, NOT_RESOLVED, lacking)
    if np.isnan(low):
        return Judged(claim, value, low, high, NOT_RESOLVED, "there is no interval")
    inner = claim.within or claim.region
    if claim.region[0] <= value <= claim.region[1] and inner[0] <= low and high <= inner[1]:
        return Judged(claim, value, low, high, REPRODUCED)
    if high < claim.region[0] or low > claim.region[1]:
        return Judged(claim, value, low, high, NOT_REPRODUCED)
    return Judged(claim, value, low, high, NOT_RESOLVED, "the interval reaches across the border")


def _lacking(needs: Scale, c: Comparison) -> str:
    """What the runs lack for a claim, or ""."""
    sizes = c.sizes(TRANSFORMER, LSTM)
    if len(sizes) < needs.sizes:
        return f"needs {needs.sizes} sizes of both families; there are {len(sizes)}"
    if needs.late and not c.chains.early:
        return f"the context of {c.chains.context} tokens ends too soon after the place where LSTMs are said to flatten"
    transformers = [c.models[i] for i in c.of(TRANSFORMER)]
    have = {
        "non-embedding parameters": (needs.params, max((m.params for m in transformers), default=0)),
        "training tokens": (needs.tokens, max((m.tokens for m in transformers), default=0)),
        "characters of context": (needs.context, c.chains.context * c.characters_per_token),
    }
    lacking = [f"{need:,.0f} {what} (there are {there:,.0f})" for what, (need, there) in have.items() if there < need]
    return "needs " + " and ".join(lacking) if lacking else ""
