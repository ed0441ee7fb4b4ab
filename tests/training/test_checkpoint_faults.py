"""Damage is what a digest says; every other failure names itself and moves nothing; any path holds checkpoints."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from orbax.checkpoint import v1 as ocp
from quick import quick, slow

from seqjax.errors import UserError
from seqjax.training.checkpoint_files import digest
from seqjax.training.checkpoints import Checkpoints

HOST = {"waiting": [{"loss": 0.5}], "seconds": 1.0}


def state(seed: int, width: int = 30) -> dict[str, Any]:
    return {"W": jax.random.normal(jax.random.key(seed), (4, width)), "key": jnp.arange(2, dtype=jnp.uint32)}


def save(folder: Path, *steps: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, state(step), HOST)
    checkpoints.close()
    return folder


def save_as_earlier_versions(folder: Path, *steps: int) -> Path:
    """One digest, of the arrays, in Orbax's own metadata."""
    checkpointer = ocp.training.Checkpointer(folder / "checkpoints")
    for step in steps:
        arrays = jax.tree.map(np.array, serialization.to_state_dict(state(step)))
        checkpointer.save(step, arrays, force=True, custom_metadata={"host": HOST, "sha256": digest(arrays)})
    checkpointer.close()
    return folder


def restored(folder: Path, say: Callable[[str], None] = pytest.fail, writable: bool = False, **like: int) -> int:
    """The step that comes back; its arrays are compared."""
    step, found, host = Checkpoints(folder, writable=writable).restore(state(0, **like), say)
    jax.tree.map(np.testing.assert_array_equal, found, state(step))
    assert host == HOST
    return step


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", quick([flipped, zeroed, cut, emptied, Path.unlink, a_folder], flipped, Path.unlink))
@pytest.mark.parametrize("write", [save, slow(save_as_earlier_versions)])
def test_any_damage_of_any_file_gives_the_one_before(
    damage: Callable[[Path], None], write: Any, tmp_path: Path, capfd: Any
) -> None:
    run = write(tmp_path / "run", 3, 4)
    shutil.copytree(run, tmp_path / "whole")
    files = [path.relative_to(run) for path in (run / "checkpoints" / "4").rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        if not (run / file).stat().st_size:
            continue
        damage(run / file)
        said: list[str] = []
        step = restored(run, said.append)
        if write is save:
            assert (step, len(said)) == (3, 1), file  # every byte is under a digest
        else:
            assert (step == 3) == bool(said), file
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "whole", run)
    assert "Traceback" not in capfd.readouterr().err


def test_damage_is_set_aside_within_the_same_disk_and_one_generation_is_kept(tmp_path: Path) -> None:
    other_disk = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    target = other_disk / f"seqjax-test-{os.getpid()}"
    target.mkdir()
    try:
        run = tmp_path / "run"
        run.mkdir()
        (run / "checkpoints").symlink_to(target)
        save(run, 1, 2)
        (target / "3.writing").mkdir()
        (target / "3.orbax-checkpoint-tmp").mkdir()
        (run / "set-aside" / "9").mkdir(parents=True)
        (target / "0.damaged").mkdir()
        flipped(target / "2" / "_CHECKPOINT_METADATA")
        assert restored(run, lambda _: None, writable=True) == 1
        assert sorted(os.listdir(target)) == ["1", "2.damaged"]
        assert sorted(os.listdir(run)) == ["checkpoints"]
        save(run, 2)
        assert restored(run) == 2
    finally:
        shutil.rmtree(target)


@pytest.mark.parametrize(
    "name",
    [
        "a[1]",
        "b\\c",
        "gs:",
        "gs:/b",
        "s3:",
        "q?*{x}",
        "per%20#&",
        "line\nend ",
        "dot.",
        "~",
        "\udce9t\udce9",
        "é" * 100,
    ],
)
def test_any_path_holds_checkpoints(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert restored(save(tmp_path / name, 1, 2)) == 2
    (tmp_path / "link").symlink_to(tmp_path / name)
    assert restored(tmp_path / "link") == 2
    monkeypatch.chdir(tmp_path)
    assert restored(Path(name)) == 2


def test_strange_things_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    run = save(tmp_path, 2, 10)
    folder = run / "checkpoints"
    for name in ("20 (copy)", "12.bak", "007", "+30", "\u0664", "-4", "1e3"):
        (folder / name).mkdir()
    for name in (".DS_Store", "99", "Thumbs.db"):
        (folder / name).write_text("x")
    assert restored(run, writable=True) == 10
    assert {"20 (copy)", "12.bak", "99", ".DS_Store"} <= set(os.listdir(folder))


@pytest.mark.parametrize("write", [save, slow(save_as_earlier_versions)])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("RESOURCE_EXHAUSTED: Too many open files"),
        ValueError("PERMISSION_DENIED: Error opening"),
        RuntimeError("DEADLINE_EXCEEDED"),
    ],
    ids=str,
)
def test_a_failure_that_is_not_damage_moves_nothing(
    error: Exception, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path, 1, 2)
    monkeypatch.setattr(ocp, "load", Mock(side_effect=error))
    with pytest.raises(UserError, match="cannot be read here") as found:
        Checkpoints(run).restore(state(0), pytest.fail)
    assert "\n" not in str(found.value)
    monkeypatch.undo()
    assert restored(run) == 2
    assert sorted(os.listdir(run / "checkpoints")) == ["1", "2"]


