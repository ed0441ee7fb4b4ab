"""wandb mirrors, and can do nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from finished_run import put

from seqjax import runs
from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.families import GRU
from seqjax.tasks import translation
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


@pytest.mark.parametrize("flag", ["on", "", "dryrun", "Offline", "none"])
def test_a_mode_that_is_none_is_told(flag: str) -> None:
    with pytest.raises(UserError, match="allowed: online, offline, disabled"):
        tracking.choose_mode(flag)


@pytest.mark.parametrize(("variables", "expected", "told"), [
    ({"WANDB_MODE": "dryrun"}, "offline", False),
    ({"WANDB_MODE": "run"}, "online", False),
    ({"WANDB_MODE": "shared"}, "online", False),
    ({"WANDB_MODE": "Disabled"}, "disabled", False),
    ({"WANDB_MODE": " OFFLINE "}, "offline", False),
    ({"WANDB_MODE": ""}, "online", False),
    ({"WANDB_MODE": " "}, "online", False),
    ({"WANDB_MODE": "off"}, "offline", True),
    ({"WANDB_MODE": "né\udcff\n"}, "offline", True),
    ({"WANDB_DISABLED": "true"}, "disabled", False),
    ({"WANDB_DISABLED": "True", "WANDB_MODE": "online"}, "disabled", False),
    ({"WANDB_DISABLED": "false"}, "online", False),
])  # fmt: skip
def test_a_variable_never_stops_a_run(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str, told: bool
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    assert tracking.choose_mode(None, said.append) == expected
    assert len(said) == told and all("\n" not in line and line.isprintable() for line in said)


@pytest.mark.parametrize(("text", "server", "found"), [
    ("machine api.wandb.ai login user password k\n", "", True),
    ("machine api.wandb.ai login user password k\n", "https://wandb.example.org", False),
    ("machine tracking.example.org login user password k\n", "https://tracking.example.org:8080", True),
    ("what is this", "", False),
    ("machine \udcff\udcfe", "", False),
    (None, "", False),
])  # fmt: skip
def test_a_key_is_one_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, server: str, found: bool
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", server)
    if text is not None:
        (tmp_path / "netrc").write_bytes(text.encode(errors="surrogateescape"))
        (tmp_path / "netrc").chmod(0o600)
    assert tracking._has_key() == found


def test_disabled_imports_nothing(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="disabled", quiet=True)
    assert "wandb" not in sys.modules


class FakeRun:
    """Collects what is logged; breaks after ``breaks_after`` lines."""

    def __init__(self, breaks_after: int, error: BaseException, finish: BaseException | None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.finished = 0
        self._breaks_after, self._error, self._at_finish = breaks_after, error, finish

    def define_metric(self, *_: Any, step_metric: str) -> None:
        self.step_metric = step_metric

    def log(self, record: dict[str, Any]) -> None:
        if len(self.lines) == self._breaks_after:
            raise self._error
        self.lines.append(record)

    def finish(self) -> None:
        if self._at_finish is not None:
            raise self._at_finish
        self.finished += 1


NO_NETWORK = ConnectionError("no network")


def fake_wandb(
    monkeypatch: pytest.MonkeyPatch,
    breaks_after: int = 10**9,
    error: BaseException = NO_NETWORK,
    init: BaseException | None = None,
    finish: BaseException | None = None,
) -> FakeRun:
    run, at_init = FakeRun(breaks_after, error, finish), init

    def init(**options: Any) -> FakeRun:
        if at_init is not None:
            raise at_init
        run.options = options
        run.environment = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
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


@pytest.mark.parametrize("broken", [
    {"init": RuntimeError("api key not configured")},
    {"init": SystemExit(1)},
    {"init": GeneratorExit()},
    {"breaks_after": 0},
    {"breaks_after": 2},
    {"breaks_after": 2, "error": SystemExit("no network")},
    {"finish": OSError("the service is gone")},
])  # fmt: skip
def test_a_broken_wandb_never_stops_a_run(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]
) -> None:
    fake_wandb(monkeypatch, **broken)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    result = train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="online", quiet=True)
    assert result["status"] == "finished"
    assert (tmp_path / "run" / "log.txt").read_text().count("wandb stopped mirroring") == 1


@pytest.mark.parametrize("hanging", ["init", "log", "finish"])
def test_a_wandb_that_hangs_is_not_waited_for(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    run = fake_wandb(monkeypatch)
    for_ever = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        for_ever.wait()

    monkeypatch.setattr(sys.modules["wandb"] if hanging == "init" else run, hanging, hang)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "_hung", threading.Event())
    result = train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="offline", quiet=True)
    for_ever.set()
    assert result["status"] == "finished"
    assert "wandb stopped mirroring (TimeoutError" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("text", ["raise SystemExit(1)", "raise TypeError('Descriptors cannot be created')", None])
def test_a_wandb_that_cannot_be_imported_never_stops_a_run(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "wandb").mkdir()  # without __init__.py it is a package of no code, as wandb's folder of runs is
    if text is not None:
        (tmp_path / "wandb" / "__init__.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path)] if text is None else [str(tmp_path), *sys.path])
    mirror = tracking._Wandb(make_config("window"), tmp_path, "offline", lambda _: None, "token")
    mirror.log({"loss": 1.0})
    mirror.finish({})
    sys.modules.pop("wandb", None)
    assert not mirror.works()


def test_what_belongs_to_other_programs_is_not_heard(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_wandb(monkeypatch)
    others = {"RUN_ID": "one", "RESUME": "must", "NAME": "n", "SWEEP_ID": "s", "SERVICE": "2-1-tcp-localhost-1"}
    kept = {"ENTITY": "team", "PROJECT": "mine", "SILENT": "maybe", "MODE": "nonsense"}
    for name, value in (others | kept).items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    tracking._Wandb(make_config("window"), tmp_path, "offline", pytest.fail, "token").finish({})
    assert run.options["project"] == "mine" and run.options["id"].endswith("-token")
    seen = {name.removeprefix("WANDB_"): value for name, value in run.environment.items() if "API_KEY" not in name}
    assert seen == {"ENTITY": "team", "PROJECT": "mine", "SILENT": "true", "MODE": "offline"}


HANGING = """
import atexit, threading, time
Settings = dict
class Run:
    summary = {}
    define_metric = log = lambda *_, **__: None
    finish = lambda self: time.sleep(1000)
