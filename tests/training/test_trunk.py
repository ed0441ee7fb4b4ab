"""The schedule wsd, and branches: runs that start from a checkpoint of their trunk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick import quick
from same_run import assert_same_run

from seqjax import runs
from seqjax.config import decay_begins, run_id
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.runs import steps_of
from seqjax.runs.config_file import check
from seqjax.training import trunk
from seqjax.training.loop import train, train_bundle
from seqjax.training.optimizer import learning_rates

WSD = {
    "optimizer.schedule": "wsd", "optimizer.warmup_steps": 3, "optimizer.decay_fraction": 0.25,
    "optimizer.final_fraction": 0.1, "train.checkpoint_every": 7, "evaluation.every": 5,
}  # fmt: skip
SHORT, LONG = 16, 40
BEGINS, EARLIER = 12, 9  # of the decay of SHORT; another checkpoint that the trunk keeps


def plan(place: Path, config: Any, lanes: int = 1, threads: int = 1, **more: Any) -> Path:
    """The folder of a run of a sweep, with its plan."""
    folder = place / run_id(config)
    runs.open_run(folder, config)
    disk.write_json(folder / "plan.json", {"lanes": ["x"] * lanes, "threads": threads, **more})
    return folder


def trained_pair(make_config: Any, family: str, place: Path, **of_branch: Any) -> tuple[Any, Path]:
    """The config of a branch, and its folder beside that of its trunk, which is trained."""
    long, short = (make_config(family, **WSD, **{"train.steps": steps}) for steps in (LONG, SHORT))
    folder = plan(place, long, trunk=run_id(long), pins=[EARLIER, BEGINS])
    train(long, folder, devices=1, quiet=True)
    return short, plan(place, short, trunk=run_id(long), **of_branch)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair")


@pytest.fixture
def pair(make_config: Any, kept: Path, tmp_path: Path) -> tuple[Any, Path, Path]:
    """The config of a branch, its folder beside its trained trunk, and a folder where it was trained from scratch."""
    short = make_config("lstm", **WSD, **{"train.steps": SHORT})
    if not (kept / "scratch").exists():
        trained_pair(make_config, "lstm", kept)
        train(short, kept / "scratch", devices=1, quiet=True)
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return short, tmp_path / run_id(short), tmp_path / "scratch"


def trunk_of(folder: Path) -> Path:
    return folder.parent / json.loads((folder / "plan.json").read_text())["trunk"]


@pytest.mark.parametrize(("warmup", "fraction", "steps"), [(0, 0.2, 50), (7, 0.25, 40), (3, 1e-9, 9), (0, 1.0, 20)])
def test_wsd_is_its_closed_form(make_config: Any, warmup: int, fraction: float, steps: int) -> None:
    optimizer = make_config("lstm", **{
        "optimizer.schedule": "wsd", "optimizer.warmup_steps": warmup, "optimizer.decay_fraction": fraction,
        "optimizer.final_fraction": 0.1, "optimizer.learning_rate": 0.5, "train.steps": steps,
    }).optimizer  # fmt: skip
    decay = max(1, round(fraction * steps))
    rise = [0.5 * (t + 1) / warmup for t in range(warmup)]
    fall = [0.5 * (1 - 0.9 * k / decay) for k in range(decay)]
    flat = [0.5] * (steps - decay - warmup)
    np.testing.assert_allclose(learning_rates(optimizer, steps), rise + flat + fall, rtol=1e-6)
    assert decay_begins(optimizer, steps) == steps - decay


def test_the_warmup_of_wsd_ends_before_its_decay(make_config: Any) -> None:
    with pytest.raises(UserError, match=r"optimizer.warmup_steps: 13 is more than the 12 steps before the decay"):
        make_config("lstm", **WSD | {"optimizer.warmup_steps": 13, "train.steps": SHORT})
    check(make_config("lstm", **WSD | {"optimizer.warmup_steps": 12, "train.steps": SHORT}))


@pytest.mark.parametrize("family", quick(("lstm", "transformer"), "lstm"))
def test_a_branch_is_the_run_from_scratch(make_config: Any, family: str, tmp_path: Path) -> None:
    short, folder = trained_pair(make_config, family, tmp_path)
    assert BEGINS in steps_of(trunk_of(folder))  # though it is neither the best nor of the last two
    result = train(short, folder, devices=1, quiet=True)
    scratch = train(short, tmp_path / "scratch", devices=1, quiet=True)
    assert result["taken_over"]["step"] == BEGINS
    assert result["seconds"] > result["taken_over"]["seconds"] > 0
    assert "taken_over" not in scratch
    assert result["run_id"] == scratch["run_id"] == folder.name
    assert result["tokens"] == scratch["tokens"]
    assert_same_run(short, folder, tmp_path / "scratch")


DAMAGES = (
    "no checkpoint",
    "damaged checkpoint",
    "other data",
    "other threads",
    "other lanes",
    "other config",
    "no trunk",
)


@pytest.mark.parametrize(
    "damage",
    quick(DAMAGES, "no checkpoint", "damaged checkpoint"),
)
def test_without_a_fitting_checkpoint_it_trains_from_scratch(pair: Any, damage: str) -> None:
    short, folder, scratch = pair
    there = trunk_of(folder)
    if damage == "no checkpoint":
        for step in steps_of(there):
            if step <= BEGINS:
                shutil.rmtree(there / "checkpoints" / str(step))
    elif damage == "damaged checkpoint":
        for file in there.glob("checkpoints/*/seqjax.json"):
            file.write_bytes(b"x" + file.read_bytes()[1:])
    elif damage == "other data":
        disk.write_json(there / "data.json", {"corpus_sha256": "0"})
    elif damage == "other config":
        text = (there / "config.json").read_text()
        (there / "config.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    elif damage == "no trunk":
        shutil.rmtree(there)
    else:
        plan(folder.parent, short, trunk=there.name, **({"threads": 2} if damage == "other threads" else {"lanes": 2}))
    assert "taken_over" not in train(short, folder, devices=1, quiet=True)
    assert_same_run(short, folder, scratch)


def test_an_earlier_checkpoint_of_the_trunk_serves_too(pair: Any) -> None:
    short, folder, scratch = pair
    there = trunk_of(folder) / "checkpoints"
    shutil.rmtree(there / str(BEGINS))
    shutil.copytree(there / str(EARLIER), there / "14")  # after the decay has begun: it does not serve
    assert train(short, folder, devices=1, quiet=True)["taken_over"]["step"] == EARLIER
    assert_same_run(short, folder, scratch)


@pytest.mark.parametrize("moment", ["copied", "noted", "later"])
def test_a_branch_killed_at_any_moment_ends_alike(
    pair: Any, moment: str, monkeypatch: pytest.MonkeyPatch, crash_at: Any
) -> None:
    short, folder, scratch = pair
    if moment == "later":
        with crash_at(14):
            train(short, folder, devices=1, quiet=True)
    else:
        name = "write_json" if moment == "copied" else "write_metrics"
        owner = trunk.disk if moment == "copied" else trunk.runs

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, killed)
            trunk.take_over(short, folder, {}, lambda _: None)
        assert steps_of(folder) == []
    assert train(short, folder, devices=1, quiet=True)["taken_over"]["step"] == BEGINS
    assert_same_run(short, folder, scratch)


@pytest.mark.slow
def test_the_lanes_of_a_bundle_branch_from_the_lanes_of_another(make_config: Any, tmp_path: Path) -> None:
    def lanes(steps: int) -> list[Any]:
        return [make_config("lstm", **WSD, **{"train.steps": steps, "train.seed": seed}) for seed in (0, 1)]

    trunks = [plan(tmp_path, c, lanes=2, trunk=run_id(c), pins=[BEGINS]) for c in lanes(LONG)]
    train_bundle(list(zip(lanes(LONG), trunks, strict=True)), devices=1, quiet=True)
    branches = [plan(tmp_path, c, lanes=2, trunk=t.name) for c, t in zip(lanes(SHORT), trunks, strict=True)]
    found = train_bundle(list(zip(lanes(SHORT), branches, strict=True)), devices=1, quiet=True)
    assert [result["taken_over"]["step"] for result in found] == [BEGINS] * 2
    scratch = [(c, tmp_path / f"scratch{lane}") for lane, c in enumerate(lanes(SHORT))]
    train_bundle(scratch, devices=1, quiet=True)
    for branch, (config, folder) in zip(branches, scratch, strict=True):
        assert_same_run(config, branch, folder)
