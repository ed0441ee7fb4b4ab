"""A sweep that is killed on the way ends with the table of one that was not."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from sweeping import SIGINT, SIGKILL, Launcher, launch, numbers, write_sweep

AXES = """
list:
  - {model.family: lstm, model.n_layers: 1}
  - {model.family: transformer, model.n_layers: 1, model.n_heads: 2}
grid:
  size.non_embedding: [768]
  optimizer.learning_rate: [3e-3, 1e-2, 3e-2]
"""


@pytest.mark.slow
def test_killed_again_and_again_it_leaves_the_same_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 families x 3 rates on the embedded corpus; kill -9 of the launcher, of a worker, and Ctrl-C."""
    sweep = write_sweep(
        tmp_path / "tiny.yaml", Path("english"), AXES, steps=600, checkpoint_every=50, evaluate_every=100
    )
    assert launch(sweep, tmp_path / "whole") == 0
    assert "6 runs: 6 finished" in "".join(capsys.readouterr())

    first = Launcher(sweep, tmp_path / "killed")
    first.wait_until(lambda: first.steps() > 30)
    orphans = first.workers()
    first.end(SIGKILL)
    assert first.results() < 6

    second = Launcher(sweep, tmp_path / "killed")  # while the workers of the first one save
    second.wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in orphans))
    before = second.steps()  # from here on every step is one of its own workers
    second.wait_until(lambda: second.steps() > before + 60)
    os.kill(second.workers()[0], SIGKILL)
    second.wait_until(lambda: "was killed by SIGKILL" in second.said())
    assert second.end(SIGINT) == 130, second.said()
    assert "the same command resumes from here" in second.said()

    assert launch(sweep, tmp_path / "killed") == 0
    assert "6 runs: 6 finished" in "".join(capsys.readouterr())
    pd.testing.assert_frame_equal(numbers(tmp_path / "whole" / "tiny"), numbers(tmp_path / "killed" / "tiny"))
    assert numbers(tmp_path / "whole" / "tiny")["loss"].nunique() == 6