def init(**_):
    atexit.register(time.sleep, 1000)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return Run()
"""


ENDS = {"sys.exit(75)": 75, "1 / 0": 1, "pass": 0, "sys.exit('x')": 1}
ENDING = """
import os, pathlib, sys
from seqjax import runs
from seqjax.training import tracking
tracking.FINISH_SECONDS = tracking.LEAVE_SECONDS = 0.2
folder = pathlib.Path("run")
config = runs.read_config(folder)
for end in sys.argv[1:]:
    if not os.fork():
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    sys.exit()
mirror = tracking._Wandb(config, folder, "offline", print, "token")
mirror.finish({})
exec(end)
"""


def test_wandb_never_holds_the_process(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each way to end; what they import is imported once."""
    runs.open_run(tmp_path / "run", make_config("window"))
    (tmp_path / "wandb.py").write_text(HANGING)
    command = [sys.executable, "-c", ENDING, *ENDS]
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what was printed must not stay in a buffer
    done = subprocess.run(command, cwd=tmp_path, timeout=120, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [int(line) for line in lines if line.isdecimal()] == list(ENDS.values()), done.stderr
    assert done.returncode == 0 and done.stdout.count("TimeoutError") == len(ENDS)


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
    fake_wandb(monkeypatch, init=NO_NETWORK)
    with pytest.raises(UserError, match="wandb is disabled"):
        tracking.export(tmp_path / "run", "disabled", pytest.fail)
    with pytest.raises(UserError, match="did not take every line"):
        tracking.export(tmp_path / "run", "offline", lambda _: None)


def test_an_export_waits_as_long_as_wandb_takes_lines(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path, make_config("window"), 3.0)
    for step in range(20):
        runs.append_metrics(folder, {"step": step, "tokens": step, "loss": 3.0})
    mirror, for_ever = fake_wandb(monkeypatch), threading.Event()
    take = mirror.log

    def slowly(record: dict[str, Any]) -> None:
        for_ever.wait(1000 if record["step"] == last else 0.05)
        take(record)

    mirror.log = slowly
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.5)
    monkeypatch.setattr(tracking, "_hung", threading.Event())
    last = None
    assert tracking.export(folder, "offline", pytest.fail) == 20 and mirror.finished == 1
    last = 10
    with pytest.raises(UserError, match="did not take every line"):
        tracking.export(folder, "offline", lambda _: None)
    for_ever.set()


def test_a_task_without_tokens_is_drawn_over_steps(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config, axis in ((make_config("window"), "tokens"), (translation.Config(GRU(d_model=16)), "step")):
        mirror = fake_wandb(monkeypatch)
        tracking._Wandb(config, tmp_path, "offline", pytest.fail, "token").finish({})
        assert mirror.step_metric == axis


def test_the_real_wandb_offline(make_config: Any, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    train(make_config("window"), tmp_path / "run", devices=1, wandb_mode="offline", quiet=True)
    assert list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert "wandb stopped" not in (tmp_path / "run" / "log.txt").read_text()


def test_a_sweep_is_replayed_run_by_run_and_says_how_to_upload(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, lines in ((0, 2), (1, 3), (2, 0)):
        folder = put(tmp_path / "first", make_config("window", **{"train.seed": seed}), 3.0)
        for step in range(lines):
            runs.append_metrics(folder, {"step": step, "tokens": step, "loss": 3.0})
    mirror = fake_wandb(monkeypatch)
    assert main(["export-wandb", str(tmp_path / "first"), "--wandb", "offline"]) == 0
    assert len(mirror.lines) == 5 and mirror.finished == 2
    said = capsys.readouterr()
    assert "left out: 1 run not begun" in said.err and said.out.count("lines of") == 2
    uploads = [line.strip() for line in said.out.splitlines() if line.strip().startswith("wandb sync")]
    assert uploads == [f"wandb sync {tmp_path / 'first'}/*/wandb/offline-run-*"]  # one line for all runs
    assert main(["export-wandb", str(folder.parent / folder.name), "--wandb", "disabled"]) == 2
