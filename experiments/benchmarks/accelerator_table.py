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
    return "\n".join(f"{count} rows: {text}." for text, count in found.items())


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


def _plain(cell: str) -> str:
    return cell.replace("|", "/")
