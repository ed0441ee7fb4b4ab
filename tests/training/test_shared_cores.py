"""A run says how long it waited for a core; times of runs that waited are not compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from seqjax.host import cores
from seqjax.host.cores import Waiting, seconds_of_others, seconds_waited
from seqjax.laws.run_rows import beside_other_work
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

OTHERS = (
    ON_ONE_CORE
    + """
import time
from seqjax.host.cores import seconds_of_others
others, own, since = seconds_of_others(), time.process_time(), time.monotonic()
while time.monotonic() - since < 1:
    pass
print(seconds_of_others() - others, time.process_time() - own, time.monotonic() - since)
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


@pytest.mark.skipif(seconds_waited() is None, reason="this system does not count how long threads wait")
def test_a_thread_that_ends_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone between the list of threads and its file."""

    def ended(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "iterdir", lambda path: iter([path / "0", path / str(os.getpid())]))
    assert seconds_waited() is not None
    monkeypatch.setattr(Path, "read_text", ended)
    assert seconds_waited() is None


@pytest.mark.parametrize(("waited", "others", "seconds"), [(2.0, 0.1, 0.1), (0.1, 2.0, 0.1), (-1.0, 2.0, 0.0)])
def test_threads_that_wait_for_each_other_do_not_count(
    waited: float, others: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait longer than other work had the cores. A thread that has ended takes its seconds with it."""
    counted = {"seconds_waited": 5.0, "seconds_of_others": 7.0}
    for name in counted:
        monkeypatch.setattr(cores, name, lambda name=name: counted[name])
    waiting = Waiting()
    counted = {"seconds_waited": 5.0 + waited, "seconds_of_others": 7.0 + others}
    assert waiting.seconds() == pytest.approx(seconds)


@pytest.mark.skipif(seconds_of_others() is None, reason="this system does not count what its cores did")
def test_what_others_do_on_the_cores_of_a_process_is_counted() -> None:
    """All seconds of its core, but for those that it has itself."""
    found = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, timeout=120, check=True)
    others, own, seconds = map(float, found.stdout.split())
    assert others + own == pytest.approx(seconds, abs=0.1)


def test_the_share_is_kept_over_a_resume(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which a quarter of all time is waited for, then by which none is."""
    config, folder = make_config("window"), tmp_path / "run"
    monkeypatch.setattr(cores, "seconds_waited", lambda: time.monotonic() / 4)
    monkeypatch.setattr(cores, "seconds_of_others", lambda: time.monotonic() / 2)
    assert train(config, folder, devices=1, quiet=True)["waited_share"] == pytest.approx(0.25, abs=0.01)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "20")
    monkeypatch.setattr(cores, "seconds_waited", lambda: 3.0)
    assert 0 < train(config, folder, devices=1, quiet=True)["waited_share"] < 0.25


def test_a_system_that_does_not_count_is_unknown(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "seconds_waited", lambda: None)
    assert train(make_config("window"), tmp_path / "run", devices=1, quiet=True)["waited_share"] is None


def test_runs_that_waited_are_named() -> None:
    table = pd.DataFrame({"waited_share": [0.3, 0.02, None]})
    assert beside_other_work(table)[0].startswith("other work ran beside 1 of 3 runs")
    assert beside_other_work(table[1:]) == beside_other_work(table.drop(columns="waited_share")) == []
