"""Checkpoints come back bit for bit, and a damaged one is never taken for a whole one."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from seqjax.errors import UserError
from seqjax.runs import append_metrics
from seqjax.training.checkpoints import Checkpoints


def state(seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    return {
        "params": {"W": jax.random.normal(key, (40, 30)), "b": jnp.zeros(5)},
        "step": jnp.int32(seed), "alive": jnp.bool_(True), "carry": None,
    }  # fmt: skip


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with checkpoints 1 to 4; the lowest loss is that of 2."""
    checkpoints = Checkpoints(tmp_path)
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None)):
        if loss is not None:
            append_metrics(tmp_path, {"step": step, "validation_loss": loss})
        checkpoints.save(step, state(step), {"waiting": [{"loss": 0.1 + step}]})
    checkpoints.close()
    return tmp_path


def test_the_last_two_and_the_best_are_kept(run: Path) -> None:
    checkpoints = Checkpoints(run)
    assert checkpoints.steps() == [2, 3, 4]
    assert checkpoints.best() == 2


def test_everything_comes_back_bit_for_bit(run: Path) -> None:
    said: list[str] = []
    step, found, host = Checkpoints(run).restore(state(0), said.append)
    assert (step, host, said) == (4, {"waiting": [{"loss": 4.1}]}, [])
    assert_equal(found, state(4))
    step, found, _ = Checkpoints(run).restore(state(0), said.append, step=2)
    assert step == 2
    assert_equal(found, state(2))


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)


def test_any_damage_falls_back_or_does_no_harm(run: Path) -> None:
    """Flip a bit of, and truncate, every file in turn: the state that comes back is whole, and passing over is said."""
    passed_over = 0
    for file in files_of(run / "checkpoints" / "4"):
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0x10
        for damaged in (bytes(flipped), whole[: len(whole) // 2]):
            file.write_bytes(damaged)
            said: list[str] = []
            step, found, host = Checkpoints(run, writable=False).restore(state(0), said.append)
            assert_equal(found, state(step))
            assert host == {"waiting": [{"loss": step + 0.1}]}
            assert step in (3, 4)
            assert (step == 3) == any("checkpoint 4" in line and "corrupt" in line for line in said)
            passed_over += step == 3
        file.write_bytes(whole)
    assert passed_over >= 8  # the arrays, their manifests and the metadata


def test_when_all_are_corrupt_that_is_an_error(run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        for file in files_of(checkpoint):
            file.write_bytes(b"")
    with pytest.raises(UserError, match="every checkpoint is corrupt"):
        Checkpoints(run, writable=False).restore(state(0), lambda _: None)


def test_the_machines_faults_are_not_the_files(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(run)
    monkeypatch.setattr(ocp, "load", Mock(side_effect=MemoryError()))
    with pytest.raises(MemoryError):
        checkpoints.restore(state(0), pytest.fail)
    assert Checkpoints(run).steps() == [2, 3, 4]


def test_half_written_ones_are_cleaned_up_by_the_writer_alone(run: Path) -> None:
    (run / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()
    Checkpoints(run, writable=False)
    assert (run / "checkpoints" / "5.orbax-checkpoint-tmp").exists()
    assert Checkpoints(run).steps() == [2, 3, 4]
    assert not (run / "checkpoints" / "5.orbax-checkpoint-tmp").exists()


def test_a_full_disk_loses_nothing(run: Path) -> None:
    """A limit on file size stands in for the full disk: writes of the checkpoint's arrays fail in the background."""
    checkpoints = Checkpoints(run)
    big = {**state(5), "params": {"W": jax.random.normal(jax.random.key(1), (500, 500)), "b": jnp.zeros(5)}}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write a checkpoint|the disk is full"):
            checkpoints.save(5, big, {})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.path.isdir(run / "checkpoints" / "4")
    step, found, _ = Checkpoints(run).restore(state(0), lambda _: None)
    assert step == 4
    assert_equal(found, state(4))
