"""`seqjax bench` refuses what it cannot time before it times anything."""

from __future__ import annotations

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
