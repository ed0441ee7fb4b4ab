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

NAMES = ("isoflop", "copies", "generation", "sentiment", "translation", "rnn_vs_transformer")


def test_a_place_is_made_and_left_empty(tmp_path: Path) -> None:
    place = load("common").writable(tmp_path / "a" / "b")
    assert place == tmp_path / "a" / "b" and not list(place.iterdir())


@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")])
def test_a_place_that_takes_no_file_is_told(code: int, reason: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=OSError(code, "no", str(tmp_path))))
    with pytest.raises(UserError, match=reason):
        load("common").writable(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_place_that_cannot_be_written_is_told_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(name)
    owner = module if name == "rnn_vs_transformer" else sys.modules["common"]
    monkeypatch.setattr(owner, "sweep_table", Mock(side_effect=AssertionError("it works already")))
    (tmp_path / "file").write_text("")
    words = ["--runs", str(tmp_path / "runs"), "--report", str(tmp_path / "file" / "report")]
    monkeypatch.setattr(sys, "argv", [name, *words])
    main = getattr(module, "main", lambda: module.run(name, "isoflop-families", "", module.analyse))
    with pytest.raises(UserError, match="a file of that name is in the way"):
        main()
