"""Whole runs: repeated, resumed, killed, diverged, interrupted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import forks
import numpy as np
import pytest
from quick import slow
from same_run import assert_same_run, metrics_of

from seqjax import runs
from seqjax.config import to_dict
from seqjax.errors import UserError
from seqjax.tasks.text import batch_at, load
from seqjax.training.loop import train


def test_a_run_leaves_what_its_folder_promises(make_config: Any, family: str, tmp_path: Path) -> None:
    config = make_config(family)
    result = train(config, tmp_path / "run", devices=1, quiet=True)
    assert result == runs.read_result(tmp_path / "run")
    assert (result["status"], result["steps"], result["tokens"]) == ("finished", 20, 20 * 8 * 16)
    assert len(result["validation"]["by_position"]) == 16
    assert result["validation"]["loss"] < np.log(257)
    assert result["training_flops"]["exact"] == result["flops_per_token"]["training"] * result["tokens"]
    assert {"python", "jax", "flax"} <= set(result["versions"])
    lines = metrics_of(tmp_path / "run")
    assert [r["step"] for r in lines if "loss" in r] == [5, 10, 15, 20]
    assert [r["step"] for r in lines if "validation_loss" in r] == [10, 20]
    assert runs.read_config(tmp_path / "run") == config


def test_two_runs_with_one_seed_are_bit_equal_and_seeds_differ(make_config: Any, tmp_path: Path) -> None:
    config = make_config("transformer", **{"model.dropout": 0.1})
    for name in "ab":
        train(config, tmp_path / name, devices=1, quiet=True)
    assert_same_run(config, tmp_path / "a", tmp_path / "b")
    train(make_config("transformer", **{"model.dropout": 0.1, "train.seed": 1}), tmp_path / "c", devices=1, quiet=True)
    assert metrics_of(tmp_path / "c") != metrics_of(tmp_path / "a")


def test_the_order_of_windows_is_the_seeds(make_config: Any) -> None:
    shard = load(make_config("gru")).shard("train")
    one, same, other = (batch_at(make_config("gru", **{"train.seed": seed}), shard, 3) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_finished_run_is_not_repeated(make_config: Any, tmp_path: Path) -> None:
    config = make_config("window")
    first = train(config, tmp_path / "run", devices=1, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert train(config, tmp_path / "run", devices=1, quiet=True) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


def test_another_config_is_refused(make_config: Any, tmp_path: Path) -> None:
    train(make_config("window"), tmp_path / "run", devices=1, quiet=True)
    with pytest.raises(UserError, match=r"train.steps is 20 there and 30 here"):
        train(make_config("window", **{"train.steps": 30}), tmp_path / "run", devices=1, quiet=True)
    assert runs.read_result(tmp_path / "run")["steps"] == 20


def test_a_run_that_diverges_says_where_and_keeps_its_last_good_checkpoint(make_config: Any, tmp_path: Path) -> None:
    config = make_config("elman", **{
        "optimizer.name": "sgd", "optimizer.learning_rate": 1e20, "optimizer.clip_norm": 0.0,
        "optimizer.schedule": "constant", "optimizer.warmup_steps": 20,
        "train.checkpoint_every": 1, "train.log_every": 2,
    })  # fmt: skip
    result = train(config, tmp_path / "run", devices=1, quiet=True)
    assert result["status"] == "diverged"
    first, last = result["diverged_in_steps"]
    assert 1 <= first <= last == result["steps"] + 1 <= 20
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept and kept[-1] < last
    for record in runs.read_metrics(tmp_path / "run"):
        assert np.isfinite(record.get("loss", 0.0))
    assert train(config, tmp_path / "run", devices=1, quiet=True) == result  # it has ended; it is not repeated


@pytest.mark.parametrize("family", ["gru", slow("window")])
def test_streams_and_windows_resume_where_they_stopped(
    make_config: Any, family: str, tmp_path: Path, crash_at: Any
) -> None:
    """Stopped in mid-line, between two checkpoints, by a crash in the loop; the end is as if nothing had happened."""
    config = make_config(family, **{"data.batching": "streams" if family == "gru" else "windows", "model.dropout": 0.1,
                                    "train.log_every": 7})  # fmt: skip
    train(config, tmp_path / "whole", devices=1, quiet=True)
    with crash_at(17):
        train(config, tmp_path / "crashed", devices=1, quiet=True)
    assert 7 in [r["step"] for r in runs.read_metrics(tmp_path / "crashed") if "loss" in r]
    train(config, tmp_path / "crashed", devices=1, quiet=True)
    assert_same_run(config, tmp_path / "whole", tmp_path / "crashed")


def test_a_corrupt_checkpoint_costs_steps_not_truth(make_config: Any, tmp_path: Path, monkeypatch: Any) -> None:
    config = make_config("lstm", **{"train.checkpoint_every": 5})
    train(config, tmp_path / "whole", devices=1, quiet=True)
    train(config, tmp_path / "hurt", devices=1, quiet=True)
    (tmp_path / "hurt" / "result.json").unlink()
    for file in (tmp_path / "hurt" / "checkpoints" / "20").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    train(config, tmp_path / "hurt", devices=1, quiet=True)
    assert "checkpoint 20" in (tmp_path / "hurt" / "log.txt").read_text()
    assert (tmp_path / "hurt" / "checkpoints" / "20.damaged").is_dir()  # nothing is deleted
    assert_same_run(config, tmp_path / "whole", tmp_path / "hurt")


def test_other_text_under_the_same_name_is_refused(make_config: Any, tmp_path: Path, small_text: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(small_text.read_bytes())
    config = make_config("window", **{"data.corpus": str(text), "data.tokenizer": "chars"})
    train(config, tmp_path / "run", devices=1, quiet=True)
    (tmp_path / "run" / "result.json").unlink()
    text.write_bytes(small_text.read_bytes() + b"more: \xc3\xa9\n")
    with pytest.raises(UserError, match=r"data.corpus is not what this run began with"):
        train(config, tmp_path / "run", devices=1, quiet=True)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["10", "20"]


def test_a_validation_loss_that_is_not_finite_ends_the_run_as_diverged(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqjax.training import bundle as bundles

    real = bundles.Bundle._held_out
    spoil = lambda *a, **how: [found._replace(loss=float("inf")) for found in real(*a, **how)]  # noqa: E731
    monkeypatch.setattr(bundles.Bundle, "_held_out", spoil)
    result = train(make_config("window"), tmp_path / "run", devices=1, quiet=True)
    assert (result["status"], result["diverged_in_steps"][1]) == ("diverged", 10)
    assert runs.read_result(tmp_path / "run") == result


@pytest.mark.parametrize(("text", "fragment"), [
    ("", "empty"),
    ("short\n" * 20, "train.context_length: 16 needs 17 tokens"),
])  # fmt: skip
def test_too_little_text_is_told(make_config: Any, tmp_path: Path, text: str, fragment: str) -> None:
    (tmp_path / "text.txt").write_text(text)
    with pytest.raises(UserError, match=fragment):
        train(make_config("lstm", **{"data.corpus": str(tmp_path / "text.txt")}), tmp_path / "run", quiet=True)


class Process:
    """`seqjax train` in a process of its own, which can be killed at a chosen moment."""

    def __init__(self, program: Popen[str], config: Any, folder: Path) -> None:
        self.program, self.folder, self.log = program, folder, folder.parent / f"{folder.name}.txt"
        path = folder.parent / f"{folder.name}.json"
        path.write_text(json.dumps(to_dict(config)))
        words = ["train", str(path), "--run", str(folder), "--devices", "1", "--no-sample"]
        self.pid = forks.ask(program, words=words, log=str(self.log), signal=None)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not reached():
            assert runs.read_result(self.folder) is None and time.monotonic() < deadline, self.said()
            time.sleep(0.0005)

    def step(self) -> int:
        return max((r["step"] for r in runs.read_metrics(self.folder)), default=0)

    def writes_a_checkpoint(self) -> bool:
        folder = self.folder / "checkpoints"
        return folder.is_dir() and any("tmp" in name for name in os.listdir(folder))

    def said(self) -> str:
        return self.log.read_text()

    def end(self, signal_number: int | None = None) -> int:
        if signal_number is not None:
            os.kill(self.pid, signal_number)
        return forks.ask(self.program, wait=self.pid)


@pytest.mark.slow
def test_stopped_and_killed_even_in_mid_checkpoint_it_ends_bit_equal(make_config: Any, tmp_path: Path) -> None:
    config = make_config("lstm", **{
        "train.steps": 300, "train.log_every": 5, "train.checkpoint_every": 25, "evaluation.every": 100,
        "model.d_model": 48, "model.dropout": 0.1,
    })  # fmt: skip
    with forks.started() as program:
        whole = Process(program, config, tmp_path / "whole")
        assert whole.end() == 0, whole.said()

        first = Process(program, config, tmp_path / "ended")  # by SIGTERM, as Slurm does it
        first.wait_until(lambda: first.step() >= 30)
        assert first.end(signal.SIGTERM) == 75, first.said()
        assert "stopped at step" in first.said()
        stopped = first.step()

        second = Process(program, config, tmp_path / "ended")
        second.wait_until(lambda: second.step() > stopped + 30)
        assert second.end(signal.SIGKILL) == -signal.SIGKILL
        assert "resuming at step" in (tmp_path / "ended" / "log.txt").read_text()
        killed = second.step()

        third = Process(program, config, tmp_path / "ended")
        third.wait_until(lambda: third.step() > killed + 30)
        third.wait_until(third.writes_a_checkpoint)
        assert third.end(signal.SIGKILL) == -signal.SIGKILL
        assert runs.read_result(tmp_path / "ended") is None

        fourth = Process(program, config, tmp_path / "ended")
        assert fourth.end() == 0, fourth.said()
        assert_same_run(config, tmp_path / "whole", tmp_path / "ended")
