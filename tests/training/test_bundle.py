"""Bundles: many runs in one program, each as it would have been alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from quick import quick, slow
from same_run import assert_same_run, final_state, metrics_of
from variants import TRAINED

from seqjax import runs
from seqjax.config import LANE_KEYS, program_key, to_dict
from seqjax.errors import UserError
from seqjax.tasks.text import make_objective
from seqjax.training import bundle as bundles
from seqjax.training.lanes import make_bundle, over_runs
from seqjax.training.loop import train, train_bundle

LANES = (
    {},
    {"optimizer.learning_rate": 3e-3, "optimizer.weight_decay": 0.1},
    {"train.seed": 1, "optimizer.schedule": "constant"},
    {"train.seed": 2, "train.init_scale": 0.5},
    {"optimizer.schedule": "step", "optimizer.step_every": 4, "optimizer.step_factor": 0.3},
)


def bundle(make_config: Any, family: str, folder: Path, lanes: Any = LANES, **shared: Any) -> list[tuple[Any, Path]]:
    return [(make_config(family, **shared, **lane), folder / f"lane{i}") for i, lane in enumerate(lanes)]


@pytest.mark.parametrize("family", quick(TRAINED, "lstm"))
def test_every_lane_is_its_solo_run(make_config: Any, family: str, tmp_path: Path) -> None:
    """Losses and final parameters; SGD, for Adam turns gradients of rounding size into whole steps."""
    kinds = LANES if family == "lstm" else LANES[1:3]  # five lanes: four side by side, and one more
    lanes = bundle(make_config, family, tmp_path, kinds, **{"optimizer.name": "sgd", "optimizer.warmup_steps": 2})
    results = train_bundle(lanes, devices=1, quiet=True)
    for lane, (config, folder) in enumerate(lanes):
        assert results[lane] == runs.read_result(folder)
        assert results[lane]["runs_in_program"] == len(lanes)
        solo = train(config, tmp_path / f"solo{lane}", devices=1, quiet=True)
        np.testing.assert_allclose(results[lane]["validation"]["loss"], solo["validation"]["loss"], rtol=1e-5)
        np.testing.assert_allclose(
            results[lane]["validation"]["by_position"], solo["validation"]["by_position"], rtol=1e-4
        )
        for here, there in zip(metrics_of(folder), metrics_of(tmp_path / f"solo{lane}"), strict=True):
            assert here.keys() == there.keys()
            np.testing.assert_allclose(list(here.values()), list(there.values()), rtol=1e-4)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
            final_state(config, folder).params,
            final_state(config, tmp_path / f"solo{lane}").params,
        )
    assert len({result["validation"]["loss"] for result in results}) == len(lanes)


@pytest.mark.slow
def test_a_bundle_on_streams_is_its_solo_runs(make_config: Any, tmp_path: Path) -> None:
    shared = {"data.batching": "streams", "optimizer.name": "sgd", "train.batch_size": 16}
    lanes = bundle(make_config, "gru", tmp_path, LANES[:2], **shared)
    results = train_bundle(lanes, devices=1, quiet=True)
    for lane, (config, _) in enumerate(lanes):
        solo = train(config, tmp_path / f"solo{lane}", devices=1, quiet=True)
        np.testing.assert_allclose(results[lane]["validation"]["loss"], solo["validation"]["loss"], rtol=1e-5)


def test_a_diverged_lane_is_frozen_and_its_neighbours_never_notice(make_config: Any, tmp_path: Path) -> None:
    shared = {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0, "optimizer.schedule": "constant"}
    good = {"optimizer.learning_rate": 1e-2}
    lanes = bundle(make_config, "elman", tmp_path / "a", (good, {"optimizer.learning_rate": 1e30}), **shared)
    well, ill = train_bundle(lanes, devices=1, quiet=True)
    assert (well["status"], ill["status"]) == ("finished", "diverged")
    assert ill["steps"] < 20
    assert all(np.isfinite(record.get("loss", 0.0)) for record in runs.read_metrics(lanes[1][1]))
    calm = bundle(make_config, "elman", tmp_path / "b", (good, {"optimizer.learning_rate": 1e-3}), **shared)
    train_bundle(calm, devices=1, quiet=True)
    assert_same_run(calm[0][0], lanes[0][1], calm[0][1])  # bit for bit


@pytest.mark.slow
def test_resumed_from_uneven_checkpoints_it_ends_bit_equal(make_config: Any, tmp_path: Path, crash_at: Any) -> None:
    shared = {"train.log_every": 7, "model.dropout": 0.1, "train.checkpoint_every": 5}
    whole = bundle(make_config, "lstm", tmp_path / "whole", LANES[:3], **shared)
    train_bundle(whole, devices=1, quiet=True)
    hurt = bundle(make_config, "lstm", tmp_path / "hurt", LANES[:3], **shared)
    with crash_at(17):
        train_bundle(hurt, devices=1, quiet=True)
    assert (hurt[1][1] / "checkpoints" / "15").is_dir()
    shutil.rmtree(hurt[0][1] / "checkpoints" / "15")  # one lane is a checkpoint behind,
    for file in (hurt[2][1] / "checkpoints").rglob("*"):  # and one has lost all of them but knows it
        file.unlink() if file.is_file() else None
    shutil.rmtree(hurt[2][1] / "checkpoints")
    train_bundle(hurt, devices=1, quiet=True)
    for (config, a), (_, b) in zip(whole, hurt, strict=True):
        assert_same_run(config, a, b)


@pytest.mark.parametrize("family", ["window", slow("rg_lru")])
def test_how_many_steps_go_into_a_call_changes_no_bit(
    make_config: Any, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time, and as many as there can be between two evaluations."""
    ends = []
    for name, seconds in (("one", (0.0, 0.0)), ("many", (1e9, 1e9))):
        monkeypatch.setattr(bundles, "CALL_SECONDS", seconds)
        ends.append(bundle(make_config, family, tmp_path / name, LANES[:2], **{"train.log_every": 3}))
        train_bundle(ends[-1], devices=1, quiet=True)
    for (config, a), (_, b) in zip(*ends, strict=True):
        assert_same_run(config, a, b)


