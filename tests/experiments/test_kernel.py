"""The benchmark of the whole-sequence kernel, on a CPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import experiment
import pytest

from seqjax.errors import UserError
from seqjax.through_time import kernel


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("fits", "warps"):
        monkeypatch.setattr(kernel, name, getattr(kernel, name))  # put back after the test
    return experiment.load("benchmarks/kernel")


def run(module: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> list[dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["kernel.py", "--tiny", "--seconds", "600", "--out", str(folder), *words])
    assert module.main() == 0
    return json.loads((folder / "kernel.json").read_text())["rows"]


@pytest.mark.slow
def test_rows_are_measured_once_and_a_failing_one_leaves_its_error(module, monkeypatch, tmp_path, capsys) -> None:
    def prepared(row: Any, of: Any = module.prepared) -> Any:
        return {"error": "no shared memory"} if row.family == "gru" else of(row)

    monkeypatch.setattr(module, "prepared", prepared)
    lstm, gru = run(module, monkeypatch, tmp_path)
    assert lstm["kernel_ms"] > 0 and lstm["scan_ms"] > 0
    assert 0 < lstm["differ"]["values"] < 0.02 and 0 < lstm["differ"]["gradients"] < 0.05
    assert lstm["kernel off"]["gradients"] < 2 * lstm["scan off"]["gradients"] + 0.01
    assert gru["error"] == "no shared memory"
    monkeypatch.setattr(module, "prepared", lambda row: pytest.fail("measured again"))
    assert run(module, monkeypatch, tmp_path) == [lstm, gru]
    assert "no shared memory" in capsys.readouterr().out


def test_needs_a_gpu(module, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["kernel.py", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="--tiny"):
        module.main()


def test_every_shape_is_a_row(module) -> None:
    """H 32 to 128, B 8 to 64, 1 to 32 runs; rows have different names."""
    rows = module.rows(tiny=False)
    names = {row.name for row in rows}
    assert len(names) == len(rows) == 2 * 4 * 3 * 3 + 5 + 2


@pytest.mark.slow
@pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
    reason="needs the CUDA plugin of JAX",
)
def test_compiled_for_an_h100(tmp_path) -> None:
    """It fits on the chip, nothing is spilled, and a step has few barriers."""
    rows = experiment.load("benchmarks/kernel_compiled").measured("h100", "lstm:32:bfloat16")
    assert {row["kernel"] for row in rows} == {"lstm_forward", "lstm_backward"}
    for row in rows:
        assert row["programs"] == 4 and 4 * 32 * 32 * 2 <= row["shared"] < 232448
        assert row.get("spilled", 0) == 0
        assert row.get("barriers", 0) <= 10


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu: pip install 'seqjax[tpu]'")
def test_compiled_for_a_v5e() -> None:
    """The kernels need no more vector memory than the rule says before they are compiled."""
    rows = experiment.load("benchmarks/kernel_compiled").measured("v5e", "gru:256:bfloat16")
    assert {row["kernel"] for row in rows} == {"gru_forward", "gru_backward"}
    for row in rows:
        assert row["rows"] == 64 and row["steps"] == 16
        assert 2 * 16 * 64 * 4 * 256 < row["vmem"] <= row["expected"] < 2**24  # at least two blocks of deltas or states
