"""A package that is absent or broken is named before the work begins, in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.host.optional import look_for, need


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "{place}", "--format", "parquet", "--output", "{place}/x"],
        ["runs", "{place}", "--output", "{place}/x.parquet"],
        ["runs", "{place}", "old.parquet"],
        ["fit", "{place}", "old.parquet", "--law", "L(N)"],
        ["compare", "{place}", "old.parquet", "--law", "L(N)", "--by", "family"],
        ["frontier", "{place}", "old.parquet"],
    ],
    ids=" ".join,
)
def test_pyarrow_is_looked_for_before_anything_is_gathered(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The folder has no run in it, which would be the first thing said after the gathering began."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main([word.format(place=tmp_path) for word in words]) == 2
    told = capsys.readouterr().err
    assert told.endswith("needs pyarrow: pip install 'seqjax[parquet]'\n") and told.count("\n") == 1


def test_wandb_is_looked_for_before_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^export-wandb needs wandb: pip install wandb$"):
        look_for("wandb", "export-wandb")


def test_a_broken_package_is_told_from_an_absent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sacrebleu.py").write_text("raise ImportError('libx.so: no such file\\nmore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sacrebleu", raising=False)
    with pytest.raises(UserError, match=r"installed and cannot be imported \(ImportError: libx\.so: no such file\)"):
        need("sacrebleu", "BLEU")
