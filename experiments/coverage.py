"""How often the 95 % intervals of `seqjax.laws` hold the truth, and how wide they are: many synthetic tables.

    python experiments/coverage.py                       # 400 tables, 200 refits each: about 20 minutes on two cores
    python experiments/coverage.py --laws kaplan-n --tables 1000
    python experiments/coverage.py --few offset-c --tables 60 --refits 100    # predictions and more, 5 to 40 points
    python experiments/coverage.py --report

Each table is a law with published constants, on a grid over several decades, with normal noise of 0.3 % in log L. Fits
start from the truth (how they find it from afar is tested elsewhere). Wanted: 90 to 99 % for every law. A share of 400
tables is itself uncertain by 1.1 %. Of few points, and of all that is derived from a fit: `coverage_few.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import writable
from coverage_few import CASES, NOISE, few, few_as_text, few_sentence, refits_of_tables, span
from coverage_map import few_of_a_map

from seqjax.config.plain import whole
from seqjax.host.disk import write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.laws import minimise
from seqjax.laws.forms import LAWS
from seqjax.laws.intervals import bounds_of
from seqjax.laws.searching import DELTAS, deltas_to, refit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "coverage" / "results.json"
METHOD = (
    "widened noise, by leverage, partly normal; order statistics"  # of the refits; other rows are of earlier methods
)
METHODS = {  # of cases, where not METHOD
    "pair": f"{METHOD}; a difference of two fits with Welch's degrees of freedom",
    "map": "wild bootstrap; a difference of two surfaces with Welch's degrees of freedom",
}
TOGETHER = 256  # copies that are refitted at once: tables are small and many
SKIPPED = {
    ("data-constrained", "lad"), ("chinchilla-outer", "lad"),  # for want of time
    ("map", "huber"), ("map", "lad"),  # surfaces are fitted by least squares
}  # fmt: skip


@pinned()
def main() -> int:
    """Measure, record after each law, print."""
    parser = argparse.ArgumentParser(description="How often the 95%% intervals of seqjax.laws hold the truth.")
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--objectives", nargs="+", default=["huber", "lad", "least-squares"], choices=list(DELTAS))
    parser.add_argument("--tables", type=whole(), default=400)
    parser.add_argument("--refits", type=whole(), default=200)
    parser.add_argument("--few", nargs="+", choices=list(CASES), help="few points, and what is derived from a fit")
    parser.add_argument("--points", nargs="+", type=whole(), help="with --few: only these numbers of points")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    minimise.CHUNK = TOGETHER
    record = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": [], "few": []}
    if not options.report:
        writable(RESULTS.parent)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        for kind, key in _wanted(options, record):
            size = (options.tables, options.refits)
            if key.get("case") == "map":
                row = key | {"quantities": few_of_a_map(key["points"], *size)}
            elif kind == "few":
                row = key | {"quantities": few(key["case"], key["objective"], key["points"], *size)}
            else:
                row = key | {"coverage": coverage(key["law"], key["objective"], *size)}
            print(json.dumps(row), file=sys.stderr, flush=True)
            same = ("case", "law", "objective", "points")
            kept = [old for old in record.get(kind, []) if any(old.get(name) != row.get(name) for name in same)]
            record |= {"date": time.strftime("%Y-%m-%d"), "noise": NOISE, kind: [*kept, row]}
            write_json(RESULTS, record)
    print(f"{as_text(record['rows'])}\n\n{few_as_text(record['few'])}\n\n{sentence(record)}")
    return 0


def _wanted(options: argparse.Namespace, record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What to measure that is not recorded by the same method: ("rows" or "few", what names it)."""
    shared = {"tables": options.tables, "refits": options.refits}
    if options.few:
        found = [
            ("few", {"case": case, "objective": objective, "points": count, "method": method_of(case)} | shared)
            for case in options.few
            for objective in options.objectives
            for count in CASES[case]
            if not options.points or count in options.points
            if (case, objective) not in SKIPPED
        ]
    else:
        found = [
            ("rows", {"law": name, "objective": objective, "method": METHOD} | shared)
            for name in options.laws
            for objective in options.objectives
            if (name, objective) not in SKIPPED
        ]
    return [(kind, key) for kind, key in found if not any(old.items() >= key.items() for old in record.get(kind, []))]


def method_of(case: str | None) -> str:
    """How intervals are made of a case of few points, or of a law."""
    return METHODS.get(case or "", METHOD)


def coverage(name: str, objective: str, tables: int, count: int) -> dict[str, float]:
    """Share of the tables whose interval holds the truth, for each constant."""
    tests = _tests()
    law, delta = LAWS[name], DELTAS[objective]
    truth, exact = law.theta_P(tests.TRUTH[name]), tests.measured(name, 0.0, 0)
    noise_Txn = np.log(np.stack([tests.measured(name, NOISE, table).loss for table in range(tables)]) / exact.loss)
    theta_TxP = refit(law, exact, np.tile(truth, (tables, 1)), deltas_to(delta), noise_Sxn=noise_Txn).theta_SxP
    drawn = refits_of_tables(law, exact, noise_Txn, theta_TxP, delta, count, 0)
    low_TxP, high_TxP = np.stack([bounds_of(draws) for draws in drawn], axis=1)
    covered_TxP = (low_TxP <= truth) & (truth <= high_TxP)
    return dict(zip(law.names, covered_TxP.mean(axis=0).tolist(), strict=True))


def _tests() -> Any:
    """The tables are those of tests/laws/test_recovery.py."""
    sys.path.append(str(ROOT / "tests"))
    spec = importlib.util.spec_from_file_location("recovery", ROOT / "tests" / "laws" / "test_recovery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sentence(record: dict[str, Any]) -> str:
    """What docs/laws.md says."""
    means = {}
    for row in record["rows"]:
        means.setdefault(row["objective"], []).append(100 * float(np.mean(list(row["coverage"].values()))))
    singles = [100 * share for row in record["rows"] for share in row["coverage"].values()]
    by_objective = ", ".join(
        f"{min(found):.0f} to {max(found):.0f} % ({name}, {len(found)} laws)" for name, found in means.items()
    )
    return (
        f"In {span(record['rows'], 'tables')} synthetic tables for each law, 95 % intervals held the truth in\n"
        f"{by_objective},\n"
        f"means over the constants of a law; single constants {min(singles):.1f} to {max(singles):.1f} %:\n"
        "`python experiments/coverage.py` ([results](../experiments/results/coverage/results.json))."
        + _older(record["rows"])
        + (f"\n{few_sentence(record['few'])}{_older(record['few'])}" if record.get("few") else "")
    )


def _older(rows: list[dict[str, Any]]) -> str:
    count = sum(row.get("method") != method_of(row.get("case")) for row in rows)
    return f"\n({count} of {len(rows)} were measured with an earlier method.)" if count else ""


def as_text(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = ["| law | objective | tables | coverage of each constant (%) |", "|---|---|---|---|"]
    for row in rows:
        shares = ", ".join(f"{name} {100 * share:.1f}" for name, share in row["coverage"].items())
        lines.append(f"| {row['law']} | {row['objective']} | {row['tables']} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(guarded(main))
