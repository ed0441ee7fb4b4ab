"""Every command as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jax.profiler import ProfileData

from seqjax.cli import main
from seqjax.config import to_dict
from seqjax.config.fields import leaves


@pytest.fixture
def config_file(make_config: Any, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(to_dict(make_config("lstm"))))
    return path


def call(*words: object) -> int:
    return main([str(word) for word in words])


def test_train_eval_sample_export(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", config_file, "--runs", tmp_path / "runs", "--devices", 1, "--model.d-model", 24, "--quiet")
    assert call(*arguments) == 0
    out = capsys.readouterr().out
    assert "nats per token" in out and "bits per byte" in out and "sample\n" in out
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert json.loads((run / "config.json").read_text())["model"]["d_model"] == 24

    assert call(*arguments, "--no-sample") == 0
    assert "has ended already" in capsys.readouterr().err
    assert call("train", run, "--no-sample") == 0
    assert "has ended already" in capsys.readouterr().err

    assert call("eval", run) == 0
    assert f"{json.loads((run / 'result.json').read_text())['validation']['loss']:.4f}" in capsys.readouterr().out
    assert call("eval", run, "--split", "test", "--checkpoint", "best", "--json") == 0
    assert json.loads(capsys.readouterr().out)["split"] == "test"

    words = ("sample", run, "--prompt", "To be", "--tokens", 20, "--top-k", 40, "--top-p", 0.95, "--temperature", 0.8)
    assert call(*words) == 0
    first = capsys.readouterr().out
    assert first.startswith("To be")
    assert call(*words) == 0
    assert capsys.readouterr().out == first
    assert call(*words, "--samples", 2, "--seed", 1) == 0
    assert capsys.readouterr().out.count("To be") == 2


def test_show(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", config_file, "--model.n-layers", 3) == 0
    out = capsys.readouterr().out
    assert "n_layers: 3" in out and "vocabulary V = 257" in out
    assert f"{3 * 8 * 16 * 16:,}" in out  # 8 H^2 weights a layer
    assert f"{6 * 3 * 8 * 16 * 16:,}" in out  # 6 N FLOPs a token


def test_options_may_stand_anywhere(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "--model.n-layers", 3, "--train.seed=7", config_file, "--train.steps", 5) == 0
    out = capsys.readouterr().out
    assert "n_layers: 3" in out and "seed: 7" in out and "steps: 5" in out


def test_data(small_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "list") == 0
    out = capsys.readouterr().out
    assert "english" in out and "enwik8" in out and "bpe-V" in out
    assert call("data", "prepare", small_text, "--tokenizer", "bpe-300") == 0
    assert call("data", "stats", small_text, "--tokenizer", "bpe-300") == 0
    assert "train" in capsys.readouterr().out


@pytest.mark.slow
def test_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("bench", "--families", "elman", "transformer", "--sizes", 8, 16, "--batch-size", 2, "--context-length", 4)
    assert call(*words, "--repeats", 2, "--json", tmp_path / "b.json") == 0
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [(row["family"], row["model"]["d_model"]) for row in rows] == [
        ("elman", 8), ("transformer", 8), ("elman", 16), ("transformer", 16)
    ]  # fmt: skip
    assert "compile" in capsys.readouterr().out


def test_bench_writes_profiles(tmp_path: Path) -> None:
    """Traces in the form that xprof reads, with the program's own operations in them."""
    words = ("bench", "--families", "lstm", "--sizes", 8, "--batch-size", 2, "--context-length", 4, "--repeats", 1)
    assert call(*words, "--profile", tmp_path / "traces") == 0
    (trace,) = (tmp_path / "traces" / "lstm-8").rglob("*.xplane.pb")
    events = [
        event.name
        for plane in ProfileData.from_file(str(trace)).planes
        for line in plane.lines
        for event in line.events
    ]
    assert any("train_steps" in name for name in events)


@pytest.mark.parametrize("command", ["train", "show"])
def test_help_explains_every_field(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(command, "--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for key, _ in leaves():
        assert f"--{key.replace('_', '-')} " in out or key == "model"
    assert "examples:" in out


MISTAKES = [
    (("train", "nothing.yaml"), "nothing.yaml: no such config file"),
    (("train", "CONFIG", "--train.stpes", "3"), "train.stpes: unknown key; allowed: steps"),
    (("train", "CONFIG", "--train.sed", "3"), "train.sed: unknown key"),
    (("train", "CONFIG", "--train.steps"), "--train.steps: expected a value"),
    (("train", "CONFIG", "--train.steps", "3", "--train.steps=4"), "given twice"),
    (("train", "CONFIG", "extra"), "extra: expected an option"),
    (("train", "CONFIG", "--train.steps", "many"), "command line: train.steps: input should be a valid integer"),
    (("train", "CONFIG", "--train.batch-size", "7", "--devices", "2"), "7 sequences cannot be shared among 2 devices"),
    (("train", "CONFIG", "--devices", "0"), "--devices 0: at least 1 is needed"),
    (("train", "CONFIG", "--devices", "64"), "--devices 64: this machine has"),
    (("train", "CONFIG", "--data.corpus", "englsh"), "did you mean 'english'"),
    (("train", "CONFIG", "--data.tokenizer", "bites"), "did you mean 'bytes'"),
    (("train", "CONFIG", "--wandb", "maybe"), "allowed: online, offline, disabled"),
    (("eval", "."), "not a run folder"),
    (("sample", "nowhere"), "nowhere: not a run folder"),
    (("bench", "--families", "lstn"), "allowed: lstm, transformer, gru, elman, window"),
    (("show", "CONFIG", "--model.n-heads", "3"), "model.n_heads: unknown key"),
]


@pytest.mark.parametrize(("words", "fragment"), MISTAKES, ids=lambda part: part if isinstance(part, str) else None)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: tuple[str, ...], fragment: str, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call(*[config_file if word == "CONFIG" else word for word in words]) == 2
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert fragment in line
    assert "Traceback" not in err


def test_sampling_ranges(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", config_file, "--run", tmp_path / "run", "--devices", 1, "--no-sample", "--quiet") == 0
    for option, value in (("--temperature", -1), ("--top-p", 0), ("--top-p", 1.5), ("--tokens", 0), ("--top-k", -1)):
        assert call("sample", tmp_path / "run", option, value) == 2
        assert (
            f"{option} {float(value) if option in ('--temperature', '--top-p') else value} is out of range"
            in capsys.readouterr().err
        )
    assert call("sample", tmp_path / "run", "--prompt", "") == 2


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "seqjax", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("seqjax 0.")
