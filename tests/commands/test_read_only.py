"""Commands that read a run leave its folder as it is, so they work on a read-only one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqjax.cli import main
from seqjax.training.loop import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "run"


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder: a file that came and went has changed the time of its folder."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(
    "words",
    [
        "eval {run} --checkpoint best",
        "sample {run} --tokens 3",
        "inspect {run} --text abcdef --output {out}/i.png --json {out}/i.json",
        "positions {run} --bootstrap 0 --plot {out}/p.png",
        "runs {run} --output {out}/runs.csv",
        "status {run}",
        "show {run}",
        "train {run} --quiet --no-sample",
    ],
    ids=lambda words: words.split()[0],
)
def test_the_run_folder_is_only_read(words: str, trained: Path, make_config: Any, tmp_path: Path) -> None:
    """A run that has ended is not trained again, so `train` too only reads it."""
    if not trained.is_dir():
        train(make_config("gru"), trained, devices=1, quiet=True)
    before = seen(trained)
    assert main([word.format(run=trained, out=tmp_path) for word in words.split()]) == 0
    assert seen(trained) == before
