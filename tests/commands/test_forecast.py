"""`seqjax forecast`: curves and schedules are those of run folders, and runs of other models are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqjax.cli import main
from seqjax.laws import multi_power
from seqjax.runs.folder import open_run


@pytest.fixture
def runs(tmp_path: Path, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Folders ``one`` (late decay), ``two`` (cosine) and ``big`` (of another model); what the law is asked."""
    for name, changes in {
        "one": {"optimizer.schedule": "wsd", "optimizer.decay_fraction": 0.2},
        "two": {"optimizer.schedule": "cosine"},
        "big": {"model.d_model": 32},
    }.items():
        config = make_config("gru", **{"train.steps": 400, "optimizer.warmup_steps": 10, **changes})
        open_run(tmp_path / name, config)
        lines = [{"step": step, "validation_loss": 2 + step**-0.5} for step in range(20, 401, 20)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    asked: list[dict[str, Any]] = []

    def forecast(curves: Any, rates: Any, bootstrap: int, seed: int) -> multi_power.Forecast:
        asked.append({"curves": curves, "rates": rates})
        return multi_power.Forecast(2.0512, (2.01, 2.09), {"L_0": 2.0}, 0.003, ("schedule: a doubt",))

    monkeypatch.setattr(multi_power, "forecast", forecast)
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_law_is_asked_with_the_curves_and_schedules_of_the_runs(
    runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", "one", "--with", "two", "--until", "200"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("loss at step 400: 2.0512 (95 %: 2.0100 to 2.0900)\n") and "FLAG schedule" in printed
    (asked,) = runs
    one, two = asked["curves"]
    assert one.steps[-1] == 200 and two.steps[-1] == 400 and len(one.rates) == len(two.rates) == 400
    assert asked["rates"][350] < asked["rates"][300] == asked["rates"][20] == one.rates.max()  # wsd: falls in the end
    assert two.rates[200] < two.rates[20]
    np.testing.assert_array_equal(asked["rates"], one.rates)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("one", "--with", "big"), "big: model differs from one; the law is of one model"),
        (("none",), "none: not a run folder"),
        (("one", "--until", "0"), "--until"),
    ],
)
def test_mistakes_are_told(runs: Any, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str) -> None:
    assert main(["forecast", *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
