"""The live view: a moving block on a terminal, plain lines elsewhere, the same truth in both."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from seqjax import runs
from seqjax.sweeps import view as views
from seqjax.sweeps.grid import Planned
from seqjax.sweeps.programs import Unit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(views, "time", clock)
    return clock


@pytest.fixture
def units(make_config: Any, tmp_path: Path) -> list[Unit]:
    """Two units of one run each; the first is at step 10 of 20."""
    found = []
    for seed in (1, 2):
        run = Planned(make_config("gru", **{"train.seed": seed}), {"train.seed": seed})
        runs.open_run(tmp_path / run.run_id, run.config)
        found.append(Unit((run,), 1, 100.0, 1e6))
    runs.append_metrics(tmp_path / found[0].run_ids[0], {"step": 10, "loss": 1.0})
    return found


def ids(units: list[Unit]) -> list[str]:
    return [run_id for unit in units for run_id in unit.run_ids]


def test_plain_lines_come_now_and_then(clock: Clock, units: list[Unit], tmp_path: Path) -> None:
    out = io.StringIO()
    view = views.View(tmp_path, ids(units), out)
    for _ in range(30):
        view.show(units[:1], units[1:])
        clock.now += 1.0
    lines = out.getvalue().splitlines()
    assert len(lines) == 2  # at 0 and at 20 seconds
    assert lines[0] == "0 of 2 runs done, 1 running, 2m 30s left"  # half of the first, all of the second
    assert "\x1b" not in out.getvalue()


def test_a_terminal_shows_each_unit_and_leaves_nothing_behind(clock: Clock, units: list[Unit], tmp_path: Path) -> None:
    out = Terminal()
    view = views.View(tmp_path, ids(units), out)
    view.show(units, [])
    assert "[==========          ] 10/20  gru-1x16 seed=1" in out.getvalue()
    assert "[                    ]  0/20  gru-1x16 seed=2" in out.getvalue()
    clock.now += 1.0
    view.show(units, [])
    assert out.getvalue().count("\x1b[3F\x1b[J") == 1  # the three lines are drawn over
    view.close()
    assert out.getvalue().endswith("\x1b[3F\x1b[J")


def test_results_and_failures_are_counted(clock: Clock, units: list[Unit], tmp_path: Path) -> None:
    out = io.StringIO()
    view = views.View(tmp_path, [*ids(units), "lost"], out)
    for unit, status in zip(units, ("finished", "diverged"), strict=True):
        result = {"status": status, "steps": 20, "validation": {"loss": 3.0}}
        (tmp_path / unit.run_ids[0] / "result.json").write_text(json.dumps(result))
    view.show([], [], ["lost"])
    assert out.getvalue() == "1 of 3 runs done, 1 diverged, 1 failed\n"


def test_the_time_left_follows_the_pace(clock: Clock, units: list[Unit], tmp_path: Path) -> None:
    """Predicted 100 s each on one worker; half of the first takes 100 s instead of 50: 300 s are left, not 150."""
    out = io.StringIO()
    (tmp_path / units[0].run_ids[0] / "metrics.jsonl").unlink()
    view = views.View(tmp_path, ids(units), out)
    view.show(units[:1], units[1:])
    runs.append_metrics(tmp_path / units[0].run_ids[0], {"step": 10, "loss": 1.0})
    clock.now += 100.0
    view.show(units[:1], units[1:])
    first, second = out.getvalue().splitlines()
    assert first.endswith("3m 20s left") and second.endswith("5m 00s left")
