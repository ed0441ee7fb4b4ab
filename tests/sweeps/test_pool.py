"""The pool of workers: deaths, retries, two launchers, what is left behind."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from sweeping import SIGKILL, Launcher, launch, numbers, write_sweep

from seqjax import cli, runs
from seqjax.sweeps import folder as folders
from seqjax.sweeps.launch.process import Worker

SEEDS = """
model: {family: gru, d_model: 16, n_layers: 1}
grid: {train.seed: [1, 2, 13]}
"""

CRASH = """
import os
if os.environ.get("CRASH_SEED"):
    from seqjax.tasks import text

    real = text.batch_at

    def batch_at(config, shard, step):
        if step == 25 and config.train.seed == int(os.environ["CRASH_SEED"]):
            os._exit(9)
        return real(config, shard, step)

    text.batch_at = batch_at
"""


@pytest.mark.slow
def test_one_run_that_kills_its_worker_takes_no_other_with_it(
    tmp_path: Path, small_text: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "crash"), prepend=os.pathsep)
    sweep, folder = write_sweep(tmp_path / "seeds.yaml", small_text, SEEDS), tmp_path / "runs" / "seeds"
    with monkeypatch.context() as ill:
        ill.setenv("CRASH_SEED", "13")
        assert launch(sweep, tmp_path / "runs", "--retries", "1", "--workers", "1") == 4
    said = "".join(capsys.readouterr())
    assert "3 runs: 2 finished, 1 failed" in said
    assert "continue in two halves" in said and "given up after 2 tries" in said
    states = {state.name: state for state in map(folders.state, folders.run_folders(folder))}
    assert "exit code 9" in states["failed"].reason and states["failed"].step == 20  # what was trained is there
    rows = numbers(folder)
    assert sorted(rows["status"]) == ["failed", "finished", "finished"]  # missing from no table
    assert cli.main(["status", str(folder)]) == 0
    assert re.search(r"failed +gru.*\n +died \d+ times, last: the worker ended", capsys.readouterr().out)

    assert launch(sweep, tmp_path / "runs") == 0  # started anew it is tried anew, from its checkpoint
    assert "resuming at step" in (folder / states["failed"].run_id / "log.txt").read_text()
    assert set(numbers(folder)["status"]) == {"finished"}


@pytest.mark.slow
def test_two_launchers_share_a_sweep(tmp_path: Path, small_text: Path) -> None:
    axes = (
        "model: {family: lstm, d_model: 16, n_layers: 1}\ngrid: {train.seed: [1, 2, 3], optimizer.beta2: [0.9, 0.99]}"
    )
    sweep = write_sweep(tmp_path / "shared.yaml", small_text, axes, steps=200)
    one, two = (Launcher(sweep, tmp_path / "runs", "--workers", "1") for _ in range(2))
    assert one.end() == 0 and two.end() == 0, one.said()
    assert one.said().count("6 runs: 6 finished") == 2
    for folder in folders.run_folders(one.folder):
        steps = [record["step"] for record in runs.read_metrics(folder) if "loss" in record]
        assert steps == list(range(5, 201, 5))  # trained once, by one of them
        assert (folder / "log.txt").read_text().count("parameters") == 1
        assert not (folder / "failures.jsonl").exists()


@pytest.mark.slow
def test_workers_save_and_end_when_their_launcher_is_killed(tmp_path: Path, small_text: Path) -> None:
    axes = "model: {family: elman, d_model: 16, n_layers: 1}"
    sweep = write_sweep(tmp_path / "long.yaml", small_text, axes, steps=1_000_000, checkpoint_every=1_000_000)
    launcher = Launcher(sweep, tmp_path / "runs")
    launcher.wait_until(lambda: launcher.steps() > 20)
    workers = launcher.workers()
    assert workers
    launcher.end(SIGKILL)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (run_folder,) = folders.run_folders(launcher.folder)
    state = folders.state(run_folder)
    assert state.name == "stopped"
    assert folders.last_checkpoint(run_folder) >= state.step > 0  # it saved, far from any regular checkpoint


@pytest.mark.slow
def test_a_mistake_of_the_users_is_reported_and_not_tried_again(tmp_path: Path, small_text: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(small_text.read_bytes())
    sweep = write_sweep(tmp_path / "one.yaml", text, "model: {family: window}")
    assert launch(sweep, tmp_path / "runs", "--wandb", "disabled") == 0
    (run_folder,) = folders.run_folders(tmp_path / "runs" / "one")
    (run_folder / "result.json").unlink()
    text.write_bytes(small_text.read_bytes() + b"something else\n")
    assert launch(sweep, tmp_path / "runs") == 4
    (failure,) = folders.read_failures(run_folder)
    assert "data.corpus is not what this run began with" in failure["reason"] and failure["given_up"]


@pytest.mark.parametrize(("options", "fragment"), [
    (["--runs", "TEXT"], "a file of that name is in the way"),
    (["--workers", "0"], "--workers 0: at least 1"),
    (["--threads", "0"], "--threads 0: at least 1"),
    (["--budget", "soon"], "--budget soon: expected a time such as"),
    (["--budget", "1s"], "the plan is predicted to take"),
    (["--train.seed", "4"], "train.seed: the sweep has an axis over it"),
    (["--train.sed", "4"], "did you mean 'seed'"),
    (["--launcher", "slurm", "--time", "soon"], "not a time limit"),
    (["--wandb", "sometimes"], "wandb mode 'sometimes' is not allowed"),
])  # fmt: skip
def test_mistakes_are_told_before_anything_starts(
    tmp_path: Path, small_text: Path, capsys: Any, options: list[str], fragment: str
) -> None:
    sweep = write_sweep(tmp_path / "seeds.yaml", small_text, SEEDS)
    words = [str(small_text) if word == "TEXT" else word for word in options]
    if "--runs" not in words:
        words += ["--runs", str(tmp_path / "runs")]
    assert cli.main(["sweep", str(sweep), *words]) == 2
    error = capsys.readouterr().err
    assert fragment in error.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_leaves_nothing(tmp_path: Path, small_text: Path, capsys: Any) -> None:
    sweep = write_sweep(tmp_path / "seeds.yaml", small_text, SEEDS)
    assert cli.main(["sweep", str(sweep), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert "3 runs" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, small_text: Path, capsys: Any) -> None:
    sweep = write_sweep(tmp_path / "seeds.yaml", small_text, SEEDS)
    (tmp_path / "runs" / "seeds").mkdir(parents=True)
    (tmp_path / "runs" / "seeds" / "package.json").write_text("{}")
    assert cli.main(["sweep", str(sweep), "--runs", str(tmp_path / "runs")]) == 2
    assert "is not a sweep folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs" / "seeds").iterdir()] == ["package.json"]


def test_a_worker_is_pinned_and_answers_for_its_death(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    worker = Worker((core,), None, tmp_path / "log.txt")
    deadline = time.monotonic() + 30
    while os.sched_getaffinity(worker.process.pid) != {core}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.send({"train": [str(tmp_path / "nowhere")]})
    answer = worker.answer()
    assert answer["outcome"] == "error" and "nowhere" in answer["reason"]
    worker.process.kill()
    worker.send({"train": []})
    assert worker.answer() == {"outcome": "died", "reason": "the worker was killed by SIGKILL"}
    worker.close()


def test_what_a_worker_prints_goes_to_its_run(tmp_path: Path, make_config: Any) -> None:
    config = make_config("window")
    runs.open_run(tmp_path / "run", config)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": {"family": "nothing"}}))
    worker = Worker((), None, tmp_path / "log.txt")
    worker.send({"train": [str(tmp_path / "run")]})
    assert worker.answer()["outcome"] == "error"
    worker.close()
    assert "Traceback" in (tmp_path / "run" / "output.txt").read_text()
