"""Run folders of runs that ended, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqjax import runs
from seqjax.config import run_id
from seqjax.host import disk


def put(folder: Path, config: Any, loss: float, **validation: Any) -> Path:
    """The folder of a run of this config that finished with this held-out loss."""
    place = folder / run_id(config)
    runs.open_run(place, config)
    disk.write_json(place / "result.json", {
        "run_id": run_id(config),
        "status": "finished",
        "steps": 20,
        "tokens": 2560,
        "parameters": {"non_embedding": 1024},
        "validation": {"loss": loss, "loss_se": 0.01, **validation},
    })  # fmt: skip
    return place


def put_diverged(folder: Path, config: Any) -> Path:
    """The folder of a run of this config that diverged after half of its steps."""
    place = folder / run_id(config)
    runs.open_run(place, config)
    ended = {"status": "diverged", "steps": 10, "tokens": 1280, "parameters": {"non_embedding": 1024}}
    disk.write_json(place / "result.json", {"run_id": run_id(config), **ended})
    return place
