"""What it means that two run folders hold the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from seqjax import runs
from seqjax.tasks import text
from seqjax.training import bundle
from seqjax.training.checkpoints import Checkpoints

TIMES = ("seconds",)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in TIMES} for record in runs.read_metrics(folder)]


def final_state(config: Any, folder: Path) -> Any:
    objective = text.make_objective(config, text.load(config).tokenizer.vocab_size)
    like = jax.tree.map(lambda x: x[0], bundle.make_bundle([config], objective, 1).init())
    step, state, _ = Checkpoints(folder, writable=False).restore(like, pytest.fail)
    assert step == config.train.steps
    return jax.device_get(state)


def assert_same_run(config: Any, a: Path, b: Path) -> None:
    """Metrics, result and the whole final state agree bit for bit."""
    assert metrics_of(a) == metrics_of(b)
    result_a, result_b = runs.read_result(a), runs.read_result(b)
    for key in ("status", "steps", "validation", "best", "train_loss", "parameters", "training_flops"):
        assert result_a[key] == result_b[key]
    jax.tree.map(np.testing.assert_array_equal, final_state(config, a), final_state(config, b))
