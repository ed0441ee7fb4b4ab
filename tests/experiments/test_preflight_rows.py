"""Which rows experiments/preflight.py compiles, and which it keeps; nothing is compiled."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import experiment
import pytest

ROWS = (("A", "h100"), ("B", "h100"), ("A", "v5e-4"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[tuple[str, str, int]]]:
    """``compiled(call, *options)``: the rows after a call with these options, each with the call that compiled it."""
    module = experiment.load("preflight")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "stay_off_accelerators", lambda: None)
    monkeypatch.setattr(module, "wanted", lambda: ((name, name, target) for name, target in ROWS))
    monkeypatch.setattr(module, "check", lambda config, target: (config, target.name))
    monkeypatch.setattr(module, "table", lambda rows: f"\n{rows[-1]}\n")

    def run(call: int, *options: str) -> list[tuple[str, str, int]]:
        monkeypatch.setattr(sys, "argv", ["preflight", *options])
        monkeypatch.setattr(module, "row_of", lambda name, found: {"name": name, "target": found[1], "call": call})
        module.main()
        rows = json.loads((tmp_path / "report" / "preflight" / "results.json").read_text())["rows"]
        return [(row["name"], row["target"], row["call"]) for row in rows]

    return run


def test_rows_of_other_targets_are_kept(compiled: Callable[..., list[tuple[str, str, int]]]) -> None:
    """Those of one target, the rest of them, one target again, all again; always in the order of the table."""
    assert compiled(1, "--on", "v5e-4") == [("A", "v5e-4", 1)]
    assert compiled(2) == [("A", "h100", 2), ("B", "h100", 2), ("A", "v5e-4", 1)]
    assert compiled(3, "--again", "--on", "h100") == [("A", "h100", 3), ("B", "h100", 3), ("A", "v5e-4", 1)]
    assert compiled(4, "--again") == [("A", "h100", 4), ("B", "h100", 4), ("A", "v5e-4", 4)]


def test_a_row_that_is_no_longer_wanted_goes(
    compiled: Callable[..., list[tuple[str, str, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(1)
    monkeypatch.setattr(f"{__name__}.ROWS", (*ROWS[:2], ("C", "h100")))
    assert compiled(2) == [("A", "h100", 1), ("B", "h100", 1), ("C", "h100", 2)]


def test_a_target_without_rows_is_refused(compiled: Callable[..., list], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        compiled(1, "--on", "h1000")
    assert stopped.value.code == 2 and "v5e-256" in capsys.readouterr().err
