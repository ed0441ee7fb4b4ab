"""What cannot end well is refused before the first step, and an error bar stands only where there is one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import toy_task

from seqjax import runs
from seqjax.cli import main
from seqjax.config import TaskTrain, to_dict
from seqjax.config.plain import dump_yaml
from seqjax.errors import UserError
from seqjax.families import GRU, Transformer
from seqjax.host import disk
from seqjax.host.stopping import Interrupted
from seqjax.host.wording import with_error
from seqjax.runs.config_file import load_config
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.sweep import prepare_data
from seqjax.tasks import translation
from seqjax.tasks.translation import Config as TranslationRun
from seqjax.tasks.translation import TranslationTask
from seqjax.training.loop import train

TINY = {"train.steps": 2, "evaluation.windows": 2, "evaluation.final_windows": 2}


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"data.batching": "streams", "train.batch_size": 600}, "train.batch_size: 600 streams of 16 tokens"),
        ({"train.context_length": 4096}, "train.context_length: 4096 needs 4,097"),
    ],
)
def test_a_split_that_is_too_short_is_found_before_the_first_step(
    make_config: Any, tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    config = make_config("lstm", **TINY, **changes)
    with pytest.raises(UserError, match=f"{key}.*the validation split"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_mistake_leaves_no_run_behind_and_takes_none_away(make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(to_dict(make_config("gru"))))
    words = ["train", str(tmp_path / "c.json"), "--runs", str(tmp_path / "runs"), "--data.corpus", "nowhere.txt"]
    assert main(words) == 2
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    assert main(words) == 2 and (tmp_path / "runs").is_dir()  # it was there before
    there = tmp_path / "runs" / "c" / "other"
    runs.open_run(there, make_config("gru"))
    assert main(words) == 2 and [*(tmp_path / "runs" / "c").iterdir()] == [there]


BROKEN = """
from dataclasses import dataclass
from seqjax.families import GRU

@dataclass(frozen=True)
class Broken(GRU):
    def step(self, params, h_BxH, gates_x_BxG, dtype):
        return h_BxH + params["of_no_such_name"]
