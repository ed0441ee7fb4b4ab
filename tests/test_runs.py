"""The run folder is never half true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from closed import without_rights

from seqjax import runs
from seqjax.config import Config, MeshConfig, TrainConfig
from seqjax.errors import UserError
from seqjax.families import LSTM, Transformer
from seqjax.host import disk
from seqjax.runs.tree import read_file

CONFIG = Config(LSTM())


def test_config_is_saved_and_compared(tmp_path: Path) -> None:
    runs.open_run(tmp_path / "run", CONFIG)
    runs.open_run(tmp_path / "run", CONFIG)
    assert runs.read_config(tmp_path / "run") == CONFIG
    with pytest.raises(UserError, match=r"another config: model.n_layers is 2 there and 3 here"):
        runs.open_run(tmp_path / "run", Config(LSTM(n_layers=3)))
    with pytest.raises(UserError, match="another"):
        runs.open_run(tmp_path / "run", Config(Transformer()))


def test_a_run_may_be_computed_in_less_memory_until_it_has_ended(tmp_path: Path) -> None:
    """What is trained is read from its folder, so what was asked last is there."""
    runs.open_run(tmp_path, CONFIG)
    asked = Config(LSTM(), train=TrainConfig(remat=True, mesh=MeshConfig(fsdp=2)))
    runs.open_run(tmp_path, asked)
    assert runs.read_config(tmp_path) == asked
    disk.write_json(tmp_path / "result.json", {"status": "diverged", "steps": 1})
    runs.open_run(tmp_path, CONFIG)
    assert runs.read_config(tmp_path) == asked


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(UserError, match="not a run folder"):
        runs.open_run(tmp_path, CONFIG)


def test_what_a_killed_writer_left_is_no_obstacle(tmp_path: Path) -> None:
    """Also what another process, that opens the same run at the same moment, has not yet put in its place."""
    (tmp_path / ".config.json.k2x9ab").write_text('{"mo')
    runs.open_run(tmp_path, CONFIG)
    assert runs.read_config(tmp_path) == CONFIG


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    disk.write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        disk.write_json(path, {"loss": float("nan")})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="the disk is full"), disk.storage_errors(tmp_path):
        disk.write_json(path, {"loss": 2.0})
    assert path.read_text() == '{\n  "loss": 1.0\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_torn_and_later_lines_are_dropped(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        runs.append_metrics(tmp_path, {"step": step, "loss": 1 / step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')
    assert [r["step"] for r in runs.read_metrics(tmp_path)] == [5, 10, 15]
    runs.keep_metrics(tmp_path, lambda record: record["step"] <= 10)
    assert runs.read_metrics(tmp_path) == [{"step": 5, "loss": 0.2}, {"step": 10, "loss": 0.1}]
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from seqjax import runs\nwith runs.lock(Path({str(tmp_path)!r})): print('held')"
    with runs.lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another process is training this run" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "held\n"


def test_an_unwritable_place_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file of that name is in the way"):
        runs.open_run(tmp_path / "file" / "run", CONFIG)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with without_rights(tmp_path), pytest.raises(UserError, match=r"closed.*cannot be written.*Permission denied"):
        runs.open_run(closed / "run", CONFIG)


def test_what_is_no_run_and_no_config_is_called_by_its_name(tmp_path: Path) -> None:
    sweep = tmp_path / "first"
    (sweep / "lstm-1x8-0").mkdir(parents=True)
    for file in (sweep / "sweep.json", sweep / "lstm-1x8-0" / "config.json", tmp_path / "c.yaml"):
        file.write_text("{}")
    for place, fragment in ((sweep, "is a sweep folder, not a run folder; .* such as lstm-1x8-0"),
                            (tmp_path / "c.yaml", "not a run folder but a file"),
                            (tmp_path / "none", "there is no such folder")):  # fmt: skip
        with pytest.raises(UserError, match=fragment):
            runs.read_config(place)
    for place, fragment in ((sweep, "is a sweep folder, not a config file; .* such as lstm-1x8-0"),
                            (sweep / "lstm-1x8-0", "is a run folder, not a config file: that is .*config.json"),
                            (tmp_path, "is a folder, not a config file")):  # fmt: skip
        with pytest.raises(UserError, match=fragment):
            read_file(place)
