"""A state is saved before it is evaluated; whatever fails after the save, the run ends as if nothing had happened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toy_task
from quick import slow
from same_run import assert_same_run

from seqjax import runs
from seqjax.config import Config
from seqjax.errors import UserError
from seqjax.tasks import text
from seqjax.training import bundle as bundles
from seqjax.training.loop import train, train_bundle


class Killed(Exception):
    pass


def dies_at_evaluation(number: int, patch: pytest.MonkeyPatch) -> None:
    """The evaluation of that number (from 1) ends in Killed."""
    real, calls = bundles.Bundle._held_out, []

    def evaluate(*arguments: Any, **how: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            raise Killed
        return real(*arguments, **how)

    patch.setattr(bundles.Bundle, "_held_out", evaluate)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("whole") / "run"}


@pytest.mark.parametrize("number", [1, slow(2), slow(3), 4])
def test_a_failed_evaluation_costs_no_training(
    number: int, whole: dict[str, Path], make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations at 8, 16, at the end, and the final one; each fails once, and the run goes on from that step."""
    config: Config = make_config("gru", **{"evaluation.every": 8, "train.checkpoint_every": 20})
    train(config, whole["folder"], devices=1, quiet=True)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at_evaluation(number, patch)
        train(config, tmp_path / "cut", devices=1, quiet=True)
    step = (8, 16, 20, 20)[number - 1]
    assert (tmp_path / "cut" / "checkpoints" / str(step)).is_dir()
    with monkeypatch.context() as patch:
        first: list[int] = []
        real = text.batch_at
        patch.setattr(text, "batch_at", lambda c, shard, at: (first.append(at), real(c, shard, at))[1])
        train(config, tmp_path / "cut", devices=1, quiet=True)
        assert min(first, default=20) == step
    assert_same_run(config, whole["folder"], tmp_path / "cut")


def test_lanes_that_were_not_evaluated_catch_up(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lane has its evaluation of step 8 already, the other is a step behind it."""
    configs = [make_config("gru", **{"evaluation.every": 8, "train.seed": seed}) for seed in (0, 1)]
    train_bundle([(c, tmp_path / f"whole{i}") for i, c in enumerate(configs)], devices=1, quiet=True)
    cut = [(c, tmp_path / f"cut{i}") for i, c in enumerate(configs)]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at_evaluation(1, patch)
        train_bundle(cut, devices=1, quiet=True)
    shutil.rmtree(tmp_path / "cut1" / "checkpoints" / "8")  # its save was not complete
    train_bundle(cut, devices=1, quiet=True)
    for lane in (0, 1):
        expected, found = (
            [{k: v for k, v in r.items() if k != "seconds"} for r in runs.read_metrics(tmp_path / f"{name}{lane}")]
            for name in ("whole", "cut")
        )
        assert found == expected


@pytest.mark.parametrize("damage", [slow("deleted"), "half", slow("zeros in the middle")])
def test_lost_lines_come_back_from_the_checkpoint(
    damage: str, make_config: Any, tmp_path: Path, crash_at: Any, whole: dict[str, Path]
) -> None:
    config = make_config("gru", **{"evaluation.every": 8, "train.checkpoint_every": 20})
    train(config, whole["folder"], devices=1, quiet=True)
    with crash_at(18):
        train(config, tmp_path / "run", devices=1, quiet=True)
    path = tmp_path / "run" / "metrics.jsonl"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes({"half": content[:middle]}.get(damage, content[:50] + bytes(100) + content[150:]))
    if damage == "deleted":
        path.unlink()
    train(config, tmp_path / "run", devices=1, quiet=True)
    assert_same_run(config, whole["folder"], tmp_path / "run")
    assert "had lost or altered lines" in (tmp_path / "run" / "log.txt").read_text()


def test_a_state_whose_loss_is_not_finite_is_not_kept(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bundles.Bundle._held_out
    monkeypatch.setattr(
        bundles.Bundle, "_held_out", lambda *a, **how: [e._replace(loss=np.nan) for e in real(*a, **how)]
    )
    result = train(make_config("gru", **{"train.checkpoint_every": 5}), tmp_path / "run", devices=1, quiet=True)
    assert result["status"] == "diverged"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["5"]


def toy(folder: Path, **how: Any) -> dict[str, Any]:
    config = toy_task.Config()
    return train(config, folder, task=toy_task.make_task(config, **how), quiet=True, wandb_mode="disabled")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_task_is_saved_before_it_is_evaluated(number: int, tmp_path: Path) -> None:
    toy(tmp_path / "whole")
    calls: list[None] = []

    def evaluated(loss: float) -> float:
        calls.append(None)
        if len(calls) == number:
            raise Killed
        return loss

    with pytest.raises(Killed):
        toy(tmp_path / "cut", evaluated=evaluated)
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    toy(tmp_path / "cut")
    assert f"resuming at step {20 * number}" in (tmp_path / "cut" / "log.txt").read_text()
    assert toy_task.lines(tmp_path / "cut") == toy_task.lines(tmp_path / "whole")
    found, whole = (toy_task.best_params(tmp_path / name) for name in ("cut", "whole"))
    jax.tree.map(np.testing.assert_array_equal, found, whole)


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints/60"])
def test_a_finished_task_never_gives_other_parameters(gone: str, tmp_path: Path) -> None:
    assert toy(tmp_path)["best"]["step"] == 60
    shutil.rmtree(tmp_path / gone)
    with pytest.raises(UserError, match=r"step 60\) is gone or damaged|has no checkpoint"):
        toy_task.best_params(tmp_path)
    (tmp_path / "result.json").unlink()
    assert toy(tmp_path)["best"]["step"] == 60
