"""What works for text works for every task: the command, its options, sweeps with a search, tables, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from quick import quick

from seqjax import runs
from seqjax.cli import main
from seqjax.commands.options import config_of
from seqjax.config import task_name
from seqjax.runs.config_file import load_config
from seqjax.tasks import task_module

TASKS = Path(__file__).parents[2] / "configs" / "tasks"
SMALL = {
    "delays": {"task.distance": 3, "task.held_out": 64},
    "abilities": {"task.length": 8, "task.pairs": 2, "task.items": 2, "task.held_out": 8},
    "lines": {"task.words": 300, "task.held_out": 8, "task.width": 4},
    "sentiment-phrases": {},
    "steering": {"data.road_frames": 400, "task.frames": 4, "data.history": 4, "data.blocks": 10},
    "numbers-gru": {"task.training_pairs": 60, "task.beam": 2},
}
SHORT = {"train.steps": 4, "train.evaluate_every": 2, "train.batch_size": 4, "optimizer.warmup_steps": 1,
         "model.d_model": 8, "train.log_every": 1}  # fmt: skip


def words(options: dict[str, Any]) -> list[str]:
    return [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("name", ["sentiment-phrases", "steering", "numbers-gru"])
def test_a_process_makes_its_rows_of_the_batch_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "numbers-gru":
        monkeypatch.setattr("seqjax.tasks.translation.need_sacrebleu", lambda: None)
    config = config_of(TASKS / f"{name}.yaml", words(SHORT | SMALL[name] | {"train.batch_size": 6}))
    module = task_module(task_name(config))
    task = module.make_task(config, module.load(config))
    for step in range(12):  # a few short batches of sentences are among them
        whole = task.batch(step)
        for rows in (slice(0, 2), slice(2, 6)):
            own = task.batch_rows(step, rows)
            jax.tree.map(lambda a, b, rows=rows: np.testing.assert_array_equal(a[rows], b), whole, own)


@pytest.mark.parametrize("name", quick(SMALL, "delays"))
def test_accumulation_and_devices_change_a_task_by_rounding_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "numbers-gru":
        pytest.importorskip("sacrebleu")
        monkeypatch.setattr("seqjax.tasks.translation.HELD_OUT", 100)  # of 1,000 numbers to translate
    base = ["train", str(TASKS / f"{name}.yaml"), "--quiet", "--wandb", "disabled"]
    options = words(SHORT | SMALL[name] | {"model.dropout": 0})
    if name == "steering":  # other pieces have other random windows: what is drawn by the host is the same
        options += words({"encoder.dropout": 0})
    results = []
    for run, others in (("whole", []), ("cut", words({"train.accumulation": 2}) + ["--devices", "2"])):
        assert main([*base, *options, *others, "--run", str(tmp_path / run)]) == 0
        results.append(runs.read_result(tmp_path / run))
    assert results[0]["validation"]["loss"] == pytest.approx(results[1]["validation"]["loss"], rel=2e-3)
    if name == "delays":
        low = [*base, *options, "--train.compute-dtype", "bfloat16", "--run", str(tmp_path / "low")]
        assert main(low) == 0
        found = runs.read_result(tmp_path / "low")["validation"]["loss"]
        assert found != results[0]["validation"]["loss"]
        assert found == pytest.approx(results[0]["validation"]["loss"], rel=0.1)


def test_a_sweep_with_a_search_and_all_that_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = SHORT | SMALL["delays"]
    sweep = tmp_path / "s.yaml"
    sweep.write_text(f"base: {TASKS / 'delays.yaml'}\nsearch: {{rates: [1e-3, 3e-3, 1e-2], extend: 0}}\n"
                     "list: [{model.family: lstm}]\n")  # fmt: skip
    command = ["sweep", str(sweep), "--runs", str(tmp_path), "--workers", "1", "--wandb", "disabled", *words(options)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "3 finished" in said and "held-out loss by learning rate" in said
    assert main(command) == 0
    assert "3 of them ended" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "s"), "--format", "csv"]) == 0
    (tmp_path / "t.csv").write_text(capsys.readouterr().out)
    assert main(["runs", str(tmp_path / "t.csv")]) == 0
    assert "delays-lstm-1x8" in capsys.readouterr().out
    one = next(path for path in (tmp_path / "s").iterdir() if (path / "result.json").is_file())
    result = runs.read_result(one)
    for split, wanted in (("validation", result["validation"]["loss"]), ("test", result["test"]["loss"])):
        assert main(["eval", str(one), "--split", split, "--checkpoint", "best"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found if split == "validation" else found["test"])["loss"] == pytest.approx(wanted, rel=1e-6)
    for words_ in (("show", one), ("status", tmp_path / "s")):
        assert main([*map(str, words_)]) == 0
    assert main(["sample", str(one)]) == 2
    assert "is a run of the task 'delays'; this is for runs on text" in capsys.readouterr().err


def test_a_task_that_is_not_named_is_known_by_its_keys(tmp_path: Path) -> None:
    for name in SMALL:
        config = load_config(TASKS / f"{name}.yaml")
        tree = json.loads(json.dumps(__import__("dataclasses").asdict(config)))
        del tree["task"]["name"]  # as runs were recorded before tasks had names
        (tmp_path / "config.json").write_text(json.dumps(tree))
        assert load_config(tmp_path / "config.json") == config


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(TASKS / "delays.yaml")
    mistakes = [
        (["--task.name", "delay"], "task.name: 'delay' is not allowed; allowed: abilities, delays, lines"),
        (["--task.distanc", "3"], "task.distanc: unknown key"),
        (["--horizon.tokens", "1e5"], "horizon.tokens: counts tokens of text; give train.steps"),
        (["--train.accumulation", "5"], "train.accumulation: 5 does not divide"),
        (["--data.corpus", "english"], "data: unknown key"),
    ]
    for options, message in mistakes:
        assert main(["train", path, *options, "--run", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
