"""The benchmark of accelerators: every kind of row runs on a CPU, and what was measured is not measured again."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import experiment
import pytest

from seqjax.errors import UserError

FOLDER = experiment.REPOSITORY / "experiments" / "benchmarks"
NOT_THERE = [] if importlib.util.find_spec("torch") else ["ModuleNotFoundError: No module named 'torch'"]


@pytest.fixture(scope="module")
def module() -> Any:
    loaded = experiment.load("benchmarks/accelerator")
    loaded.prepare()
    return loaded


def run(module: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> list[dict[str, Any]]:
    """The lines of the file afterwards."""
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--out", str(folder), *words])
    assert module.main() == 0
    return module.read(folder / "rows.jsonl")


@pytest.mark.slow
def test_every_kind_of_row_runs_on_a_cpu(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = module.results(run(module, monkeypatch, tmp_path, "--tiny", "--seconds", "600"))
    assert [line["row"].split(":")[0].split(" 1x")[0] for line in lines] == [
        "precision, errors", "precision, speed", "elman", "loops, unrolled", "loops, command buffers", "transformer",
        "bundles", "lstm",
    ]  # fmt: skip
    systems = {(line["row"], name): found for line in lines for name, found in line["systems"].items()}
    told = {found["error"] for found in systems.values() if "error" in found}
    assert told == {"needs CUDA", *NOT_THERE}
    needs = [name for (_, name), found in systems.items() if found.get("error") == "needs CUDA"]
    assert needs == ["while, unroll 1", "while, unroll 2", "torch compiled"]
    assert all(found["step_ms"] > 0 and found["tflops"] > 0 for found in systems.values() if "step_ms" in found)
    errors = next(iter(lines))["systems"]
    assert errors["highest"]["gradient_error"] < 1e-5 < errors["bfloat16"]["gradient_error"] < 0.1
    table = (tmp_path / "accelerator.md").read_text()
    assert all(line["row"] in table for line in lines) and "| G1 |" in table and "jax " in table
    assert json.loads((tmp_path / "accelerator.json").read_text())["rows"] == lines
    before = (tmp_path / "rows.jsonl").read_bytes()
    run(module, monkeypatch, tmp_path, "--tiny")
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def failing(tried: list[str], name: str) -> Callable[[], dict[str, Any]]:
    """A row's measurement, which notes that it was made; "bad" fails."""

    def measure() -> dict[str, Any]:
        tried.append(name)
        if name == "bad":
            raise RuntimeError("out of memory\nat length")
        return {"seqjax": {"error": "needs CUDA"}}

    return measure


def test_rows_go_on_where_they_were(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import accelerator_rows

    tried: list[str] = []
    made = [SimpleNamespace(name=n, goals="", measure=failing(tried, n)) for n in ("dead", "once", "bad", "there", "x")]
    monkeypatch.setattr(accelerator_rows, "rows", lambda tiny: made)
    assert run(module, monkeypatch, tmp_path, "--seconds", "0") == [] and tried == []
    file, where = tmp_path / "rows.jsonl", module.about()
    began = [{"row": name, "began": ""} for name in ("dead", "dead", "once")]
    done = {"row": "there", "goals": "", "systems": {}, **where}
    file.write_text("".join(json.dumps(line) + "\n" for line in (*began, done)) + '{"row": "x", "sys')
    lines = run(module, monkeypatch, tmp_path)
    assert [line["row"] for line in lines if "began" in line] == ["dead", "dead", "once", "bad", "x", "once"]
    lines = module.results(lines)
    assert tried == ["bad", "x", "once"]  # what had ended the process once comes last
    assert [(line["row"], line.get("error")) for line in lines] == [
        ("there", None), ("bad", "RuntimeError: out of memory"), ("x", None), ("once", None),
        ("dead", "the process ended in it, twice"),
    ]  # fmt: skip
    run(module, monkeypatch, tmp_path)
    assert tried == ["bad", "x", "once"]
    with pytest.raises(UserError, match="--rows lstn: no row has such a word in its name; they are: dead; once"):
        run(module, monkeypatch, tmp_path, "--rows", "lstn")


def test_goals_are_of_rows_that_there_are(module: Any) -> None:
    import accelerator_rows
    import accelerator_table

    names = [row.name for row in accelerator_rows.rows(tiny=False)]
    assert len(set(names)) == len(names) and set(accelerator_table.ROWS) <= set(names)
    lines = [
        {"row": accelerator_table.LSTM, "systems": {"seqjax": {"step_ms": 5.0}, "flax": {"step_ms": 45.0}}},
        {"row": accelerator_table.BASE, "systems": {"seqjax": {"utilization": 0.6}}},
    ]
    found = accelerator_table.goals(lines)
    assert "| LSTM 256, B 64, T 1024: ms | at most 4 | 5 | no |" in found
    assert "| G1 | the same: times as fast as Flax | at least 8 | 9 | yes |" in found
    assert "| Transformer of 124 M: share of the peak | at least 0.5 | 0.6 | yes |" in found
    assert found.count("not measured") == 12


def test_it_needs_no_package_that_the_machine_may_lack() -> None:
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("wandb", "tiktoken", "regex", "jinja2", "submitit"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import accelerator
accelerator.prepare()
import accelerator_rows, flax_models
assert accelerator_rows.rows(tiny=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
