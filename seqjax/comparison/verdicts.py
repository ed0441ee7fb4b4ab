"""Verdicts on claims as rows of the report, as JSON, and as tables in Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.comparison.contrasts import lead
from seqjax.comparison.judging import (
    LSTM,
    NOT_REPRODUCED,
    NOT_RESOLVED,
    REPRODUCED,
    TRANSFORMER,
    Judged,
    Unmeasured,
)
from seqjax.comparison.measured import Comparison
from seqjax.families import label_of, parts_of
from seqjax.host.wording import si


def summary(judged: Sequence[Judged]) -> str:
    """A sentence with the number of claims for each verdict."""
    counts = Counter(row.verdict for row in judged)
    parts = [f"{counts[v]} {v}" for v in (REPRODUCED, NOT_REPRODUCED, NOT_RESOLVED) if counts[v]]
    return f"Of {len(judged)} claims of Kaplan et al. 2020 about LSTMs and Transformers: {', '.join(parts)}."


def leads(c: Comparison) -> list[str]:
    """How far each form of the Transformer is ahead of the LSTM at the largest size, a sentence each."""
    found, sure = [], "95 %" if c.seeds > 1 else "95 % by the held-out text, one seed"
    for kind in c.kinds(TRANSFORMER):
        try:
            value, low, high = c.interval(_lead(c, kind))
        except Unmeasured:
            continue
        size = c.sizes(kind, LSTM)[-1]
        params = si(c.models[c.best(kind, size)].params).strip()
        first, second = (kind, LSTM) if value > 0 else (LSTM, kind)
        if value < 0:
            value, low, high = -value, -high, -low
        interval = "" if math.isnan(low) else f" ({sure}: {low:.3f} to {high:.3f})"
        names = f"the {label_of(first)} is ahead of the {label_of(second)}"
        if low <= 0.0 <= high:
            names = f"the {label_of(first)} and the {label_of(second)} are not told apart: the former is ahead"
        found.append(f"At {params} parameters {names} by {value:.3f} nats per token{interval}.")
    return found


def _lead(c: Comparison, kind: str) -> np.ndarray:
    """`lead` of one form, in nats per token, [S]."""
    return lead(c.without(*{*c.kinds(TRANSFORMER)} - {kind})) / c.per_kaplan_token


def claim_row(row: Judged) -> dict[str, str]:
    """One claim as text."""
    known = math.isfinite(row.low) or math.isfinite(row.high)
    return {
        "name": row.claim.name,
        "says": row.claim.says,
        "tests": row.claim.tests,
        "source": row.claim.source,
        "unit": row.claim.unit,
        "value": _number(row.value),
        "interval": f"{_number(row.low)} to {_number(row.high)}" if known else "-",
        "verdict": row.verdict,
        "css": {REPRODUCED: "reproduced", NOT_REPRODUCED: "not-reproduced"}.get(row.verdict, "not-resolved"),
        "why": row.why,
    }


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.3f}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")


def claims_json(judged: Mapping[str, Sequence[Judged]], where: Mapping[str, Any]) -> dict[str, Any]:
    """The verdicts of each kind of Transformer, with numbers: null for NaN, "inf" and "-inf" for infinite ones."""
    return {
        "claims": [
            {
                "kind": kind,
                "name": row.claim.name,
                "says": row.claim.says,
                "tests": row.claim.tests,
                "unit": row.claim.unit,
                "region": [_for_json(end) for end in row.claim.region],
                "value": _for_json(row.value),
                "interval": [_for_json(row.low), _for_json(row.high)],
                "verdict": row.verdict,
                "why": row.why,
            }
            for kind, rows in judged.items()
            for row in rows
        ],
        "hardware": where["hardware"],
        "versions": where["versions"],
        "ended": where["ended"],
    }


def claims_markdown(judged: Mapping[str, Sequence[Judged]]) -> str:
    """The claims about each kind of Transformer, as a table in Markdown."""
    lines = ["| claim | test | Transformer | measured (95 %) | verdict |", "|---|---|---|---|---|"]
    for rows in zip(*judged.values(), strict=True):
        for kind, row in zip(judged, map(claim_row, rows), strict=True):
            measured = f"{row['value']} ({row['interval']})" if row["interval"] != "-" else row["value"]
            why = f": {row['why']}" if row["why"] else ""
            form = parts_of(kind)[1] or kind
            lines.append(f"| {row['says']} | {row['tests']} | {form} | {measured} | **{row['verdict']}**{why} |")
    return "\n".join(lines) + "\n"


def _for_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)
