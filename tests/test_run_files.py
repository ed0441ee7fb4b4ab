"""Files of a run folder that are damaged, edited, or on a file system that cannot do everything."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from seqjax import runs
from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.folders import replaced_atomically

DAMAGED = [b"", b"\0" * 40, b'{"status": "fini', b"[]", b"null", b"\xff\xfe"]


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("name", ["result.json", "plan.json", "data.json"])
def test_a_damaged_json_file_is_named_in_one_line(
    name: str, content: bytes, make_config: Any, tmp_path: Path, capsys: Any
) -> None:
    run, other = tmp_path / "sweep" / "run", tmp_path / "sweep" / "another"
    runs.open_run(run, make_config())
    runs.open_run(other, make_config(**{"train.seed": 1}))
    (run / name).write_bytes(content)
    code = main(["train", str(run)] if name == "data.json" else ["status", str(tmp_path / "sweep")])
    printed = capsys.readouterr()
    if name == "data.json":
        assert code == 2
        (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    else:
        assert code == 0
        assert "1 planned, 1 damaged" in printed.out  # shown beside the others
        (line,) = [line for line in printed.out.splitlines() if "is damaged" in line]
    assert f"{run / name}: is damaged" in line and "remove it" in line


@pytest.mark.parametrize(
    "change", [{"train.steps": 40}, {"optimizer.learning_rate": 0.5}, {"train.seed": 3}, {"train.batch_size": 4}]
)
def test_a_config_edited_after_the_run_began_is_refused(change: Any, make_config: Any, tmp_path: Path) -> None:
    from seqjax.config import run_id, to_dict

    config = make_config()
    runs.open_run(tmp_path / "run", config)
    runs.bind_data(tmp_path / "run", {"corpus_sha256": "a" * 64, "tokenizer_sha256": "b" * 64}, run_id(config))
    runs.bind_data(tmp_path / "run", {"corpus_sha256": "a" * 64, "tokenizer_sha256": "b" * 64}, run_id(config))
    disk.write_json(tmp_path / "run" / "config.json", to_dict(make_config(**change)))
    edited = runs.read_config(tmp_path / "run")
    with pytest.raises(UserError, match=r"config\.json was edited after this run began"):
        runs.bind_data(tmp_path / "run", {"corpus_sha256": "a" * 64, "tokenizer_sha256": "b" * 64}, run_id(edited))


def test_runs_of_earlier_versions_noted_no_run_id(tmp_path: Path) -> None:
    disk.write_json(tmp_path / "data.json", {"corpus_sha256": "a", "tokenizer_sha256": "b"})
    runs.bind_data(tmp_path, {"corpus_sha256": "a", "tokenizer_sha256": "b"}, "id")
    with pytest.raises(UserError, match="corpus is not what"):
        runs.bind_data(tmp_path, {"corpus_sha256": "c", "tokenizer_sha256": "b"}, "id")


def test_reading_a_run_binds_it_to_nothing(tmp_path: Path) -> None:
    runs.check_data(tmp_path, {"corpus_sha256": "a", "tokenizer_sha256": "b"})
    assert not list(tmp_path.iterdir())


RECORDS = [{"step": step, "loss": 1.0 / step} for step in range(5, 45, 5)]


def put(folder: Path, records: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: b"",
        lambda lines: b"".join(lines[:4]),
        lambda lines: b"".join(lines[4:]),
        lambda lines: b"".join([*lines[:3], b"\0" * len(lines[3]), *lines[4:]]),
        lambda lines: b"".join([*lines[:3], lines[2], *lines[3:]]),
        lambda lines: b"".join(lines).replace(b"0.2", b"0.1"),
        lambda lines: b"\xff\xfe" + b"".join(lines),
        lambda lines: b"".join(reversed(lines)),
    ],
)
def test_lines_that_were_lost_or_altered_come_back(damage: Callable[[list[bytes]], bytes], tmp_path: Path) -> None:
    put(tmp_path, RECORDS)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damage(path.read_bytes().splitlines(keepends=True)))
    assert runs.restore_metrics(tmp_path, 40, RECORDS) > 0
    assert runs.read_metrics(tmp_path) == RECORDS


def test_a_deleted_metrics_file_comes_back(tmp_path: Path) -> None:
    assert runs.restore_metrics(tmp_path, 40, RECORDS) == len(RECORDS)
    assert runs.read_metrics(tmp_path) == RECORDS


def test_whole_lines_stay_and_later_ones_go(tmp_path: Path) -> None:
    evaluation = {"step": 40, "validation_loss": 1.5}
    put(tmp_path, [*RECORDS, evaluation, {"step": 45, "loss": 0.1}])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b'{"step": 50, "lo')
    assert runs.restore_metrics(tmp_path, 40, RECORDS) == 0
    assert runs.read_metrics(tmp_path) == [*RECORDS, evaluation]
    assert runs.restore_metrics(tmp_path, 30, None) == 0
    assert runs.read_metrics(tmp_path) == RECORDS[:6]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(UserError, match="has no file locks"), runs.lock(tmp_path):
        pass
    assert not runs.is_locked(tmp_path)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), FileNotFoundError(2, "No")])
def test_a_lock_that_cannot_be_looked_at_does_not_hide_the_others(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.open", Mock(side_effect=error))
    assert not runs.is_locked(tmp_path)


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_the_umask_decides_who_reads(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        disk.write_json(tmp_path / "a.json", {})
        with replaced_atomically(tmp_path / "b") as file:
            file.write(b"b")
    finally:
        os.umask(before)
    for name in ("a.json", "b"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


def test_a_file_system_that_refuses_modes_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chmod", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted")))
    disk.write_json(tmp_path / "a.json", {"a": 1})
    with replaced_atomically(tmp_path / "b") as file:
        file.write(b"b")
    assert disk.read_json(tmp_path / "a.json") == {"a": 1}
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b"]


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    for name in (".metrics.jsonl.x1y2z3", ".result.json.abc.tmp", ".config.json.beside", "metrics.jsonl"):
        (tmp_path / name).write_text("")
    with runs.lock(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".config.json.beside", "lock", "metrics.jsonl"]


@pytest.mark.parametrize("content", [b"", b"5\nnull\n", b'{"reason": "x"}\n', b"\0\0\n", b'{"reason": "x", "giv'])
def test_damaged_lines_of_failures_are_passed_over(content: bytes, make_config: Any, tmp_path: Path) -> None:
    from seqjax.sweeps import folder as sweep_folder

    run = tmp_path / "run"
    runs.open_run(run, make_config())
    (run / "failures.jsonl").write_bytes(content)
    (run / "metrics.jsonl").write_bytes(content)
    assert (sweep_folder.state(run).failures, sweep_folder.state(run).step) == (0, 0)
    sweep_folder.add_failure(run, "killed", given_up=True)
    assert sweep_folder.state(run).failures <= 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"machine": 5}',
        '{"machine": {"key": null}}',
        '{"machine": {"key": {"family": "gru", "lanes": 1, "flops": "much", "compile_seconds": 1, "step_seconds": 1}}}',
        '{"machine": {"key": {"family": "gru", "lanes": 1, "flops": 1, "compile_seconds": 1, "step_seconds": NaN}}}',
    ],
)
def test_a_damaged_file_of_speeds_is_measured_again(content: str, make_config: Any, tmp_path: Path) -> None:
    from seqjax.sweeps.speed import Speeds

    (tmp_path / "speeds.json").write_text(content)
    speeds, config = Speeds(tmp_path / "speeds.json", "machine"), make_config("gru")
    assert speeds.missing([(config, 1)])
    speeds.add(config, 1, {"compile_seconds": 1.0, "step_seconds": 0.1})
    assert not Speeds(tmp_path / "speeds.json", "machine").missing([(config, 1)])
    assert speeds.seconds(config, 1) > 0


def test_evaluating_a_run_writes_nothing_into_it(make_config: Any, tmp_path: Path, capsys: Any) -> None:
    from seqjax.training.loop import train

    run = tmp_path / "run"
    train(make_config("gru", **{"train.steps": 4, "train.checkpoint_every": 2}), run, devices=1, quiet=True)
    before = [(path, path.stat().st_mtime_ns) for path in sorted([run, *run.rglob("*")])]
    for command in (["eval"], ["eval", "--checkpoint", "best"], ["status"]):
        assert main([command[0], str(run), *command[1:]]) == 0, capsys.readouterr().err
    assert [(path, path.stat().st_mtime_ns) for path in sorted([run, *run.rglob("*")])] == before


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_config_is_named_in_one_line(content: bytes, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.json").write_bytes(content)
    for command in ("train", "eval"):
        assert main([command, str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "config.json" in line
    assert main(["status", str(tmp_path)]) == 0
    assert "1 damaged" in (shown := capsys.readouterr().out) and "config.json" in shown


def test_json_that_is_nested_too_deep_is_damage(tmp_path: Path) -> None:
    """Python's reader ends in a RecursionError there."""
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "result.json").write_text(deep)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + deep + "\n")
    with pytest.raises(UserError, match=r"result\.json: is damaged \(it is nested too deep\)"):
        runs.read_result(tmp_path)
    assert [record["step"] for record in runs.read_metrics(tmp_path)] == [1]
