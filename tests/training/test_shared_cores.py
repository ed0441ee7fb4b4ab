"""A run says how long it waited for a core; times of runs that waited are not compared."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from seqjax.host.cores import seconds_waited
from seqjax.laws.run_rows import beside_other_work
from seqjax.training import record
from seqjax.training.loop import train

ON_ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
BUSY = ON_ONE_CORE + "while True: pass"
WAITING = (
    ON_ONE_CORE
    + """
from seqjax.host.cores import seconds_waited
before = seconds_waited()
while seconds_waited() - before < 0.05:
    pass
"""
)


@pytest.mark.skipif(seconds_waited() is None, reason="this system does not count how long threads wait")
def test_a_process_waits_for_a_core_that_another_has() -> None:
    """Where the second number were another than that of the waiting, the loop would not end."""
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        assert subprocess.run([sys.executable, "-c", WAITING], timeout=120).returncode == 0
    finally:
        busy.kill()
        busy.wait()


def test_the_share_is_kept_over_a_resume(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which a quarter of all time is waited for, then by which none is."""
    config, folder = make_config("window"), tmp_path / "run"
    monkeypatch.setattr(record, "seconds_waited", lambda: time.monotonic() / 4)
    assert train(config, folder, devices=1, quiet=True)["waited_share"] == pytest.approx(0.25, abs=0.01)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "20")
    monkeypatch.setattr(record, "seconds_waited", lambda: 3.0)
    assert 0 < train(config, folder, devices=1, quiet=True)["waited_share"] < 0.25


def test_a_system_that_does_not_count_is_unknown(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "seconds_waited", lambda: None)
    assert train(make_config("window"), tmp_path / "run", devices=1, quiet=True)["waited_share"] is None


def test_runs_that_waited_are_named() -> None:
    table = pd.DataFrame({"waited_share": [0.3, 0.02, None]})
    assert beside_other_work(table)[0].startswith("other work ran beside 1 of 3 runs")
    assert beside_other_work(table[1:]) == beside_other_work(table.drop(columns="waited_share")) == []
