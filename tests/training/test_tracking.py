"""wandb mirrors, and can do nothing else."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from seqjax import runs
from seqjax.errors import UserError
from seqjax.training import tracking
from seqjax.training.loop import train


@pytest.mark.parametrize(("flag", "variable", "key", "expected"), [
    ("disabled", "online", "k", "disabled"),
    (None, "disabled", "k", "disabled"),
    (None, "offline", "k", "offline"),
    (None, None, "k", "online"),
    (None, None, None, "offline"),
])  # fmt: skip
def test_flag_then_variable_then_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: Any, variable: Any, key: Any, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc
    for name, value in (("WANDB_MODE", variable), ("WANDB_API_KEY", key)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert tracking.choose_mode(flag) == expected


def test_a_mode_that_is_none_is_told() -> None:
    with pytest.raises(UserError, match="allowed: online, offline, disabled"):
        tracking.choose_mode("on")


def test_disabled_imports_nothing(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="disabled", quiet=True)
    assert "wandb" not in sys.modules


class FakeRun:
    """Collects what is logged; breaks after ``breaks_after`` lines."""

    def __init__(self, breaks_after: int) -> None:
        self.lines: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.finished = 0
        self._breaks_after = breaks_after

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, record: dict[str, Any]) -> None:
        if len(self.lines) == self._breaks_after:
            raise ConnectionError("no network")
        self.lines.append(record)

    def finish(self) -> None:
        self.finished += 1


def fake_wandb(monkeypatch: pytest.MonkeyPatch, breaks_after: int = 10**9, init_fails: bool = False) -> FakeRun:
    run = FakeRun(breaks_after)

    def init(**options: Any) -> FakeRun:
        if init_fails:
            raise RuntimeError("api key not configured")
        run.options = options
        return run

    module = types.SimpleNamespace(init=init, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return run


def test_every_line_is_mirrored(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = fake_wandb(monkeypatch)
    result = train(make_config("window"), tmp_path / "sweep" / "run", devices=1, wandb_mode="offline", quiet=True)
    assert mirror.lines == runs.read_metrics(tmp_path / "sweep" / "run")
    assert mirror.summary == result and mirror.finished == 1
    assert (mirror.options["group"], mirror.options["mode"]) == ("sweep", "offline")


@pytest.mark.parametrize("broken", [{"init_fails": True}, {"breaks_after": 0}, {"breaks_after": 2}])
def test_a_broken_wandb_never_stops_a_run(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]
) -> None:
    fake_wandb(monkeypatch, **broken)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    result = train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="online", quiet=True)
    assert result["status"] == "finished"
    assert "wandb stopped mirroring" in (tmp_path / "run" / "log.txt").read_text()


def test_online_without_a_key_never_asks_for_one(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = fake_wandb(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="online", quiet=True)
    assert mirror.options["mode"] == "offline"
    assert "wandb has no key here" in (tmp_path / "run" / "log.txt").read_text()


def test_an_absent_wandb_never_stops_a_run(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ImportError
    assert train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="offline", quiet=True)


def test_export_replays_every_line(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(make_config("window"), tmp_path / "run", devices=1, quiet=True)
    mirror = fake_wandb(monkeypatch)
    assert tracking.export(tmp_path / "run", "offline", pytest.fail) == 6
    assert mirror.lines == runs.read_metrics(tmp_path / "run") and mirror.finished == 1
    fake_wandb(monkeypatch, init_fails=True)
    with pytest.raises(UserError, match="wandb is disabled"):
        tracking.export(tmp_path / "run", "disabled", pytest.fail)
    with pytest.raises(UserError, match="did not take every line"):
        tracking.export(tmp_path / "run", "offline", lambda _: None)


def test_the_real_wandb_offline(make_config: Any, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="offline", quiet=True)
    assert list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert "wandb stopped" not in (tmp_path / "run" / "log.txt").read_text()