def test_a_call_ends_where_something_is_due_or_a_run_enters(make_config: Any) -> None:
    config = make_config("lstm", **{"train.checkpoint_every": 9, "evaluation.every": 12, "train.steps": 20})
    task = SimpleNamespace(evaluate_every=12)
    members = [SimpleNamespace(start=0), SimpleNamespace(start=14)]
    bundle = SimpleNamespace(config=config, task=task, last_step=20, _checkpoint_every=9, _pins=[], members=members)
    at = [0]
    while at[-1] < 20:
        at.append(bundles.Bundle._next_event(bundle, at[-1]))
    assert at == [0, 9, 12, 14, 18, 20]


@pytest.mark.slow
def test_ended_lanes_keep_their_place_and_their_result(make_config: Any, tmp_path: Path) -> None:
    whole = bundle(make_config, "gru", tmp_path / "whole", LANES[:3])
    train_bundle(whole, devices=1, quiet=True)
    before = (whole[1][1] / "result.json").read_bytes()
    (whole[0][1] / "result.json").unlink()
    shutil.rmtree(whole[0][1] / "checkpoints")
    again = bundle(make_config, "gru", tmp_path / "again", LANES[:3])
    train_bundle(again, devices=1, quiet=True)
    train_bundle(whole, devices=1, quiet=True)
    assert (whole[1][1] / "result.json").read_bytes() == before
    assert_same_run(whole[0][0], whole[0][1], again[0][1])


def test_a_bundle_goes_on_as_the_lanes_ask_that_have_not_ended(make_config: Any, tmp_path: Path) -> None:
    (config, first), (_, second) = lanes = bundle(make_config, "elman", tmp_path, LANES[:2])
    train_bundle(lanes, devices=1, quiet=True)
    (second / "result.json").unlink()
    recomputed = make_config("elman", **LANES[1], **{"train.remat": True})
    train_bundle([(config, first), (recomputed, second)], devices=1, quiet=True)
    assert [runs.read_config(folder).train.remat for folder in (first, second)] == [False, True]
    assert runs.read_result(second)["status"] == "finished"


def test_a_locked_lane_stops_the_bundle_before_it_starts(make_config: Any, tmp_path: Path) -> None:
    lanes = bundle(make_config, "window", tmp_path, LANES[:2])
    for config, folder in lanes:
        runs.open_run(folder, config)
    with runs.lock(lanes[1][1]):
        assert runs.is_locked(lanes[1][1]) and not runs.is_locked(lanes[0][1])
        with pytest.raises(runs.Locked, match="another process is training"):
            train_bundle(lanes, devices=1, quiet=True)
    assert not runs.is_locked(lanes[1][1])
    assert runs.read_metrics(lanes[0][1]) == []


def test_what_a_program_cannot_share_is_refused(make_config: Any) -> None:
    a, b = make_config("lstm"), make_config("lstm", **{"train.batch_size": 4})
    assert program_key(a) != program_key(b)
    for lane in LANES:
        assert program_key(make_config("lstm", **lane)) == program_key(a)
    with pytest.raises(UserError, match=r"may differ only in optimizer.learning_rate"):
        make_bundle([a, b], make_objective(a, 64), devices=1)


def test_lane_keys_are_keys(make_config: Any) -> None:
    tree = to_dict(make_config("lstm"))
    for key in LANE_KEYS:
        section, _, name = key.partition(".")
        assert name in tree[section]


@pytest.mark.parametrize("runs_", [1, 2, 5, 8])
@pytest.mark.parametrize("side_by_side", [1, 3, 8])
def test_over_runs_is_a_loop(runs_: int, side_by_side: int) -> None:
    x, y = np.arange(2.0 * runs_).reshape(runs_, 2), np.arange(float(runs_))
    found = jax.jit(over_runs(lambda a, b: {"s": a.sum() * b, "v": a + b}, runs_, side_by_side))(x, y)
    np.testing.assert_allclose(found["s"], x.sum(1) * y)
    np.testing.assert_allclose(found["v"], x + y[:, None])