"""


def test_a_mistake_in_the_users_own_code_leaves_no_run_behind(make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(to_dict(make_config("gru"))))
    (tmp_path / "broken.py").write_text(BROKEN)
    with pytest.raises(KeyError, match="of_no_such_name"):  # a traceback: the user's line is in it
        main(["train", str(tmp_path / "c.json"), "--runs", str(tmp_path / "runs"),
              "--model.family", f"{tmp_path}/broken.py:Broken"])  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_run_that_has_begun_stays_whatever_happens(make_config: Any, tmp_path: Path) -> None:
    for name, begun in {"planned": "data.json", "begun": "metrics.jsonl"}.items():
        with pytest.raises(KeyboardInterrupt), runs.gone_unless_begun(tmp_path / "runs" / name):
            runs.open_run(tmp_path / "runs" / name, make_config("gru"))
            (tmp_path / "runs" / name / "checkpoints").mkdir()
            (tmp_path / "runs" / name / begun).write_text("{}")
            raise KeyboardInterrupt
        assert (tmp_path / "runs" / name).exists() == (name == "begun")


def test_a_run_that_was_asked_to_stop_stays_where_it_said(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(Interrupted), runs.gone_unless_begun(tmp_path / "run"):
        runs.open_run(tmp_path / "run", make_config("gru"))
        raise Interrupted(15, 0)
    assert (tmp_path / "run" / "config.json").exists()


def test_a_sweep_looks_at_every_run(make_config: Any, tmp_path: Path) -> None:
    tree = to_dict(make_config("lstm", **TINY))
    (tmp_path / "base.yaml").write_text(dump_yaml(tree))
    (tmp_path / "s.yaml").write_text("base: base.yaml\ngrid: {train.context_length: [16, 4096]}")
    planned = read_sweep(tmp_path / "s.yaml").runs()
    prepare_data(planned[:1], lambda text: None)
    with pytest.raises(UserError, match=r"lstm-2x16 context_length=4096: train\.context_length: 4096 needs"):
        prepare_data(planned, lambda text: None)


@pytest.fixture
def one_window(make_config: Any, tmp_path: Path) -> Path:
    """A finished run that was never evaluated before its end, with one window."""
    changes = {"evaluation.windows": 1, "evaluation.final_windows": 1, "train.checkpoint_every": 1}
    train(make_config("lstm", **{**TINY, **changes}), tmp_path / "run", quiet=True)
    return tmp_path / "run"


def test_one_window_has_no_error_bar(one_window: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(one_window), "--windows", "1"]) == 0
    assert "±" not in capsys.readouterr().out
    assert main(["eval", str(one_window), "--windows", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss_se"] is None and set(found["by_position_se"]) == {None}
    assert main(["eval", str(one_window), "--windows", "2"]) == 0
    assert "±" in capsys.readouterr().out
    assert main(["eval", str(one_window), "--windows", "1000000000"]) == 0
    assert "all there are" in capsys.readouterr().out
    result = runs.read_result(one_window)
    assert result["validation"]["loss_se"] is None
    assert "±" not in (one_window / "log.txt").read_text()
    assert main(["train", str(one_window), "--no-sample"]) == 0
    assert "±" not in capsys.readouterr().out
    assert main(["runs", str(one_window)]) == 0
    assert main(["positions", str(one_window)]) == 2


def test_best_is_refused_where_nothing_was_evaluated(one_window: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.keep_metrics(one_window, lambda record: "validation_loss" not in record)
    for command in ("eval", "sample"):
        assert main([command, str(one_window), "--checkpoint", "best"]) == 2
        assert "there is no best one" in capsys.readouterr().err
    assert main(["sample", str(one_window), "--tokens", "3"]) == 0
    assert "last checkpoint, step 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, text", [(None, "1.2346"), (math.nan, "1.2346"), (math.inf, "1.2346"), (0.01, "1.2346 ± 0.0100")]
)
def test_a_number_with_its_error(error: float | None, text: str) -> None:
    assert with_error(1.23456, error) == text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model.d_model": "32", "model.n_heads": "3"}, "model.n_heads: 3 heads do not divide d_model 32"),
        ({"optimizer.warmup_steps": "2000", "train.steps": "10"}, "optimizer.warmup_steps: 2000 is more than"),
        ({"optimizer.schedule": "inverse_sqrt", "optimizer.warmup_steps": "0"}, "optimizer.warmup_steps: the schedule"),
        ({"optimizer.epsilon": "1e-46"}, "optimizer.epsilon: 1e-46 is not within float32"),
        ({"train.steps": "3000000000"}, "train.steps: 3,000,000,000 is too large"),
        ({"train.steps": "0x10"}, "train.steps: input should be a valid integer"),
    ],
)
def test_tasks_have_the_cross_checks_of_configs(tmp_path: Path, options: dict[str, str], message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("model: {family: transformer}\n")
    with pytest.raises(UserError, match=f"command line: {message}"):
        load_config(path, {"task.name": "translation", **options})
    path.write_text("model: {family: gru, tied_embeddings: true, d_hidden: 3}\n")
    with pytest.raises(UserError, match=r"t\.yaml:1: model\.tied_embeddings: needs"):
        load_config(path, {"task.name": "translation"})


def pairs(start: Path, **splits: int) -> TranslationRun:
    """A run on pairs of our own with so many words in each sentence of a split."""
    for split, words in splits.items():
        for side in ("source", "target"):
            lines = [" ".join(["a", "b", "c"][i % 3] for i in range(n, n + words)) for n in range(6)]
            Path(f"{start}.{split}.{side}").write_text("\n".join(lines) + "\n")
    return TranslationRun(
        GRU(d_model=4, n_layers=1),
        TranslationTask(corpus=str(start), max_length=8),
        train=TaskTrain(steps=2, batch_size=2, evaluate_every=1),
    )


def test_translation_without_a_test_set_finishes_and_says_so(tmp_path: Path) -> None:
    config = pairs(tmp_path / "p", train=3, validation=3)
    task = translation.make_task(config, translation.load(config))
    result = train(config, tmp_path / "run", task=task, quiet=True)
    assert result["status"] == "finished" and "test" not in result
    assert "longer_than_max_length" not in result


def test_held_out_pairs_that_are_left_out_are_counted_in_the_result(tmp_path: Path) -> None:
    config = pairs(tmp_path / "p", train=3, validation=3)
    for side in ("source", "target"):
        with open(f"{tmp_path / 'p'}.validation.{side}", "a") as file:
            file.write("a b c a b c a b c\n" * 2)
    task = translation.make_task(config, translation.load(config))
    result = train(config, tmp_path / "run", task=task, quiet=True)
    assert result["longer_than_max_length"] == {"validation": 2}


def test_held_out_pairs_that_are_all_too_long_are_found_before_training(tmp_path: Path) -> None:
    config = pairs(tmp_path / "p", train=3, validation=3, test=30)
    with pytest.raises(UserError, match=r"task\.max_length: no pair has at most 8 tokens"):
        translation.make_task(config, translation.load(config))


def test_sacrebleu_is_looked_for_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    config = pairs(tmp_path / "p", train=3, validation=3, test=3)
    with pytest.raises(UserError, match="BLEU needs sacrebleu"):
        translation.make_task(config, translation.load(config))


def toy(folder: Path, steps: int, losses: list[float], **how: Any) -> dict[str, Any]:
    """A run with these held-out losses."""
    left = iter(losses)
    config = toy_task.Config(train=TaskTrain(steps=steps, batch_size=2, evaluate_every=1))
    fields = {name: how.pop(name) for name in ("keeps", "more_at_end") if name in how}
    task = toy_task.make_task(config, evaluated=lambda loss: next(left), **how)._replace(**fields)
    return train(config, folder, task=task, quiet=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_held_out_loss_that_is_not_finite_is_the_end_of_a_task(tmp_path: Path, bad: float) -> None:
    assert toy(tmp_path / "run", 3, [1.0, bad])["status"] == "diverged"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]


@pytest.mark.parametrize("keeps", ["best", "last"])
@pytest.mark.parametrize("losses", [[1.0, math.nan], [math.inf]])
def test_so_is_one_after_the_last_step(tmp_path: Path, keeps: str, losses: list[float]) -> None:
    result = toy(tmp_path / "run", len(losses), losses, keeps=keeps)
    assert (result["status"], result["steps"]) == ("diverged", len(losses))
    assert result["diverged_in_steps"] == [len(losses)] * 2
    assert runs.read_result(tmp_path / "run") == result


def test_so_is_one_over_more_windows_after_the_last_step(tmp_path: Path) -> None:
    result = toy(tmp_path / "run", 1, [1.0, math.inf], keeps="last", more_at_end=True)
    assert runs.read_result(tmp_path / "run") == result and result["status"] == "diverged"


def test_a_final_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    toy(tmp_path / "run", 1, [1.0], final=lambda params: {"test": {"bleu_95": math.nan, "values": [1.0, math.inf]}})
    assert runs.read_result(tmp_path / "run")["test"] == {"bleu_95": None, "values": [1.0, None]}


def test_a_low_temperature_takes_the_likeliest_token() -> None:
    from seqjax.models.generation import choose

    logits_BxV = jnp.array([[1.0, 5.0, 3.0, 0.5]])
    for temperature in (0.0, 1e-46, 1e-38, 1e-30, 1e-10):
        assert choose(jax.random.key(0), logits_BxV, temperature, 0, 1.0).tolist() == [1]


def test_transformers_of_tasks_still_take_what_is_possible(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("model: {family: transformer, d_model: 32, n_heads: 4}\n")
    config = load_config(tmp_path / "t.yaml", {"task.name": "translation"})
    assert config.model == Transformer(d_model=32, n_heads=4)


def test_room_for_checkpoints_is_asked_for_before_the_first_step(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("lstm", **TINY)
    train(config, tmp_path / "first", quiet=True)  # its tokens are made
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: (10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"run: 3 checkpoints needs about .*B, and 1 kB are free there"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_repeats_between_training_and_held_out_pairs_are_said_and_kept(tmp_path: Path) -> None:
    config = pairs(tmp_path / "p", train=3, validation=3, test=3)
    result = train(config, tmp_path / "run", quiet=True)
    assert result["repeats"] == {"validation": 6, "test": 6}
    assert "note: 6 of 6 test sentences are in the training set too" in (tmp_path / "run" / "log.txt").read_text()
