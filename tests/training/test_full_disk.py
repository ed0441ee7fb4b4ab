"""A disk that fills up in mid-run: one clear line, nothing lost, and the run goes on when there is room again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqjax import runs
from seqjax.config import to_dict


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_loses_nothing(make_config: Any, tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: metrics still fit, the first checkpoint does not."""
    config = make_config("gru", **{"model.d_model": 128, "train.checkpoint_every": 10})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "seqjax", "train", str(path), "--run", str(tmp_path / "run"), "--no-sample"]

    def start(limit: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        shell = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash"]
        return subprocess.run([*shell, *command], capture_output=True, text=True, timeout=120, env=environment)

    full = start("200")  # KiB
    assert full.returncode == 2, full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert "is intact" in line and "start the same command again" in line
    assert "Traceback" not in full.stderr
    assert runs.read_config(tmp_path / "run") == config
    assert runs.read_result(tmp_path / "run") is None
    assert [record["step"] for record in runs.read_metrics(tmp_path / "run")][:2] == [5, 10]

    again = start("unlimited")
    assert again.returncode == 0, again.stderr
    assert runs.read_result(tmp_path / "run")["status"] == "finished"
    assert [r["step"] for r in runs.read_metrics(tmp_path / "run") if "loss" in r] == [5, 10, 15, 20]
