"""Workers start in any surroundings, answer in spite of what else prints, and say why they could not start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqjax import cli
from seqjax.errors import UserError
from seqjax.sweeps.launch import worker_command
from seqjax.sweeps.launch.process import Worker

OLD = 'raise ImportError("an old seqjax")\n'
GREETING = 'print("welcome to the cluster")\n'


def answer_of(request: dict[str, Any], log: Path | None = None) -> dict[str, Any]:
    """What a new worker answers to one request."""
    worker = Worker((), None, log)
    try:
        worker.send(request)
        return worker.answer()
    finally:
        worker.close()


@pytest.mark.parametrize(("files", "variables"), [
    ({"seqjax/__init__.py": OLD, "seqjax/sweeps/worker.py": OLD}, {}),
    ({"site/sitecustomize.py": GREETING}, {"PYTHONPATH": "site"}),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [  # several at once: a start imports JAX
        ({f"{name}.py": OLD for name in
          ("seqjax", "queue", "json", "random", "typing", "argparse", "numpy", "jax/__init__", "jax/numpy")}, {}),
        ({"seqjax/__init__.py": '__version__ = "0.0.1"\n', "start.py": OLD},
         {"PYTHONSTARTUP": "start.py", "PYTHONWARNINGS": "error"}),
        ({"later/seqjax/__init__.py": OLD, "site/sitecustomize.py": "import os; os.write(1, b'{}\\n')\n"},
         {"PYTHONPATH": "site:later", "PYTHONIOENCODING": "utf-16"}),
        ({"site/sitecustomize.py": "import sys; print('x' * 200_000, file=sys.stderr)\n"},
         {"PYTHONPATH": "site", "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONSAFEPATH": "1",
          "PYTHONDONTWRITEBYTECODE": "1"}),
        ({}, {"PYTHONOPTIMIZE": "2", "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "7", "PYTHONINSPECT": "1"}),
    ]),
])  # fmt: skip
def test_a_worker_starts_and_answers_whatever_is_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], variables: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answer = answer_of({"train": [str(tmp_path / "né")]})  # fails before anything is compiled
    assert answer["outcome"] == "error" and "FileNotFoundError" in answer["reason"] and "né" in answer["reason"]


@pytest.mark.parametrize(("program", "reason"), [
    ("import seqjax.no_such_module", "exit code 1; it last said: ModuleNotFoundError: No module named"),
    ("import sys; sys.exit('no licence for this node')", "exit code 1; it last said: no licence for this node"),
    ("raise SystemExit(3)", "exit code 3"),
    ("import os; os.write(2, b'broken \\xff\\n\\n'); os.abort()", r"killed by SIGABRT; it last said: broken \xff"),
    ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ("import os, sys; os.write(int(sys.argv[3]), b'{\"outcome\": '); os._exit(5)", "exit code 5"),
])  # fmt: skip
def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(worker_command, "PROGRAM", program)
    (tmp_path / "log.txt").write_text("of another worker\n")
    answer = answer_of({}, tmp_path / "log.txt")
    assert answer["outcome"] == "died" and reason in answer["reason"]
    said = answer["reason"].partition("; it last said: ")[2]
    assert "of another worker" in (log := (tmp_path / "log.txt").read_text(errors="backslashreplace")) and said in log


def test_what_no_process_can_be_made_of_is_a_mistake_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(UserError, match="a worker cannot be started: /no/such/python: No such file"):
        Worker((), None, None)


def test_a_sweep_that_cannot_start_workers_shows_their_error(
    tmp_path: Path, small_text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(worker_command, "PROGRAM", "raise ImportError('libgomp.so.1: no such file')")
    (tmp_path / "one.yaml").write_text(f"data: {{corpus: {small_text}}}\nmodel: {{family: window}}\n")
    assert cli.main(["sweep", str(tmp_path / "one.yaml"), "--runs", str(tmp_path / "runs")]) == 2
    assert "libgomp.so.1: no such file" in capsys.readouterr().err


def test_the_command_as_a_module_heeds_no_module_of_the_working_directory(tmp_path: Path) -> None:
    for name in ("queue.py", "json.py", "numpy.py", "random.py"):
        (tmp_path / name).write_text(OLD)
    command = [sys.executable, "-m", "seqjax", "--version"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.startswith("seqjax ")
