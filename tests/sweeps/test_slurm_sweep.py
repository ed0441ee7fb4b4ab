"""A whole sweep on a real Slurm cluster: as an array, preempted, resumed, with the numbers of a local one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from slurm_cluster import Cluster, release_until, start_cluster, wait_until, why_not
from sweeping import SIGKILL, Launcher, numbers, write_sweep

from seqjax import cli
from seqjax.sweeps import folder as folders
from seqjax.sweeps.launch.slurm_client import queue

AXES = "model: {family: gru, d_model: 16, n_layers: 1}\ngrid: {train.seed: [1, 2]}"
OPTIONS = ("--launcher", "slurm", "--partition", "low", "--gpus-per-run", "1", "--time", "0:20:00", "--no-bundle",
           "--max-parallel", "2")  # fmt: skip


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster, known to the launcher by the environment."""
    pytest.importorskip("submitit")
    if reason := why_not():
        pytest.skip(reason)
    with start_cluster(tmp_path_factory.mktemp("slurm")) as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.mark.slow
def test_a_sweep_as_an_array_is_preempted_and_ends_bit_equal(
    cluster: Cluster, tmp_path: Path, small_text: Path, capsys: Any
) -> None:
    length = {"steps": 5000, "checkpoint_every": 2000, "evaluate_every": 2000, "log_every": 50, "context_length": 32}
    sweep = write_sweep(tmp_path / "array.yaml", small_text, AXES, **length)
    first = Launcher(sweep, tmp_path / "slurm", *OPTIONS)
    first.wait_until(lambda: "submitted 2 job(s)" in first.said())
    first.end(SIGKILL)  # the jobs do not need it
    jobs = list(queue())
    run_folders = folders.run_folders(first.folder)
    wait_until(lambda: all(folders.last_step(folder) > 0 for folder in run_folders), "training")
    cluster.run("sbatch", "--partition", "high", "--gpus=4", "--nodes=2", "--wrap", "sleep 1", "--output", "/dev/null")
    wait_until(lambda: "PENDING" in [queue().get(job) for job in jobs], "a run is preempted and requeued")
    saved = [folders.last_checkpoint(folder) for folder in run_folders]
    assert any(step % 2000 for step in saved)  # saved when it was told to go, not by the clock

    launcher = Launcher(sweep, tmp_path / "slurm", *OPTIONS)
    launcher.wait_until(lambda: "of this sweep are in the queue already" in launcher.said())
    assert cli.main(["status", str(launcher.folder)]) == 0
    assert "PENDING]" in capsys.readouterr().out
    release_until(cluster, lambda: launcher.popen.poll() is not None, "the sweep ends")
    assert launcher.popen.returncode == 0, launcher.said()
    assert "2 runs: 2 finished" in launcher.said() and "submitted" not in launcher.said().partition("already")[2]
    assert any("resuming at step" in (folder / "log.txt").read_text() for folder in run_folders)
    assert not [job for job in queue() if job in jobs]

    local = Launcher(sweep, tmp_path / "local", "--no-bundle", "--threads", "1")
    assert local.end() == 0, local.said()
    pd.testing.assert_frame_equal(numbers(launcher.folder), numbers(local.folder))
