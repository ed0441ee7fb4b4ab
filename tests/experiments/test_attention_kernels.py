"""The benchmark of attention kernels: every kind of row runs on a CPU; one that fails does not stop the others."""

from __future__ import annotations

import sys
from pathlib import Path

import experiment
import numpy as np
import pytest


@pytest.mark.slow
def test_every_kind_of_row_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment.load("benchmarks/accelerator").prepare()
    module = experiment.load("benchmarks/attention_kernels")
    monkeypatch.setattr(sys, "argv", ["attention_kernels.py", "--tiny", "--seconds", "600", "--out", str(tmp_path)])
    monkeypatch.setattr(module, "layers", lambda *shape: 1 / 0)
    assert module.main() == 0
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["attention_kernels.py", "--tiny", "--seconds", "600", "--out", str(tmp_path)])
    assert module.main() == 0
    right, failed, step, train, layer = module.accelerator.read(tmp_path / "rows.jsonl")
    assert right["right"] and right["whole"]["d_k"] < 0.03
    assert failed["error"] == "ZeroDivisionError: division by zero" and failed["row"] == layer["row"]
    assert {"whole", "blocks"} <= layer.keys() and layer["whole"]["ms"] > 0
    assert step["fused"]["step_ms"] > 0 and step["whole"]["step_ms"] > 0
    full = [row.name for row in module.rows(tiny=False)]
    assert len(set(full)) == len(full) == 23
    assert train["fused"] == train["whole"]  # a CPU has no such kernel, and T is short: whole scores
    assert train["whole"]["first_not_finite"] == [None] * 3 and 1 < min(train["whole"]["last_loss"]) < 5.6


def test_the_first_step_that_is_not_finite() -> None:
    ends = experiment.load("benchmarks/attention_training")._ends
    found = ends(np.array([[3.0, 2.0, 1.0], [3.0, np.nan, np.nan]]), np.array([[True] * 3, [True, False, False]]))
    assert found == {"last_loss": [1.0, None], "first_not_finite": [None, 2]}
