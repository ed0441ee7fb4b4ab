"""`seqjax inspect` as a user types it, on runs trained for a few steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

import seqjax
from seqjax.cli import main
from seqjax.config import to_dict

TEXT = "Bene tore sal."


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def trained(make_config: Any, tmp_path: Path) -> Any:
    """``trained(family)``: the folder of a run of six steps."""

    def train(family: str, **changes: Any) -> Path:
        config = make_config(family, **{"train.steps": 6, "evaluation.every": 6, **changes})
        name = f"{family}-{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(to_dict(config)))
        folder = tmp_path / name
        words = ("train", tmp_path / f"{name}.yaml", "--run", folder, "--devices", 1, "--no-sample", "--quiet")
        assert call(*words) == 0
        return folder

    return train


def test_two_runs_in_one_figure_and_the_numbers_are_the_models(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [trained("transformer"), trained("lstm")]
    capsys.readouterr()
    words = ("--text", TEXT, "--output", tmp_path / "inside.svg", "--json", tmp_path / "inside.json")
    assert call("inspect", *folders, *words) == 0
    out = capsys.readouterr().out
    drawn = (tmp_path / "inside.svg").read_text()
    assert "block 2, head 2" in drawn and "forget gate f" in drawn
    saved = json.loads((tmp_path / "inside.json").read_text())
    assert "".join(saved["tokens"]) == TEXT
    assert [np.shape(saved["runs"][0]["attention_LxNxTxT"]), saved["runs"][1]["attention_LxNxTxT"]] == [
        (2, 2, len(TEXT), len(TEXT)), None
    ]  # fmt: skip
    assert set(saved["runs"][1]["gates_LxTxH"]) == set("ifgo")
    for folder, record in zip(folders, saved["runs"], strict=True):
        run = seqjax.open(folder)
        tokenizer, model, params = run.tokenizer, run.model, run.params
        tokens = tokenizer.encode(TEXT.encode()).astype(np.int32)
        log_p_TxV = jax.nn.log_softmax(jax.jit(model.apply)({"params": params}, tokens[None])[0][0])
        want = [-float(log_p_TxV[t, tokens[t + 1]]) for t in range(len(tokens) - 1)]
        assert record["loss"][0] is None
        np.testing.assert_allclose(record["loss"][1:], want, rtol=1e-5, atol=1e-5)
        likeliest = [tokenizer.decode([int(token)]) for token in log_p_TxV.argmax(axis=-1)]
        assert record["likeliest_next"] == likeliest
        assert f"{math.fsum(want) / len(want):.4f}" in out
    row = next(line for line in out.splitlines() if line.startswith("'B'"))
    assert "given" in row
    assert len([line for line in out.splitlines() if line.startswith("'")]) == len(TEXT)


def test_a_window_model_shows_its_loss_and_says_why(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = trained("window")
    assert call("inspect", folder, "--text", TEXT) == 0
    assert "has neither attention nor gates to be drawn; its loss alone is shown" in capsys.readouterr().out
    assert (tmp_path / "inspection.png").is_file()


def test_mistakes_are_one_line(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformer, other = trained("transformer"), trained("gru", **{"data.tokenizer": "chars"})
    empty = tmp_path / "untrained"
    empty.mkdir()
    (empty / "config.json").write_text((transformer / "config.json").read_text())
    mistakes = [
        ((transformer, "--text", ""), "--text '': is empty"),
        ((transformer, "--text", "a"), "has 1 token; at least 2 needed"),
        ((transformer, "--text", "a" * 17), "a sequence of 17 elements, but the model has learned 16 positions"),
        ((transformer, "--text", TEXT, "--layer", 3), "--layer 3"),
        ((transformer, "--text", TEXT, "--units", 0), "--units 0 is out of range"),
        ((transformer, "--text", TEXT, "--output", "a.bmp"), "expected a name that ends in .png, .svg, .pdf"),
        ((transformer, other, "--text", TEXT), "one axis of tokens needs one tokenizer"),
        ((empty, "--text", TEXT), "has no checkpoint yet"),
        ((tmp_path / "nowhere", "--text", TEXT), "not a run folder"),
        ((transformer, "--text", TEXT, "--what"), "--what: unknown option"),
    ]
    for words, fragment in mistakes:
        capsys.readouterr()
        assert call("inspect", *words) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert fragment in line
