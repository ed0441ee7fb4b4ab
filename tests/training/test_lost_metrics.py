"""metrics.jsonl of a run that has ended: missed where it is needed, and brought back from the last checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from seqjax import runs
from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.training.loop import train


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ended")


@pytest.fixture(params=[32, 64], ids=["final on the same windows", "final on more windows"])
def run(request: Any, kept: Path, make_config: Any, tmp_path: Path) -> Path:
    """A run that has ended; of each kind one is trained."""
    whole = kept / str(request.param)
    train(make_config("gru", **{"evaluation.final_windows": request.param}), whole, devices=1, quiet=True)
    return shutil.copytree(whole, tmp_path / "run")


def damage(path: Path, kind: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    match kind:
        case "deleted":
            path.unlink()
        case "cut short":
            path.write_text("".join(lines[:3]) + lines[3][:10])
        case "altered":
            path.write_text(lines[0].replace('"loss": ', '"loss": 1') + "".join(lines[1:]))


@pytest.mark.parametrize("kind", ["deleted", "cut short", "altered"])
def test_train_brings_it_back(kind: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, result = runs.read_metrics(run), (run / "result.json").read_bytes()
    damage(run / "metrics.jsonl", kind)
    assert main(["train", str(run), "--no-sample"]) == 0
    assert "metrics.jsonl had lost or altered lines" in capsys.readouterr().err
    after = runs.read_metrics(run)
    assert after[:-1] == before[:-1]
    last = {key: value for key, value in after[-1].items() if key != "seconds"}
    assert last.items() <= before[-1].items() and last["validation_loss"] == before[-1]["validation_loss"]
    assert (run / "result.json").read_bytes() == result
    assert main(["train", str(run), "--no-sample"]) == 0
    assert "metrics.jsonl" not in capsys.readouterr().err


def test_what_needs_the_curve_says_that_it_is_missing(run: Path) -> None:
    assert len(runs.read_curve(run)) == 2
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing; `seqjax train .* brings it back"):
        runs.read_curve(run)
    (run / "result.json").unlink()
    assert runs.read_curve(run) == []  # a run that has not ended may have none


def test_without_a_whole_checkpoint_nothing_is_written(run: Path) -> None:
    for record in run.glob("checkpoints/*/seqjax.json"):
        record.write_text("0\n{}\n")
    (run / "metrics.jsonl").unlink()
    runs.restore_ended(run, pytest.fail)
    assert not (run / "metrics.jsonl").exists()
