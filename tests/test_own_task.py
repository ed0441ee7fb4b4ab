"""A task from a file outside of the package, as a user brings it: the example of CONTRIBUTING.md, and mistakes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import brought
import jax
import numpy as np
import pytest
from same_run import metrics_of

import seqjax
from seqjax import runs
from seqjax.cli import main
from seqjax.commands.options import code_again, configs_of_runs
from seqjax.config import run_id, task_name
from seqjax.errors import UserError
from seqjax.host.own_code import name_of
from seqjax.runs.config_file import load_config
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.machine import this_machine
from seqjax.sweeps.sweep import local_launch, run_sweep
from seqjax.sweeps.table import gather, read_table, render
from seqjax.tasks import own, task_of
from seqjax.training.loop import train

SUMS = brought.example("A task of your own")
CHECKED = f"""{SUMS}

def check(config):
    from seqjax.families.family import Impossible

    if config.task.length < 2:
        raise Impossible("task.length", "at least 2 is allowed")
"""
TINY = (
    "model: {family: lstm, d_model: 4, n_layers: 1}\n"
    "train: {steps: 8, evaluate_every: 4, batch_size: 4, log_every: 1}\n"
)


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def task(tmp_path: Path) -> Any:
    """``task()``: the path of a task's file outside of the package."""

    def of(text: str = SUMS, name: str = "sums.py") -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return of


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """``written(task)``: the path of a config of it."""

    def of(task: object, further: str = "", length: int = 3) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(f"task:\n  name: {task}\n  length: {length}\n{TINY}{further}")
        return path

    return of


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``forget()``: from here on this process is another one."""
    brought.forget(monkeypatch)
    return partial(brought.forget, monkeypatch)


def test_the_example_is_short() -> None:
    assert brought.lines_of_code(SUMS) <= 30


@pytest.mark.slow
def test_a_run_is_trained_killed_resumed_and_read(
    task: Any, written: Any, forget: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    file, a, b = task(), tmp_path / "a", tmp_path / "b"
    config = load_config(written(file))
    result = train(config, a, devices=1, quiet=True, wandb_mode="disabled")
    assert result["run_id"].startswith("Sums-lstm-1x4-") and result["examples"] == 8 * 4
    assert (a / "task.py").read_text() == SUMS and task_name(config) == name_of("Sums", SUMS)
    real = task_of(str(file))

    def crashing(config: Any, data: Any) -> Any:
        made = real.make_task(config, data)
        return made._replace(batch=lambda step: made.batch(step) if step < 6 else 1 / 0)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setitem(own.shelf._known, task_name(config), real._replace(make_task=crashing))
        train(config, b, devices=1, quiet=True, wandb_mode="disabled")
    assert code_again(config) == f" --task.name {file}"
    forget()
    assert code_again(config) == " --trust-code"
    assert call("train", b, "--quiet") == 2 and not runs.read_result(b)
    assert "--trust-code" in capsys.readouterr().err
    assert call("train", b, "--quiet", "--wandb", "disabled", "--task.name", task(name="elsewhere/other.py")) == 0
    assert metrics_of(a) == metrics_of(b)
    params = [seqjax.open(folder).params for folder in (a, b)]
    jax.tree.map(np.testing.assert_array_equal, *params)
    forget()
    with pytest.raises(UserError, match=r"seqjax\.tasks\.task_of"):
        _ = seqjax.open(a).params
    capsys.readouterr()
    assert call("eval", a) == 2 and call("show", a) == 2 and call("show", a, "--trust-code") == 0
    capsys.readouterr()
    assert call("eval", a, "--checkpoint", "best", "--task.name", file) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(result["validation"]["loss"], rel=1e-6)


def test_the_id_is_of_class_and_text_not_of_the_place(task: Any, written: Any, forget: Any, tmp_path: Path) -> None:
    config = load_config(written(task()))
    forget()
    elsewhere = load_config(written(task(name="elsewhere/other.py")))
    assert run_id(elsewhere) == run_id(config) and task_name(elsewhere) == name_of("Sums", SUMS)
    changed = load_config(written(task(SUMS + "\n")))
    assert run_id(changed) != run_id(config)
    runs.open_run(tmp_path / "run", changed)
    forget()
    assert run_id(runs.read_config(tmp_path / "run")) == run_id(changed)  # without the code
    same = load_config(written("delays", length=3).with_name("c.yaml"), {"task.name": str(task())})
    assert task_name(same) == name_of("Sums", SUMS) and same.task.length == 8  # of another task nothing stays
    assert load_config(written(task(SUMS + "\n")), {"task.name": str(task())}).task.length == 3  # of a version all


def test_tables_run_no_code(task: Any, written: Any, forget: Any, tmp_path: Path, capsys: Any) -> None:
    folder, file = tmp_path / "run", task(SUMS.replace("length: int", "rate: float = 1.0\n    length: int"))
    config = load_config(written(file))
    runs.open_run(folder, config)
    task('raise SystemExit("it was run")')
    (folder / "task.py").write_text('raise SystemExit("it was run")')
    forget()
    assert run_id(runs.read_config(folder)) == run_id(config)  # 1.0 stays a float
    assert call("runs", folder) == 0 and call("status", folder) == 0
    table = gather([folder])
    assert table["task.length"].tolist() == [3] and table["task.name"].tolist() == [task_name(config)]
    (tmp_path / "t.csv").write_bytes(render(table, "csv"))
    assert read_table(tmp_path / "t.csv")["task.length"].tolist() == [3]
    capsys.readouterr()
    assert call("train", folder, "--trust-code") == 2
    assert "it was changed" in capsys.readouterr().err
    saved = json.loads((folder / "config.json").read_text())
    saved["task"]["name"] = str(file)
    (folder / "config.json").write_text(json.dumps(saved))
    assert call("show", folder) == 2
    said = capsys.readouterr().err
    assert "task.name" in said and "names a file" in said and "was run" not in said


def test_another_text_does_not_go_on_with_a_run(task: Any, written: Any, forget: Any, tmp_path: Path) -> None:
    runs.open_run(tmp_path / "run", load_config(written(task())))
    forget()
    with pytest.raises(UserError, match=r"the text was changed since.*task.py"):
        configs_of_runs([tmp_path / "run"], ["--task.name", str(task(SUMS + "\n"))], trust=False)
    with pytest.raises(UserError, match="no run is of it"):
        configs_of_runs([tmp_path / "run"], [f"--task.name={task(SUMS.replace('Sums', 'Other'))}"], trust=True)


MISTAKES = {  # text -> what the message must hold
    "syntax": ("x = 1\nclass Sums(:\n", "sums.py:2: SyntaxError: "),
    "no config": (SUMS.replace("Config(", "Konfig("), "has no dataclass Config"),
    "no make_task": (SUMS.replace("make_task", "make"), "has no function make_task(config, data)"),
    "no section": (SUMS.replace("    task: Sums = Sums()", "    x: Sums = Sums()"), "Config lacks the section task"),
    "no default": (SUMS.replace("length: int = 8", "length: int"), "TypeError: Sums.__init__() missing 1 required"),
    "another default": (SUMS.replace("= Sums()", "= None"), "Config.task: its default is no Sums"),
    "not frozen": (SUMS.replace("@dataclass(frozen=True)\nclass Sums", "@dataclass(unsafe_hash=True)\nclass Sums"),
                   "Config.task: is no frozen dataclass"),
    "no type": (SUMS.replace("length: int", 'length: "Nothing"'), "a field cannot be read from a config"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_told_in_one_line(name: str, task: Any, written: Any, forget: Any) -> None:
    text, fragment = MISTAKES[name]
    path = written(task(text))
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:2: task.name: ")
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_its_fields_are_checked_as_all_others_are(task: Any, written: Any, forget: Any) -> None:
    path = written(task(CHECKED), length=1)
    with pytest.raises(UserError, match=r"c.yaml:3: task.length: at least 2 is allowed"):
        load_config(path)
    path.write_text(path.read_text().replace("length", "lenght"))
    with pytest.raises(UserError, match=r"c.yaml:3: task.lenght: unknown key; allowed: length.*did you mean 'length'"):
        load_config(path)
    with pytest.raises(UserError, match=r"c.yaml:3: task.length: .*got 'x'"):
        load_config(written(task(CHECKED), length="x"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"task.name: .*suns.py: no such file, seen from .*; did you mean 'sums.py'\?"):
        load_config(path, {"task.name": str(task().with_name("suns.py"))})
    with pytest.raises(UserError, match=r"'.*sums.py:Sums': expected FILE.py or PACKAGE.MODULE"):
        load_config(path, {"task.name": f"{task()}:Sums"})


def test_an_importable_module_is_a_file(task: Any, tmp_path: Path, forget: Any, monkeypatch: Any) -> None:
    task(name="mine_of_tests/sums.py")
    task("", name="mine_of_tests/__init__.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert task_of("mine_of_tests.sums") is task_of(str(task()))


def test_tasks_can_be_an_axis(task: Any, forget: Any, tmp_path: Path) -> None:
    other = task(SUMS.replace("Sums", "Other"), name="other.py")
    (tmp_path / "s.yaml").write_text(f"{TINY}grid: {{task.name: [{task()}, {other}, delays]}}")
    planned = read_sweep(tmp_path / "s.yaml").runs()
    assert [run.run_id.split("-")[0] for run in planned] == ["Sums", "Other", "delays"]


@pytest.mark.slow
def test_a_sweep_with_a_search(task: Any, forget: Any, tmp_path: Path) -> None:
    sweep, family = tmp_path / "own.yaml", task(brought.example("Your own family"), name="leaky.py")
    sweep.write_text(
        f"{TINY}task: {{name: {task()}, length: 2}}\n"
        f"list: [{{model.family: lstm}}, {{model.family: '{family}:Leaky'}}]\n"
        "search: {rates: [1e-3, 1e-2, 1e-1], extend: 0}\n"
    )
    folder, machine = tmp_path / "own", this_machine(1, 1)
    launch = local_launch(folder, machine, "disabled", retries=0)
    outcome = run_sweep(read_sweep(sweep), folder, machine, None, bundle=True, launch=launch)
    labels = [curve.label for curve in outcome.curves]
    assert labels == ["Sums-lstm-1x4", "Sums-Leaky-1x4"]
    forget()
    task("raise SystemExit")
    table = gather([folder])
    assert set(table["status"]) == {"finished"} and len(table) == 6 and set(table["task.length"]) == {2}
    assert {(run.parent / "task.py").exists() for run in folder.glob("*/config.json")} == {True}
    assert call("status", folder) == 0
