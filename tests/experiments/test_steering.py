"""The experiment on steering: it runs on its built-in road, and what is said of it is what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment import REPOSITORY, RESULTS, SWEEPS, load, run_here

from seqjax.errors import UserError
from seqjax.runs.config_file import load_config
from seqjax.sweeps.grid import read_sweep

RECORDED = json.loads((RESULTS / "steering" / "results.json").read_text())
EXPERIMENT = load("steering")
TINY = [
    "--train.steps=2",
    "--optimizer.warmup-steps=1",
    "--train.evaluate-every=2",
    "--data.road-frames=420",
    "--data.blocks=6",
    "--data.folds=3",
]


@pytest.mark.slow
def test_it_runs_on_the_built_in_road(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(f"""
base: {REPOSITORY}/configs/tasks/steering.yaml
list:
  - {{task: {{stacked: true, frames: 1}}, model: {{family: window, window: 1, d_model: 8}}}}
  - {{model.family: lstm, model.d_hidden: 4, task.past_steering: true}}
grid: {{data.fold: [0, 1]}}
""")
    words = [*TINY, "--sweep", str(sweep), "--seeds", "2", "--data", "road"]
    assert run_here(monkeypatch, EXPERIMENT, tmp_path, *words) == 0
    first = json.loads((tmp_path / "report" / "results.json").read_text())
    found = first["data"]["drawn road"]
    assert found["seeds"] == found["folds"] == 2 and found["blocks"] == 4
    assert set(found["errors"]) == {"mean", "persistence", "stacked", "LSTM + past steering"}
    assert set(found["errors"]["LSTM + past steering"]) == {"1", "2", "4", "8", "16"}
    for by_k in found["errors"].values():
        for entry in by_k.values():
            assert entry["mse"]["value"] == pytest.approx(np.mean(entry["by_seed"]))
            assert entry["mse"]["low"] <= entry["mse"]["value"] <= entry["mse"]["high"]
    assert (tmp_path / "report" / "steering.svg").is_file()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/result.json")}
    assert len(times) == 8
    assert run_here(monkeypatch, EXPERIMENT, tmp_path, *words) == 0  # nothing is trained twice
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/result.json")} == times
    assert json.loads((tmp_path / "report" / "results.json").read_text())["data"] == first["data"]
    capsys.readouterr()


def test_floors_are_those_of_all_held_out_frames() -> None:
    """Computed here from the steering alone, without blocks and draws."""
    options = {"data.road_frames": 420, "data.blocks": 6, "data.folds": 3, "data.fold": 1}
    config = load_config(REPOSITORY / "configs" / "tasks" / "steering.yaml", options)
    drive = EXPERIMENT.load(config)
    parts = EXPERIMENT.parts_of(config.data, drive)
    targets = np.concatenate([np.arange(a + 15, b) for a, b in parts.test])
    zero = np.zeros((1, len(targets))).tolist()
    result = {"parameters": {"total": 1}, "test": {"targets": targets.tolist(), "predicted": zero, "seen": [1]}}
    runs = [{"variant": "stacked 1", "seed": 0, "fold": 1, "result": result}]
    found = EXPERIMENT.analyse(config, drive, runs)["errors"]
    train = np.concatenate([drive.steer_T[a:b] for a, b in parts.train]).mean(dtype=float)
    steer = drive.steer_T[targets].astype(float)
    assert found["mean"]["0"]["mse"]["value"] == pytest.approx(((steer - train) ** 2).mean())
    assert found["persistence"]["0"]["mse"]["value"] == pytest.approx(
        ((steer - drive.steer_T[targets - 1]) ** 2).mean()
    )
    assert found["stacked"]["1"]["mse"]["value"] == pytest.approx((steer**2).mean())


def test_mistakes_are_told_before_any_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    assert run_here(monkeypatch, EXPERIMENT, tmp_path, *TINY, "--data", "road", str(tmp_path / "nowhere")) == 2
    assert "driving_log.csv: no such log" in capsys.readouterr().err
    assert run_here(monkeypatch, EXPERIMENT, tmp_path, "--task.framess", "3") == 2
    assert "task.framess: unknown key" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.json"))


def test_variants_are_of_about_one_size() -> None:
    sizes = next(iter(RECORDED["data"].values()))["parameters"]
    assert set(sizes) == {EXPERIMENT.variant_of(run.config) for run in read_sweep(SWEEPS / "steering.yaml").runs()}
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_the_recorded_runs_are_of_three_seeds() -> None:
    assert {found["seeds"] for found in RECORDED["data"].values()} == {3}
    assert {"hardware", "versions", "date"} <= set(RECORDED)


def test_the_readme_and_the_docstring_say_what_was_recorded() -> None:
    readme = " ".join((REPOSITORY / "experiments" / "README.md").read_text().split())
    doc = " ".join(EXPERIMENT.__doc__.split())
    for found in RECORDED["data"].values():
        for line in EXPERIMENT.as_text(found).splitlines():
            assert line in readme
        for said in (EXPERIMENT.floors_as_text(found), EXPERIMENT.gains_as_text(found), EXPERIMENT.past_as_text(found)):
            assert said in readme
        assert EXPERIMENT.gains_as_text(found) in doc
        assert EXPERIMENT.past_as_text(found) in doc


def test_drives_of_one_name_are_told_apart() -> None:
    labels = EXPERIMENT.labels
    assert labels(["road", "/a/log"]) == {"road": "drawn road", "/a/log": "log"}
    assert labels(["/x/log", "/y/log"]) == {"/x/log": "x/log", "/y/log": "y/log"}
    assert len(set(labels(["/x/log", "/log", "/x/x/log", "/z/simulator", "driving"]).values())) == 5
    assert set(labels(["a/log/", "b/log"]).values()) == {"a/log", "b/log"}


@pytest.mark.parametrize("sources", [["road", "road"], ["x/log", "x/log/"], ["x/log", "x/../x/log"]])
def test_a_drive_named_twice_is_refused(sources: list[str]) -> None:
    with pytest.raises(UserError, match="named twice"):
        EXPERIMENT.labels(sources)
