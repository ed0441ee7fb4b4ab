"""The process around the work: readers that go, closed streams, encodings, signals, no home, no such device."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quick import quick

from seqjax import runs
from seqjax.cli import main
from seqjax.config import to_dict
from seqjax.data import load_corpus
from seqjax.errors import UserError
from seqjax.host.folders import data_folder, expanded
from seqjax.host.guard import guarded
from seqjax.host.stopping import ASKS, Interrupted, exit_code, stop_signals
from seqjax.host.streams import Forgiving, forgiving_streams, is_terminal, tell
from seqjax.training.progress import Progress

SEQJAX = (sys.executable, "-m", "seqjax")


@pytest.fixture
def config(make_config: Any, tmp_path: Path) -> Path:
    """A file with a tiny config."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(make_config("gru"))))
    return path


class Broken(io.StringIO):
    """A stream on which every write fails."""

    encoding = "utf-8"

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    flush = isatty = lambda self: self.write("")


ERRORS = [
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EBADF, "Bad file descriptor"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ValueError("I/O operation on closed file"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error))
def test_work_outlives_its_reader(error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing printed raises, log.txt has it all, and the code is that of the work."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Broken(error))

    def work() -> int:
        print("to nobody")
        Progress(tmp_path / "log.txt").say("step 1")
        return 3

    assert guarded(work) == 3
    Progress(tmp_path / "log.txt").say("step 2")  # also without the guard of a command
    assert [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["step 1", "step 2"]
    assert not is_terminal(sys.stderr)


@pytest.mark.parametrize(
    ("error", "code"), [(ERRORS[0], 141), (ERRORS[1], 2), (ERRORS[2], 2)], ids=["reader", "disk", "terminal"]
)
def test_output_that_was_asked_for_and_not_delivered(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Of a command whose output is all of its work."""
    monkeypatch.setattr(sys, "stdout", Broken(error))
    assert guarded(lambda: print("table") or 0, "runs", keeps=False) == code
    assert ("standard output" in capsys.readouterr().err) == (code == 2)


def test_a_working_folder_that_was_deleted_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert guarded(lambda: os.mkdir("runs") or 0) == 2  # type: ignore[func-returns-value]
    assert capsys.readouterr().err == "error: the working folder was deleted; change to another\n"


def test_a_mistake_is_broken_at_words_on_a_terminal_and_one_line_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake() -> int:
        raise UserError(" ".join(["word"] * 40))

    monkeypatch.setenv("COLUMNS", "80")
    for terminal in (True, False):
        screen = io.StringIO()
        screen.isatty = lambda there=terminal: there  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", screen)
        assert guarded(mistake) == 2
        lines = screen.getvalue().splitlines()
        assert " ".join(line.strip() for line in lines) == f"error: {' '.join(['word'] * 40)}"
        assert (max(map(len, lines)) <= 80) == terminal


def test_streams_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """sys.stdout is None in a process without one."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    Progress(tmp_path / "log.txt").say("step 1")
    tell("to nobody")
    assert guarded(lambda: print("a", file=sys.stderr) or sys.stdout.write("b") or 0) == 1
    assert sys.stdout is None


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
def test_every_letter_can_be_said(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that the stream does not have, and bytes of file names that are not UTF-8, are escaped."""
    under = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(under, encoding=encoding))
    assert guarded(lambda: print("2.1 ± 0.2 \N{HIRAGANA LETTER A} \udcff") or 0, keeps=False) == 0
    said = under.getvalue().decode(encoding)
    assert said.startswith("2.1 ")
    assert "\\udcff" in said
    assert ("±" in said) == ("±".encode(encoding, "ignore") != b"")


def test_streams_are_what_they_were_afterwards() -> None:
    """Also where one guard is within another."""
    before = sys.stdout, sys.stderr
    with forgiving_streams() as outer, forgiving_streams() as inner:
        assert isinstance(sys.stderr, Forgiving)
        assert inner is outer
    assert (sys.stdout, sys.stderr) == before


def test_a_stream_that_does_not_block(tmp_path: Path) -> None:
    """As a pipe shared with ssh or node: everything arrives."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = Forgiving(open(writer, "w", encoding="utf-8"), [])
    text = "x" * 63 + "\n"
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(["cat"], stdin=reader, stdout=out)
    os.close(reader)
    for _ in range(4000):
        tell(text, stream)
    stream.close()
    assert process.wait(20) == 0
    assert (tmp_path / "out").read_text() == 4000 * text
    assert not stream.lost


SHELL = {
    "reader_gone": '{ "$@"; echo $? > code; } 2>&1 | head -c 1 > /dev/null',
    "closed": '"$@" >&- 2>&-; echo $? > code',
    "closed_input": '"$@" <&- >&- 2>&-; echo $? > code',
    "full": '"$@" > /dev/full 2> /dev/full; echo $? > code',
    "ascii": 'PYTHONIOENCODING=ascii "$@" > out 2> err; echo $? > code',
}


@pytest.mark.parametrize("how", quick(SHELL, "closed"))
def test_train_ends_whatever_its_streams_are(how: str, config: Path, tmp_path: Path) -> None:
    """The real command in a shell: exit code 0, every step taken, files as of any other run."""
    command = [*SEQJAX, "train", str(config), "--run", "run", "--no-sample"]
    subprocess.run(["bash", "-c", SHELL[how], "bash", *command], cwd=tmp_path, timeout=120, check=False)
    assert (tmp_path / "code").read_text().strip() == "0"
    assert runs.read_result(tmp_path / "run")["status"] == "finished"
    assert [r["step"] for r in runs.read_metrics(tmp_path / "run") if "loss" in r] == [5, 10, 15, 20]
    assert (tmp_path / "run" / "lock").read_text() in ("", (tmp_path / "run" / "lock").read_text().strip() + "\n")


def test_a_reader_of_a_table_that_goes(tmp_path: Path) -> None:
    """141, as of any tool, and nothing on the screen from the end of Python."""
    command = 'set -o pipefail; "$@" 2> err | true; echo ${PIPESTATUS[0]} > code'
    subprocess.run(["bash", "-c", command, "bash", *SEQJAX, "runs", "--columns"], cwd=tmp_path, timeout=60, check=False)
    assert (tmp_path / "code").read_text().strip() == "141"
    assert (tmp_path / "err").read_text() == ""


@pytest.mark.parametrize("number", quick(ASKS, signal.SIGTERM), ids=lambda number: number.name)
def test_every_signal_that_asks_to_stop_saves(number: int, make_config: Any, tmp_path: Path) -> None:
    """Exit code 75 or 130, and the run goes on to the same numbers as one that nobody stopped."""
    from seqjax.training.loop import train

    config = make_config("elman")
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop, at_step(7, lambda: signal.raise_signal(number)):
        train(config, tmp_path / "run", quiet=True)
    assert stop.value.signal_number == number
    assert signal.getsignal(number) is before
    assert exit_code(number) == (130 if number == signal.SIGINT else 75)
    assert (tmp_path / "run" / "checkpoints" / str(stop.value.step)).is_dir()
    assert train(config, tmp_path / "run", quiet=True)["status"] == "finished"


def at_step(at: int, action: Callable[[], Any]) -> Any:
    """A context in which `action` is called where the batch of that step is made."""
    from seqjax.tasks import text

    real, patch = text.batch_at, pytest.MonkeyPatch()

    def batch_at(config: Any, shard: Any, step: int) -> Any:
        if step == at:
            action()
        return real(config, shard, step)

    patch.setattr(text, "batch_at", batch_at)

    class Patched:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: Any) -> None:
            patch.undo()

    return Patched()


@pytest.mark.parametrize("number", ASKS, ids=lambda number: number.name)
def test_what_the_parent_ignores_is_ignored(number: int) -> None:
    """nohup ignores SIGHUP, a shell's `&` ignores SIGINT, `trap ''` any."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_signals() as asked:
            signal.raise_signal(number)
            assert asked == []
        assert guarded(lambda: signal.raise_signal(number) or 5) == 5
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_handler_of_the_users_own_is_kept() -> None:
    """SIGUSR1 and SIGUSR2 with a handler are somebody's, such as submitit's; it is back after SIGTERM's, too."""
    heard: list[int] = []
    before = {n: signal.signal(n, lambda n, _: heard.append(n)) for n in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        with stop_signals() as asked:
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGTERM)
        assert (heard, asked) == ([signal.SIGUSR2], [signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGUSR2, signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_only_a_second_press_of_ctrl_c_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not Ctrl-C after SIGTERM, nor a Ctrl-C that a wrapper forwards as well."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with stop_signals() as asked:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert asked[0] == signal.SIGHUP
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", ASKS, ids=lambda number: number.name)
def test_a_signal_before_the_first_step(
    number: int, config: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """While text is made into tokens, say: the exit code is ours, and the same command goes on."""
    monkeypatch.setattr("seqjax.tasks.text.load", lambda *_: signal.raise_signal(number))
    assert main(["train", str(config), "--run", str(tmp_path / "run")]) == exit_code(number)
    assert "the same command resumes" in capsys.readouterr().err
    monkeypatch.undo()


def test_a_signal_that_python_drops_is_heard_all_the_same(config: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """An exception that a handler raises in a callback of garbage collection goes nowhere."""
    from seqjax.tasks import text

    real = text.load

    def callback(phase: str, _info: Any) -> None:
        if phase == "start":
            gc.callbacks.remove(callback)
            signal.raise_signal(signal.SIGTERM)

    def load(*arguments: Any) -> Any:
        gc.callbacks.append(callback)
        gc.collect()
        return real(*arguments)

    monkeypatch.setattr(text, "load", load)
    monkeypatch.setattr(sys, "unraisablehook", lambda *_: None)
    assert main(["train", str(config), "--run", str(tmp_path / "run"), "--no-sample"]) == exit_code(signal.SIGTERM)
    assert runs.read_result(tmp_path / "run") is None
    assert (tmp_path / "run" / "checkpoints").is_dir()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("mistake"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2),
        (Interrupted(signal.SIGTERM, 3), 75),
        (Interrupted(signal.SIGINT, 3), 130),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 2),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes."), 2),
    ],
    ids=lambda value: str(value) or type(value).__name__,
)
def test_every_end_is_one_line(error: BaseException, code: int, capsys: Any) -> None:
    """Commands and experiments alike."""

    def work() -> int:
        raise error

    assert guarded(work) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError("other"), OSError("of a library")])
def test_faults_of_the_program_show_where(error: BaseException) -> None:
    """They are not the user's."""

    def work() -> int:
        raise error

    with pytest.raises(type(error)):
        guarded(work)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom the system knows nothing, as in a container that runs under any number."""

    def unknown(_: Any) -> Any:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "SEQJAX_DATA", "SEQJAX_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)


@pytest.mark.parametrize("command", ["train", "show"])
def test_without_a_home_a_cache_is_enough(
    command: str, homeless: None, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SEQJAX_CACHE alone; raw corpora go there, too."""
    monkeypatch.setenv("SEQJAX_CACHE", str(tmp_path / "cache"))
    options = ["--run", str(tmp_path / "run"), "--no-sample", "--quiet"] if command == "train" else []
    assert main([command, str(config), *options]) == 0
    assert data_folder() == tmp_path / "cache" / "corpora"


@pytest.mark.parametrize(
    "words", [["train"], ["show"], ["data", "stats"], ["data", "prepare"], ["sweep"]], ids="-".join
)
def test_without_a_home_one_line_says_what_to_set(
    words: list[str], homeless: None, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Before anything is made: no folder called ~ either."""
    monkeypatch.chdir(tmp_path)
    text = json.loads(config.read_text())["data"]["corpus"]
    assert main([*words, text if words[0] == "data" else str(config)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "SEQJAX_CACHE" in said[-1]
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("path", ["~/x.txt", "~nobody/x.txt", "~"])
def test_a_home_in_a_path_that_nobody_has(path: str, homeless: None, tmp_path: Path, monkeypatch: Any) -> None:
    """The path is taken as it is written, and is not there."""
    monkeypatch.setenv("SEQJAX_CACHE", str(tmp_path))
    assert expanded(path) == Path(path)
    with pytest.raises(UserError, match="~"):
        load_corpus(path)


def run_alone(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as JAX chooses its devices once."""
    return subprocess.run(
        [*SEQJAX, *words], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize("platforms", quick(["cuda", "tpu", "nonsense"], "cuda"))
def test_a_platform_that_is_not_here(platforms: str, config: Path, tmp_path: Path) -> None:
    """One line that names the variable; nothing is made."""
    ended = run_alone("train", str(config), "--run", str(tmp_path / "run"), JAX_PLATFORMS=platforms)
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("WARNING")]
    assert f"JAX_PLATFORMS={platforms}" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_laws_need_no_device(tmp_path: Path) -> None:
    """They run on the processor whatever JAX_PLATFORMS says."""
    rows = [f"{n},{(8.8e13 / n) ** 0.076}" for n in (10**i for i in range(4, 10))]
    (tmp_path / "t.csv").write_text("\n".join(["params,loss", *rows]) + "\n")
    words = ["fit", str(tmp_path / "t.csv"), "--law", "kaplan-n", "--bootstrap", "0"]
    ended = run_alone(*words, JAX_PLATFORMS="nonsense")
    assert ended.returncode == 0, ended.stderr


def test_a_run_folder_with_bytes_that_are_not_utf8(config: Path, tmp_path: Path, capsys: Any) -> None:
    """It is trained, saved, evaluated and listed, its name shown with escapes."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff/x\xe9")
    assert main(["train", str(config), "--run", folder, "--no-sample", "--quiet"]) == 0
    assert main(["eval", folder]) == 0
    assert main(["runs", folder]) == 0
    assert main(["runs", folder, "--format", "csv"]) == 0
    assert "r\\xff" in capsys.readouterr().out
