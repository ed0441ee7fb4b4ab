"""Curves for TensorBoard: the bytes of its own writer, and the command for a sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from finished_run import put

from seqjax import runs
from seqjax.cli import main
from seqjax.host.tensorboard import NAME, checksum, event_file

BY_TENSORBOARD = (
    "1800000000000000a37f4b220900000000002059401a0d627261696e2e4576656e743a321852f4c72b00000000000000861bc34b"
    "09000000000040594010ac022a1d0a0b0a046c6f737315000020400a0e0a077365636f6e6473150000003ff7345177"
)
"""`tensorboard.summary.writer.record_writer.RecordWriter` (2.21.0) of the same two events."""
STEP = (300, 101.0, {"loss": 2.5, "seconds": 0.5})


def test_the_bytes_are_those_of_its_own_writer() -> None:
    assert checksum(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert event_file(100.5, [STEP]).hex() == BY_TENSORBOARD


def test_more_steps_only_add_bytes_and_no_number_is_too_large() -> None:
    assert event_file(100.5, [STEP, (600, 102.0, {"loss": 2.0})]).startswith(event_file(100.5, [STEP]))
    assert event_file(0.0, [(1, 0.0, {"a": 1e300})]) == event_file(0.0, [(1, 0.0, {"a": math.inf})])
    assert event_file(0.0, [(1, 0.0, {"a": math.nan})]) != event_file(0.0, [(1, 0.0, {"a": math.inf})])


def test_every_run_of_a_sweep_that_has_begun_is_written(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        folder = put(tmp_path / "first", make_config("window", **{"train.seed": seed}), 3.0)
        if seed:
            runs.append_metrics(folder, {"step": 1, "tokens": 8, "loss": 3.0, "note": "no number"})
    assert main(["export-tensorboard", str(tmp_path / "first"), "--output", str(tmp_path / "events")]) == 0
    said = capsys.readouterr()
    assert "left out: 1 run not begun" in said.err
    assert f"tensorboard --logdir {tmp_path / 'events'}" in said.out
    (written,) = (tmp_path / "events" / "first").glob(f"*/{NAME}")
    assert written.parent.name == folder.name
    assert b"loss" in written.read_bytes() and b"note" not in written.read_bytes()
    assert main(["export-tensorboard", str(tmp_path / "nowhere")]) == 2