@pytest.mark.parametrize("write", [save, slow(save_as_earlier_versions)])
@pytest.mark.parametrize(
    ("like", "named"),
    [
        (state(0, width=31), r"\['W'\] is float32\[4, 30\] in it and float32\[4, 31\]"),
        ({**state(0), "key": jnp.zeros(4, jnp.uint32)}, r"\['key'\] is uint32\[2\] in it and uint32\[4\]"),
        ({**state(0), "W": jnp.zeros((4, 30), jnp.bfloat16)}, "bfloat16"),
        ({**state(0), "momentum": jnp.zeros(3)}, r"\['momentum'\] is absent in it"),
        ({"W": state(0)["W"]}, r"\['key'\] is uint32\[2\] in it and absent here"),
    ],
    ids=["width", "another PRNG", "another dtype", "more", "fewer"],
)
def test_a_state_of_another_shape_is_not_damage(like: Any, named: str, write: Any, tmp_path: Path) -> None:
    run = write(tmp_path, 1, 2)
    with pytest.raises(UserError, match=named):
        Checkpoints(run).restore(like, pytest.fail)
    assert sorted(os.listdir(run / "checkpoints")) == ["1", "2"]


def test_reading_beside_a_training_process_reads_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = save(tmp_path, 1, 2), ocp.load

    def load(*arguments: Any) -> Any:
        if (run / "checkpoints" / "2").is_dir():
            save(run, 3)
            (run / "checkpoints" / "2").rename(run / "checkpoints" / "2.unwanted")
        return real(*arguments)

    monkeypatch.setattr(ocp, "load", load)
    assert restored(run) == 3


def test_a_record_that_was_altered_is_not_believed(tmp_path: Path) -> None:
    run = save(tmp_path, 1, 2)
    record = run / "checkpoints" / "2" / "seqjax.json"
    record.write_text(record.read_text().replace("0.5", "0.4"))
    said: list[str] = []
    assert restored(run, said.append) == 1
    assert "seqjax.json" in said[0]


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    run = save(tmp_path, 1, 2)
    (run / "checkpoints" / "3.writing").mkdir()
    before = [(path, path.stat().st_mtime_ns) for path in sorted(run.rglob("*"))]
    assert restored(run) == 2
    assert [(path, path.stat().st_mtime_ns) for path in sorted(run.rglob("*"))] == before


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Failed to write",
        "UNKNOWN: Error writing [No space left on device]",
        "Disk quota exceeded",
        "PERMISSION_DENIED: Failed to open",
        "Read-only file system",
    ],
)
def test_a_save_that_fails_in_the_background_is_one_line(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save(tmp_path, 1)
    checkpoints = Checkpoints(run)
    monkeypatch.setattr(ocp, "save", Mock(side_effect=ValueError(message)))
    checkpoints.save(2, state(2), HOST)
    with pytest.raises(UserError, match="cannot write a checkpoint"):
        checkpoints.wait()
    monkeypatch.undo()
    assert restored(run, writable=True) == 1


def test_what_orbax_logs_stays_off_the_screen(tmp_path: Path) -> None:
    Checkpoints(tmp_path)
    assert all(logging.getLogger(name).level == logging.CRITICAL for name in ("absl", "asyncio", "orbax"))


def test_folders_of_one_process_save_side_by_side(tmp_path: Path) -> None:
    """As the lanes of a bundle do; Orbax's own saves would wait for each other without end."""
    lanes = [Checkpoints(tmp_path / str(lane)) for lane in range(6)]
    for step in range(1, 4):
        for checkpoints in lanes:
            checkpoints.save(step, state(step), HOST)
    for checkpoints in lanes:
        checkpoints.close()
    assert [restored(tmp_path / str(lane)) for lane in range(6)] == [3] * 6
