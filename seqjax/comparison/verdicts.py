"""Verdicts on claims as rows of the report, as JSON, and as tables in Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from seqjax.comparison.judging import NOT_REPRODUCED, NOT_RESOLVED, REPRODUCED, Judged


def summary(judged: Sequence[Judged]) -> str:
    """A sentence with the number of claims for each verdict."""
    counts = Counter(row.verdict for row in judged)
    parts = [f"{counts[v]} {v}" for v in (REPRODUCED, NOT_REPRODUCED, NOT_RESOLVED) if counts[v]]
    return f"Of {len(judged)} claims of Kaplan et al. 2020 about LSTMs and Transformers: {', '.join(parts)}."


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


def claims_json(judged: Sequence[Judged], where: Mapping[str, Any]) -> dict[str, Any]:
    """The verdicts with their numbers: null for NaN, "inf" and "-inf" for infinite numbers."""
    return {
        "claims": [
            {
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
            for row in judged
        ],
        "hardware": where["hardware"],
        "versions": where["versions"],
        "ended": where["ended"],
    }


def claims_markdown(judged: Sequence[Judged]) -> str:
    """The claims as a table in Markdown."""
    lines = ["| claim | test | measured (95 %) | verdict |", "|---|---|---|---|"]
    for row in map(claim_row, judged):
        measured = f"{row['value']} ({row['interval']})" if row["interval"] != "-" else row["value"]
        why = f": {row['why']}" if row["why"] else ""
        lines.append(f"| {row['says']} | {row['tests']} | {measured} | **{row['verdict']}**{why} |")
    return "\n".join(lines) + "\n"


def verdict_table(recorded: Mapping[str, Mapping[str, Any]]) -> str:
    """Recorded claims of several presets side by side, in Markdown.

    Args:
        recorded: preset -> contents of its claims.json.
    """
    rows_of = {preset: {row["name"]: row for row in found["claims"]} for preset, found in recorded.items()}
    lines = [f"| claim | {' | '.join(rows_of)} |", "|---|" + "---|" * len(rows_of)]
    for name, first in next(iter(rows_of.values())).items():
        cells = [_recorded_cell(rows[name]) for rows in rows_of.values()]
        lines.append(f"| {first['says']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _recorded_cell(row: Mapping[str, Any]) -> str:
    value, *ends = (math.nan if x is None else float(x) for x in (row["value"], *row["interval"]))
    if math.isnan(value):
        return f"**{row['verdict']}**"
    interval = "" if math.isnan(ends[0]) else f" ({_number(ends[0])} to {_number(ends[1])})"
    return f"**{row['verdict']}**: {_number(value)}{interval}"


def _for_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)
