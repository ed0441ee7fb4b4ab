"""The tables of accelerator.py as Markdown, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]


def surroundings(lines: Sequence[Line]) -> str:
    """On what the rows were measured: one line for each card and set of versions."""
    found = {}
    for line in lines:
        versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        driver = f"driver {line['driver']}, " if line["driver"] else ""
        found.setdefault(f"{line['card']}, {driver}{versions}, {line['date']}", 0)
        found[f"{line['card']}, {driver}{versions}, {line['date']}"] += 1
    note = "The peak is the card's dense bfloat16 one; steps are medians of five turns, all systems in one process."
    return "\n".join([*(f"{count} rows: {text}." for text, count in found.items()), note])


def table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table; nothing where there are no rows."""
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else ""


def errors(lines: Sequence[Line]) -> str:
    """Relative errors against float64, by precision of the products."""
    cells = [
        [line["row"], name, f"{of['logits_error']:.1e}", f"{of['gradient_error']:.1e}", line["card"]]
        for line in lines
        for name, of in line.get("systems", {}).items()
        if "logits_error" in of
    ]
    return table(["row", "products", "error of logits", "error of gradients", "card"], cells)


def speeds(lines: Sequence[Line]) -> str:
    """Step times; the ratio is the first system's tokens per second over those of each system."""
    cells = []
    for line in lines:
        if "error" in line:
            cells.append([line["row"], line["goals"], line["error"], *[""] * 6, line["card"]])
        first = next(iter(line.get("systems", {}).values()), {}).get("tokens_per_second")
        for name, of in line.get("systems", {}).items():
            if "error" in of:
                cells.append([line["row"], line["goals"], f"{name}: {of['error']}", *[""] * 6, line["card"]])
            elif "step_ms" in of:
                cells.append([line["row"], line["goals"], name, *_numbers(of, first), line["card"]])
    units = ["ms a step", "us a time step", "k tokens/s", "TFLOP/s (of the peak)", "first over this", "compile s"]
    return table(["row", "goals", "system", *units, "card"], [[_plain(cell) for cell in row] for row in cells])


def _numbers(of: Line, first: float | None) -> list[str]:
    share = "" if of["utilization"] is None else f" ({of['utilization']:.1%})"
    return [
        f"{of['step_ms']:.3g}",
        f"{of['time_step_us']:.3g}",
        f"{of['tokens_per_second'] / 1e3:,.1f}",
        f"{of['tflops']:.3g}{share}",
        f"{first / of['tokens_per_second']:.2f}" if first else "",
        f"{of['compile_seconds']:.1f}",
    ]


def goals(lines: Sequence[Line]) -> str:
    """What was found of each goal of performance. A step here is all of it: the goals in ms are of less, a gradient."""
    cells = [
        [goal, what, f"{at_most} {limit:g}", "not measured" if found is None else f"{found:.3g}", _met(found, *rule)]
        for goal, what, found, *rule in _goals({line["row"]: line.get("systems", {}) for line in lines})
        for at_most, limit in [rule]
    ]
    return table(["goal", "what", "wanted", "found", "met"], cells)


def _met(found: float | None, at_most: str, limit: float) -> str:
    if found is None:
        return ""
    return "yes" if (found <= limit if at_most == "at most" else found >= limit) else "no"


LSTM, GRU, ELMAN = (f"{family} 1x256 B 64 T 1024 bfloat16" for family in ("lstm", "gru", "elman"))
MIDDLE, WIDE, LARGE = (f"lstm 1x{x} bfloat16" for x in ("512 B 64 T 256", "768 B 16 T 1024", "1024 B 256 T 256"))
BUNDLES = "bundles: lstm 1x128 B 16 T 512 bfloat16"
SMALL, BASE = "transformer 6x384 B 64 T 1024 bfloat16", "transformer 12x768 B 16 T 1024 bfloat16"
NINE = "lstm 2x768 and transformer 3x512, B 64 T 512 bfloat16"
TWENTY = "lstm 3x1024 and transformer 8x512, B 64 T 512 bfloat16"
ROWS = (LSTM, GRU, ELMAN, MIDDLE, WIDE, LARGE, BUNDLES, SMALL, BASE, NINE, TWENTY)


def _goals(rows: dict[str, dict[str, Line]]) -> list[tuple[str, str, float | None, str, float]]:
    """(goal, what, found, "at most" or "at least", limit)."""

    def of(row: str, system: str = "seqjax", key: str = "step_ms") -> float | None:
        return rows.get(row, {}).get(system, {}).get(key)

    def ratio(over: float | None, under: float | None) -> float | None:
        return over / under if over and under else None

    used = "utilization"
    return [
        ("G1", "LSTM 256, B 64, T 1024: ms", of(LSTM), "at most", 4.0),
        ("G1", "the same: times as fast as Flax", ratio(of(LSTM, "flax"), of(LSTM)), "at least", 8.0),
        ("G1", "the same: times as fast as torch in bfloat16", ratio(of(LSTM, "torch"), of(LSTM)), "at least", 2.0),
        ("G2", "LSTM 768, B 16, T 1024: ms", of(WIDE), "at most", 5.19),
        ("G2", "the same: ms over torch's in float16", ratio(of(WIDE), of(WIDE, "torch float16")), "at most", 1.0),
        ("G3", "LSTM 1024, B 256: us a time step", of(LARGE, key="time_step_us"), "at most", round(27e3 / 1024, 1)),
        ("G4", "LSTM 256: times as fast as Flax", ratio(of(LSTM, "flax"), of(LSTM)), "at least", 3.0),
        ("G4", "LSTM 512: times as fast as Flax", ratio(of(MIDDLE, "flax"), of(MIDDLE)), "at least", 3.0),
        ("G4", "LSTM 1024: times as fast as Flax", ratio(of(LARGE, "flax"), of(LARGE)), "at least", 1.5),
        ("G5", "128 runs over one: ms", ratio(of(BUNDLES, "128 runs"), of(BUNDLES, "1 runs")), "at most", 2.5),
        ("G6", "Transformer of 124 M: share of the peak", of(BASE, key=used), "at least", 0.5),
        ("G6", "Transformer of 10 M: share of the peak", of(SMALL, key=used), "at least", 0.35),
        ("G7", "9 M: LSTM's tokens/s over the Transformer's", _against(rows.get(NINE)), "at least", round(1 / 3, 3)),
        ("G7", "25 M: LSTM's tokens/s over the Transformer's", _against(rows.get(TWENTY)), "at least", 0.5),
        ("G8", "GRU over LSTM, 256: ms", ratio(of(GRU), of(LSTM)), "at most", 1.0),
        ("G8", "Elman over LSTM, 256: ms", ratio(of(ELMAN), of(LSTM)), "at most", 0.8),
    ]


def _against(systems: dict[str, Line] | None) -> float | None:
    """Tokens per second of the first system over those of the second."""
    speeds = [of.get("tokens_per_second") for of in (systems or {}).values()]
    return speeds[0] / speeds[1] if len(speeds) == 2 and all(speeds) else None


def _plain(cell: str) -> str:
    return cell.replace("|", "/")
