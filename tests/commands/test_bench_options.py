"""`seqjax bench` refuses what it cannot time before it times anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqjax.cli import main


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sizes", "10"], "--sizes 10: transformer: 4 heads do not divide d_model 10"),
        (
            ["--sizes", "8", "--json", "/no/such/folder/x"],
            "/no/such/folder/x: cannot be written: there is no folder /no/such/folder",
        ),
    ],
)
def test_what_cannot_be_timed_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_times_beside_other_work_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqjax.host.cores.Waiting.share", lambda self: 0.5)
    small = ["--families", "elman", "--sizes", "8", "--batch-size", "2", "--context-length", "8", "--repeats", "1"]
    assert main(["bench", *small, "--json", str(tmp_path / "bench.json")]) == 0
    assert "note: other work ran beside 1 of 1 measurement" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["waited_share"] == 0.5
