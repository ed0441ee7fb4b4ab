"""Experiments look at the place of their results before they train anything."""

from __future__ import annotations

import errno
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from experiment import load

from seqjax.errors import UserError

# what each would begin its work with
FIRST_WORK = {
    "isoflop": "sweep_table",
    "copies": "train",
    "gradients": "measure",
    "truncation": "run",
    "generation": "sweep_table",
    "steering": "train_all",
    "sentiment": "measure",
    "translation": "row",
    "rnn_vs_transformer": "sweep_table",
}


def test_a_place_is_made_and_left_empty(tmp_path: Path) -> None:
    place = load("common").writable(tmp_path / "a" / "b")
    assert place == tmp_path / "a" / "b" and not list(place.iterdir())


@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")])
def test_a_place_that_takes_no_file_is_told(code: int, reason: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=OSError(code, "no", str(tmp_path))))
    with pytest.raises(UserError, match=reason):
        load("common").writable(tmp_path)


@pytest.mark.parametrize("name", FIRST_WORK)
def test_a_place_that_cannot_be_written_is_told_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(name)
    owner = sys.modules["common"] if name == "isoflop" else module
    monkeypatch.setattr(owner, FIRST_WORK[name], Mock(side_effect=AssertionError("it works already")))
    (tmp_path / "file").write_text("")
    words = ["--runs", str(tmp_path / "runs")] if name != "copies" else []
    monkeypatch.setattr(sys, "argv", [name, "--report", str(tmp_path / "file" / "report"), *words])
    main = (lambda: module.run("isoflop", "isoflop-families", "", module.analyse)) if name == "isoflop" else module.main
    with pytest.raises(UserError, match="a file of that name is in the way"):
        main()


def test_every_drive_is_read_before_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("steering")
    monkeypatch.setattr(module, "train_all", Mock(side_effect=AssertionError("it works already")))
    words = ["--data", "road", str(tmp_path / "nowhere"), "--report", str(tmp_path / "report")]
    monkeypatch.setattr(sys, "argv", ["steering", *words, "--data.road-frames=420", "--data.blocks=6"])
    with pytest.raises(UserError, match="nowhere"):
        module.main()
