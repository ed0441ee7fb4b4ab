"""Two sweeps never share a folder unless it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqjax.cli import main
from seqjax.config import run_id
from seqjax.errors import UserError
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Sweep, read_sweep

BASE = "base: ../c.yaml\n"
GRID = BASE + "grid: {train.seed: [0, 1], model.d_model: [8, 16]}\n"
SEARCH = BASE + "search: {rates: [1e-3, 3e-3, 1e-2], seeds: [5]}\n"


@pytest.fixture
def place(tmp_path: Path, small_text: Path) -> Path:
    (tmp_path / "c.yaml").write_text(
        f"model: {{family: lstm, d_model: 8, n_layers: 1}}\ndata: {{corpus: '{small_text}'}}\n"
        "train: {steps: 5, batch_size: 2, context_length: 8}\n"
    )
    return tmp_path


def sweep(place: Path, text: str, folder: str = "a", **options: object) -> Sweep:
    (place / folder).mkdir(exist_ok=True)
    (place / folder / "s.yaml").write_text(text)
    return read_sweep(place / folder / "s.yaml", options)


def made(place: Path, first: Sweep) -> Path:
    folders.make(place / "runs" / "s", first, first.runs())
    return place / "runs" / "s"


SAME = {
    "the same": (GRID, GRID, {}),
    "more seeds": (GRID, GRID.replace("[0, 1]", "[0, 1, 2]"), {}),
    "a new axis": (BASE, BASE + "grid: {train.seed: [0, 1]}\n", {}),
    "other words for the same runs": (
        GRID, BASE + "train: {seed: 0}\ngrid: {model.d_model: [16, 8], train.seed: [1, 0]}\n", {}
    ),
    "more rates": (SEARCH, SEARCH.replace("1e-2]", "1e-2, 3e-2]"), {}),
    "fewer rates of a search": (SEARCH.replace("1e-2]", "1e-2, 3e-2]"), SEARCH, {}),
    "an option that changes nothing": (GRID, GRID, {"train.steps": 5}),
    "some of its runs": (GRID, GRID, {"only.train.seed": 1}),
    "less memory": (GRID, GRID, {"train.remat": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_sweep_goes_on_and_may_grow(name: str, place: Path) -> None:
    first, second, options = SAME[name]
    folder = made(place, sweep(place, first))
    again = sweep(place, second, "b", **options)
    folders.refuse_others(folder, again, again.runs())


def test_an_option_that_only_fits_a_part_is_taken_twice(place: Path) -> None:
    """Its runs are resumed by the same command; the Transformer, which is left out, has no d_hidden."""
    text = BASE + "list: [{model.family: lstm}, {model: {family: transformer, n_heads: 2}}]\n"
    first = sweep(place, text, **{"only.model.family": "lstm", "model.d_hidden": 16})
    folders.refuse_others(made(place, first), first, first.runs())


OTHER = {
    "another base value": (GRID, GRID + "train: {steps: 6}\n", {}),
    "an option": (GRID, GRID, {"train.steps": 6}),
    "another seed": (BASE, BASE, {"train.seed": 1}),
    "fewer seeds": (GRID, GRID.replace("[0, 1]", "[0]"), {}),
    "another family": (BASE, BASE + "grid: {model.family: [gru]}\n", {}),
    "some of other runs": (GRID, GRID + "train: {steps: 6}\n", {"only.train.seed": 1}),
    "another seed of a search": (SEARCH, SEARCH, {"train.seed": 1}),
    "other fixed rates": (BASE + "grid: {optimizer.learning_rate: [1e-3]}\n",
                          BASE + "grid: {optimizer.learning_rate: [1e-2]}\n", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_sweep_of_that_name_is_refused(name: str, place: Path) -> None:
    first, second, options = OTHER[name]
    folder = made(place, sweep(place, first))
    before = (folder / "sweep.json").read_bytes()
    again = sweep(place, second, "b", **options)
    with pytest.raises(UserError, match=r"not of this sweep, such as .*--runs.*--extend"):
        folders.refuse_others(folder, again, again.runs())
    assert (folder / "sweep.json").read_bytes() == before


def test_launchers_that_start_at_once_make_one_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writes sweep.json while this one looks at what the folder holds."""
    ours, holds_records = sweep(place, GRID), folders.runs.holds_records
    folder = place / "runs" / "s"

    def while_the_other_makes_it(path: Path) -> bool:
        if path == folder and not path.with_name("made").exists():
            path.with_name("made").touch()
            made(place, ours)
        return holds_records(path)

    monkeypatch.setattr(folders.runs, "holds_records", while_the_other_makes_it)
    assert made(place, ours) == folder and folder.with_name("made").exists()


def test_the_command_refuses_and_extends(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(place, sweep(place, GRID))
    words = ["sweep", str(place / "a" / "s.yaml"), "--runs", str(place / "runs"), "--dry-run", "--train.steps", "6"]
    before = sorted(place.rglob("*"))
    assert main(words) == 2
    assert "add to them with --extend" in capsys.readouterr().err and sorted(place.rglob("*")) == before
    other = sweep(place, GRID, **{"train.steps": 6})
    folders.make(folder, other, other.runs())
    folders.make(folder, other, other.runs())
    saved = json.loads((folder / "sweep.json").read_text())
    assert saved["config"]["train"]["steps"] == 6
    assert [then["config"]["train"]["steps"] for then in saved["before"]] == [5]


def test_runs_that_a_search_added_are_its_own(place: Path) -> None:
    first = sweep(place, SEARCH)
    folder = made(place, first)
    for axes in ({"optimizer.learning_rate": 0.5}, {"optimizer.learning_rate": 0.003, "train.seed": 5}):
        run = first.plan(axes)
        folders.runs.open_run(folder / run_id(run.config), run.config)
    folders.refuse_others(folder, first, first.runs())


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"name": ', b"[]", b"null", b"\xff\xfe"])
def test_a_damaged_sweep_json_is_written_once_more(content: bytes, place: Path) -> None:
    first = sweep(place, GRID)
    path = made(place, first) / "sweep.json"
    whole = path.read_bytes()
    path.write_bytes(content)
    made(place, first)
    assert path.read_bytes() == whole
