"""`seqjax sweep` in the tests' process, or in one of its own that can be stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from seqjax import cli
from seqjax.sweeps import table

VOLATILE = ("sweep", "seconds", "training_seconds", "waited_share", "tokens_per_second", "ended", "failures", "reason")


def launch(sweep: Path, runs: Path, *options: str) -> int:
    """The exit code of the command in this process, without measuring step times; its workers are processes."""
    return cli.main(["sweep", str(sweep), "--runs", str(runs), "--no-measure", *options])


class Launcher:
    """The command in a process of its own, started without measuring step times; its output goes to a file."""

    def __init__(self, sweep: Path, runs: Path, *options: str) -> None:
        self.folder = runs / sweep.stem
        self.output = runs.parent / f"{runs.name}.txt"
        command = [sys.executable, "-m", "seqjax", "sweep", str(sweep), "--runs", str(runs), "--no-measure", *options]
        with open(self.output, "ab") as output:
            self.popen = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def said(self) -> str:
        return self.output.read_text()

    def wait_until(self, reached: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.popen.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.002)

    def steps(self) -> int:
        """Lines of all training curves together: what moves while the sweep goes on."""
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob("*/metrics.jsonl"))

    def results(self) -> int:
        return len(list(self.folder.glob("*/result.json")))

    def workers(self) -> list[int]:
        return [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and _parent(path) == self.popen.pid and b"seqjax.sweeps.worker" in _command(path)
        ]

    def end(self, number: int | None = None, seconds: float = 300) -> int:
        if number is not None:
            os.kill(self.popen.pid, number)
        return self.popen.wait(seconds)


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def numbers(folder: Path) -> pd.DataFrame:
    """The table of a sweep, without what may differ between two launches of it."""
    return table.gather([folder]).drop(columns=list(VOLATILE)).sort_values("run_id", ignore_index=True)


def write_sweep(path: Path, text: Path, axes: str, **changes: Any) -> Path:
    """A sweep file of tiny runs on a text."""
    settings = {"steps": 40, "batch_size": 4, "context_length": 16, "log_every": 5, "checkpoint_every": 10} | changes
    every = settings.pop("evaluate_every", 20)
    train = ", ".join(f"{key}: {value}" for key, value in settings.items())
    path.write_text(
        f"data: {{corpus: {text}}}\n"
        f"train: {{{train}}}\n"
        f"evaluation: {{every: {every}, windows: 16, final_windows: 32, batch_size: 16}}\n"
        f"{axes}\n"
    )
    return path


SIGKILL, SIGTERM, SIGINT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
