"""`seqjax positions` of a sweep: the chosen rates only, and no law that the losses do not determine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqjax import runs
from seqjax.cli import main
from seqjax.config import run_id
from seqjax.host import disk


def put(folder: Path, config: Any, offset: float, alpha: float, noise: float) -> None:
    """A finished run whose losses follow a law by position."""
    at = np.arange(1.0, 65.0)
    loss = offset + 2.0 * at**-alpha * np.exp(noise * np.random.default_rng(0).standard_normal(64))
    validation = {"loss": float(loss.mean()), "loss_se": 0.01, "by_position": loss.tolist(),
                  "by_position_se": [0.01] * 64}  # fmt: skip
    place = folder / run_id(config)
    runs.open_run(place, config)
    result = {"run_id": run_id(config), "status": "finished", "steps": 20, "validation": validation,
              "tokens": 2560, "parameters": {"non_embedding": 1024}}  # fmt: skip
    disk.write_json(place / "result.json", result)


def test_a_sweep_shows_its_chosen_rates(make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "s"
    for family, alpha, noise in (("lstm", 0.5, 0.01), ("gru", 0.0, 0.2)):
        for rate, offset in ((1e-3, 2.2), (3e-3, 2.0), (1e-2, 2.1)):
            config = make_config(family, optimizer={"learning_rate": rate})
            put(folder, config, offset, alpha, noise)
    figure = tmp_path / "p.png"
    assert main(["positions", str(folder), "--bootstrap", "40", "--plot", str(figure)]) == 0
    printed = capsys.readouterr()
    assert "left out: 4 run(s) at other learning rates" in printed.err
    assert printed.out.count("  law ") == 2 and printed.out.count("/ T^0.") == 1
    assert printed.out.count("not determined by these losses") == 1  # of alpha = 0
    assert figure.is_file() and max(map(len, printed.out.splitlines())) <= 80
    one = next(folder.glob("lstm*"))
    assert main(["positions", *map(str, folder.glob("lstm*")), "--bootstrap", "40"]) == 0
    assert capsys.readouterr().out.count("  law ") == 3, one  # named one by one
