"""The launcher itself fails, or its terminal closes: its workers save what they have."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quick import slow
from sweeping import launch, numbers, write_sweep

from seqjax import runs
from seqjax.config import run_id
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Planned
from seqjax.sweeps.launch import local, process
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.programs import Unit

FULL = OSError(errno.ENOSPC, "No space left on device")
DEAF = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "open(sys.argv[1] + '/ready', 'w').close()\n"
    "time.sleep(60)"
)


def one_unit(folder: Path, config: Any) -> Unit:
    runs.open_run(folder / run_id(config), config)
    return Unit((Planned(config, {}),), 1, None, 1e6)


def failing(when: Callable[[], bool], error: Exception) -> Callable[..., None]:
    def tick(_busy: Any, _waiting: Any) -> None:
        if when():
            raise error

    return tick


@pytest.mark.parametrize("error", [FULL, slow(KeyError("loss"))])
def test_workers_save_when_their_launcher_fails(error: Exception, make_config: Any, tmp_path: Path) -> None:
    config = make_config("elman", **{"train.steps": 1_000_000, "train.checkpoint_every": 1_000_000})
    unit = one_unit(tmp_path, config)
    place = tmp_path / run_id(config)
    pool = local.Pool(tmp_path, Machine((0,), (), 1e9), tick=failing(lambda: folders.last_step(place) > 0, error))
    with pytest.raises(type(error)) as raised:
        pool.run(lambda *_: [unit])
    assert raised.value is error
    assert folders.last_checkpoint(place) >= folders.last_step(place) > 0  # far from any regular checkpoint
    assert not runs.is_locked(place) and not pool.busy


def test_a_worker_that_does_not_save_is_not_waited_for_for_ever(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "SAVE_SECONDS", 0)
    monkeypatch.setattr(process, "worker_command", lambda *_: [sys.executable, "-c", DEAF, str(tmp_path)])
    unit = one_unit(tmp_path / "s", make_config("elman"))
    pool = local.Pool(tmp_path / "s", Machine((0,), (), 1e9), tick=failing((tmp_path / "ready").exists, FULL))
    started: list[process.Worker] = []
    take = pool._take
    monkeypatch.setattr(pool, "_take", lambda threads: (started.append(take(threads)), started[-1])[1])
    with pytest.raises(OSError, match="No space"):
        pool.run(lambda *_: [unit])
    assert [worker.process.returncode for worker in started] == [-signal.SIGKILL]


@pytest.mark.slow
def test_a_terminal_that_closes_costs_nothing(tmp_path: Path, small_text: Path) -> None:
    """The launcher is in a terminal of its own, without nohup; its other end is closed in the midst of training."""
    axes = "model: {family: gru, d_model: 16, n_layers: 1}\ngrid: {train.seed: [1, 2]}"
    sweep = write_sweep(tmp_path / "s.yaml", small_text, axes, steps=400, checkpoint_every=400)
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-m", "seqjax", "sweep", str(sweep), "--runs", str(tmp_path / "cut")]
    in_terminal = ["sh", "-c", 'exec "$@" < "$0" > "$0" 2>&1', os.ttyname(other_end), *command]
    launcher = subprocess.Popen(
        in_terminal, start_new_session=True
    )  # the first terminal that a session opens is its own
    folder = tmp_path / "cut" / "s"
    while not any(path.stat().st_size for path in folder.glob("*/metrics.jsonl")):
        os.read(terminal, 4096)  # it redraws twice a second
    os.close(other_end)
    os.close(terminal)
    assert launcher.wait(120) == 75
    states = [folders.state(place) for place in folders.run_folders(folder)]
    assert {state.name for state in states} <= {"stopped", "finished"}
    assert any(0 < folders.last_checkpoint(folder / state.run_id) < 400 for state in states)
    assert all(folders.last_checkpoint(folder / state.run_id) >= state.step for state in states)

    assert launch(sweep, tmp_path / "cut") == 0
    assert set(numbers(folder)["status"]) == {"finished"}
    for state in states:
        steps = [record["step"] for record in runs.read_metrics(folder / state.run_id) if "loss" in record]
        assert steps == list(range(5, 401, 5))
