"""Copies of a run folder never hide a finished run, nor count twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from seqjax import runs
from seqjax.cli import main
from seqjax.config import run_id
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.sweeps import folder as folders
from seqjax.sweeps import table


def finished(loss: float) -> dict[str, Any]:
    return {"status": "finished", "steps": 20, "validation": {"loss": loss}, "tokens": 2560}


@pytest.fixture
def run(make_config: Any, tmp_path: Path) -> Path:
    config = make_config("lstm")
    place = tmp_path / "s" / run_id(config)
    runs.open_run(place, config)
    runs.append_metrics(place, {"step": 20, "loss": 3.0})
    disk.write_json(place / "result.json", finished(3.0))
    return place


def unfinished(place: Path) -> None:
    (place / "result.json").unlink()


COPIES = {
    "unfinished, sorted after": ("{}.bak", "copy"),
    "unfinished, sorted before": ("aaa", "copy"),
    "the copy alone is finished": ("{}.bak", "original"),
    "the copy alone is finished, sorted before": ("aaa", "original"),
    "both are finished": ("{}.bak", ""),
    "a copy that has not begun": ("zzz", "planned"),
    "a copy with spaces": ("copy of {}", "copy"),
}


@pytest.mark.parametrize("name", COPIES)
def test_of_copies_the_finished_one_counts_once(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, which = COPIES[name]
    copy = run.parent / other.format(run.name)
    shutil.copytree(run, copy)
    if which == "planned":
        (copy / "metrics.jsonl").unlink()
    if which:
        unfinished(run if which == "original" else copy)
    kept, left = (copy, run) if which == "original" else (run, copy)
    (row,) = table.gather([run.parent]).to_dict("records")
    assert (row["run_id"], row["status"], row["loss"]) == (run.name, "finished", 3.0)
    assert capsys.readouterr().err == f"note: {left}: left out, it is a copy of the run in {kept}\n"
    assert folders.folders_by_id(run.parent) == {run.name: kept}
    assert main(["status", str(run.parent), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == "finished"
    assert main(["runs", str(run.parent), "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_copies_that_ended_differently_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = run.with_name("other")
    shutil.copytree(run, copy)
    for result in (finished(3.5), {"status": "diverged", "steps": 7}):
        disk.write_json(copy / "result.json", result)
        for command in ("runs", "status", "fit", "positions"):
            assert main([command, str(run.parent)]) == 2
            (error,) = capsys.readouterr().err.splitlines()
            assert str(run) in error and str(copy) in error and "move one of them away" in error


def test_a_copy_of_the_sweep_hides_nothing(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup" / "s"
    shutil.copytree(run.parent, copy)
    unfinished(copy / run.name)
    for places in ([run.parent, copy], [copy, run.parent]):
        (row,) = table.gather(places).to_dict("records")
        assert row["status"] == "finished"
    disk.write_json(copy / run.name / "result.json", finished(3.5))
    with pytest.raises(UserError, match="has ended twice and not alike"):
        table.gather([run.parent, copy])


def test_a_saved_table_that_says_otherwise_is_refused(run: Path, tmp_path: Path) -> None:
    saved = tmp_path / "then.csv"
    saved.write_bytes(table.render(table.gather([run.parent]), "csv"))
    assert len(table.gather([saved, run.parent])) == 1
    saved.write_text(f"run_id,sweep,status,loss\n{run.name},s,finished,3.5\n")
    with pytest.raises(UserError, match=r"then\.csv row 1 finished at 3\.5"):
        table.gather([saved, run.parent])
    saved.write_text("run_id,status,loss\na,finished,3.5\na,finished,3.6\n")
    with pytest.raises(UserError, match="the run a has ended twice"):
        table.gather([saved])


def test_a_renamed_folder_is_its_run(run: Path) -> None:
    run.rename(run.with_name("best"))
    assert table.gather([run.parent])["run_id"].tolist() == [run.name]
    assert folders.folders_by_id(run.parent) == {run.name: run.with_name("best")}
