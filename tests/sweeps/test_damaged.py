"""One run with a damaged file never hides the others, nor is it missing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from closed import closed
from finished_run import put

from seqjax import runs
from seqjax.cli import main
from seqjax.config import run_id
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.laws.points import read_points
from seqjax.sweeps import folder as folders
from seqjax.sweeps import table
from seqjax.sweeps.watched import Watched

SIZES = (8, 16, 24, 32, 40, 48)
DAMAGES = {
    "cut short": ("result.json", '{"status": "fini'),
    "another status": ("result.json", {"status": "done"}),
    "no step": ("result.json", {"steps": None}),
    "a text for an object": ("result.json", {"validation": "3.0"}),
    "a text for a number": ("result.json", {"tokens": "many"}),
    "a list for a loss": ("result.json", {"validation": {"loss": [3.0]}}),
    "finished without a loss": ("result.json", {"validation": {}}),
    "counts that are none": ("result.json", {"parameters": 5}),
    "a config cut short": ("config.json", '{"model": {'),
    "a plan that is a list": ("plan.json", "[]"),
    "a number for a label": ("plan.json", '{"label": 3}'),
}


def finished(size: int) -> dict[str, Any]:
    return {
        "status": "finished",
        "steps": 20,
        "tokens": 2560,
        "validation": {"loss": 2.0 + 8.0 / size},
        "parameters": {"non_embedding": size * size},
        "training_flops": {"exact": 6.0 * size * size * 2560},
    }


@pytest.fixture
def sweep(make_config: Any, tmp_path: Path) -> Path:
    for size in SIZES:
        config = make_config("gru", **{"model.d_model": size})
        place = tmp_path / "s" / run_id(config)
        runs.open_run(place, config)
        disk.write_json(place / "result.json", finished(size))
    return tmp_path / "s"


def damage(place: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(finished(8) | content)
    (place / name).write_text(text)


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_others_are_whole_and_it_is_shown(kind: str, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table.gather([sweep]).set_index("run_id")
    ill = folders.run_folders(sweep)[0]
    damage(ill, *DAMAGES[kind])
    assert main(["runs", str(sweep)]) == 2
    printed = capsys.readouterr()
    assert sum("finished" in line for line in printed.out.splitlines()) == len(SIZES) - 1
    (shown,) = [line for line in printed.out.splitlines() if "damaged" in line]
    assert ill.name in shown
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {ill / DAMAGES[kind][0]}: is damaged")
    after = table.gather([sweep]).set_index("run_id")
    assert after.drop(index=ill.name).equals(before.drop(index=ill.name))
    points = read_points(after.reset_index())
    assert len(points) == len(SIZES) - 1 and [gone.rule for gone in points.left_out] == ["damaged"]


def test_a_law_is_fitted_to_the_others(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folders.run_folders(sweep)[0], "result.json", '{"status": "fini')
    assert main(["fit", str(sweep), "--law", "kaplan-n", "--bootstrap", "0"]) == 0
    assert "left out: 1 x damaged" in capsys.readouterr().out
    assert main(["status", str(sweep)]) == 0
    assert "5 finished, 1 damaged" in capsys.readouterr().out


def test_a_run_without_a_config_is_no_family(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folders.run_folders(sweep)[0], "config.json", "")
    assert main(["fit", str(sweep), "--law", "kaplan-n", "--bootstrap", "0", "--by", "family"]) == 0
    printed = capsys.readouterr()
    assert "== family gru" in printed.out and printed.err == "note: left out: 1 damaged run of unknown family\n"


@pytest.fixture
def rates(make_config: Any, tmp_path: Path) -> list[Path]:
    """Runs of one model at three rates, the best one first."""
    found = []
    for rate, loss in ((3e-3, 3.0), (1e-3, 3.1), (1e-2, 3.2)):
        found.append(put(tmp_path / "s", make_config("gru", **{"optimizer.learning_rate": rate}), loss))
    return found


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_run_that_cannot_be_read_is_missing_from_no_table(
    rates: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    best, sweep = rates[0], rates[0].parent
    with closed(best):
        for place in (sweep, sweep.parent, best):
            assert runs.runs_in(place, 3) == (sorted(rates) if place != best else [best])
            code, out, err = told(capsys, "runs", place, "--columns", "run_id,status")
            assert code == 2 and [best.name, "damaged"] in [line.split() for line in out.splitlines()]
            assert err == f"error: {best}/config.json: cannot be read (Permission denied)\n"
        assert told(capsys, "runs", sweep, "--best")[0] == 2
        assert all("1 damaged" in told(capsys, "status", place)[1] for place in (sweep, sweep.parent))
        assert folders.folders_by_id(sweep).keys() == {path.name for path in rates}
    with closed(sweep):
        assert "1 damaged" in told(capsys, "status", sweep.parent)[1]
    assert told(capsys, "runs", sweep, "--best")[0] == 0


@pytest.mark.parametrize("left", ["result.json", "plan.json", "metrics.jsonl"])
def test_a_run_that_has_lost_its_config_is_missing_from_no_table(
    left: str, rates: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    best, sweep = rates[0], rates[0].parent
    config = runs.read_config(best)
    for name in ("config.json", "result.json"):
        (best / name).unlink()
    (best / left).write_text("{}\n")
    code, out, err = told(capsys, "runs", sweep, "--best", "--columns", "run_id,status")
    assert code == 2 and rates[1].name in out
    assert err.startswith(f"error: {best}/config.json: is damaged (it is missing); bring it back from a copy, or move ")
    assert "2 finished, 1 damaged" in told(capsys, "status", sweep)[1]
    with pytest.raises(UserError, match="it is missing"):
        runs.open_run(best, config)


def test_what_is_in_a_run_is_no_run(rates: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """`seqjax export --to hf` writes a config.json of its own."""
    place = rates[0].parent.parent
    before = told(capsys, "runs", place), told(capsys, "status", place)
    (rates[0] / "hf").mkdir()
    (rates[0] / "hf" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert (told(capsys, "runs", place), told(capsys, "status", place)) == before
    assert [run["name"] for run in Watched(place).since(0)["runs"]] == [f"s/{path.name}" for path in sorted(rates)]


def test_a_folder_is_found_by_its_name_where_its_config_is_damaged(sweep: Path) -> None:
    ill = folders.run_folders(sweep)[0]
    (ill / "config.json").write_text("")
    assert folders.folders_by_id(sweep)[ill.name] == ill and len(folders.folders_by_id(sweep)) == len(SIZES)


def test_lines_of_other_types_are_no_lines(tmp_path: Path) -> None:
    lines = ['{"step": true, "loss": 1.0}', '{"step": 5, "validation_loss": "low"}', '{"step": 5, "loss": 2.0}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert runs.read_metrics(tmp_path) == [{"step": 5, "loss": 2.0}]
