"""A run whose text has moved says what the text was, and goes on where it is now."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqjax.cli import main
from seqjax.config import to_dict

TINY = {"train.steps": 2, "evaluation.every": 2, "train.checkpoint_every": 2, "data.tokenizer": "words"}


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def moved(
    make_config: Any, small_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> tuple[Path, Path]:
    """A finished run on ``text.txt``, and where that has gone."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(small_text, "text.txt")
    Path("tiny.yaml").write_text(yaml.safe_dump(to_dict(make_config("window", **TINY, **{"data.corpus": "text.txt"}))))
    assert call("train", "tiny.yaml", "--run", "run", "--devices", 1, "--no-sample", "--quiet") == 0
    Path("elsewhere").mkdir()
    os.rename("text.txt", "elsewhere/renamed.txt")
    capsys.readouterr()
    return tmp_path / "run", tmp_path / "elsewhere" / "renamed.txt"


COMMANDS = (("eval",), ("sample", "--tokens", 3), ("inspect", "--text", "Bene tore"), ("train",))


@pytest.mark.parametrize("words", COMMANDS[1:3], ids=lambda words: words[0])
def test_the_folder_alone_is_enough_on_another_machine(
    words: tuple[Any, ...], moved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (command, *rest), (run, text) = words, moved
    elsewhere = run.parent / "another machine"
    shutil.move(run, elsewhere / "copy")
    text.unlink()
    monkeypatch.setenv("SEQJAX_CACHE", str(elsewhere / "cache"))
    monkeypatch.chdir(elsewhere)
    assert call(command, "copy", *rest) == 0
    capsys.readouterr()
    kept = json.loads(Path("copy/tokenizer.json").read_text())
    Path("copy/tokenizer.json").write_text(json.dumps(kept | {"tokens": kept["tokens"][::-1]}))
    assert call(command, "copy", *rest) == 2
    assert "tokenizer.json" in (said := capsys.readouterr().err) and "made again from the text" in said


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_it_says_so_and_goes_on_where_the_text_is(
    words: tuple[Any, ...], moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (command, *rest), (run, text) = words, moved
    (run / "tokenizer.json").unlink()  # as in runs of earlier versions
    if command == "train":
        (run / "result.json").unlink()
    assert call(command, run, *rest) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "the text of this run, text.txt (sha256" in line and "--corpus PATH" in line and "did you mean" not in line
    assert call(command, run, *rest, "--corpus", text) == 0
    capsys.readouterr()
    text.write_bytes(text.read_bytes()[:-1] + b"x")
    assert call(command, run, *rest, "--corpus", text) == 2
    assert "is not what this run began with" in capsys.readouterr().err
    assert call(command, run, *rest, "--corpus", "nowhere.txt") == 2
    assert "no corpus and no file 'nowhere.txt'" in capsys.readouterr().err


def test_a_new_run_names_its_text_in_the_config(moved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "tiny.yaml", "--corpus", moved[1]) == 2
    assert "write --data.corpus" in capsys.readouterr().err


def test_names_that_are_not_utf8_are_told_or_shown(small_text: Path, tmp_path: Path, capsys: Any) -> None:
    raw = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    shutil.copy(small_text, raw)
    assert call("data", "stats", raw) == 0
    assert r"caf\xe9.txt, sha256" in capsys.readouterr().out
    assert call("train", "configs/quickstart.yaml", "--data.corpus", raw) == 2
    assert r"caf\xe9.txt' is not UTF-8" in capsys.readouterr().err
