"""`seqjax status` and `seqjax runs` of a folder of sweeps, and the rows and columns that are asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from finished_run import put, put_diverged

from seqjax import runs
from seqjax.cli import main
from seqjax.commands.status import shortened
from seqjax.config import PLACED, run_id
from seqjax.laws.run_columns import PLACES
from seqjax.sweeps import columns
from seqjax.sweeps.aligned import aligned_within
from seqjax.sweeps.overview import Overview, describe


@pytest.fixture
def place(make_config: Any, tmp_path: Path) -> Path:
    """Two sweeps: one with three rates of an LSTM, of which the second is best, and one with a GRU and what runs."""
    for rate, loss in ((1e-3, 3.3), (3e-3, 3.1), (1e-2, 3.2)):
        put(tmp_path / "a", make_config("lstm", **{"optimizer.learning_rate": rate}), loss)
    put(tmp_path / "b", make_config("gru"), 3.0)
    waiting = make_config("elman")
    runs.open_run(tmp_path / "b" / run_id(waiting), waiting)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> list[list[str]]:
    assert main([str(word) for word in words]) == code
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_folder_of_sweeps_has_a_line_each(place: Path, make_config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    training = make_config("window")
    runs.open_run(place / "b" / run_id(training), training)
    runs.append_metrics(place / "b" / run_id(training), {"step": 10, "tokens": 100, "loss": 5.0, "seconds": 5.0})
    with runs.lock(place / "b" / run_id(training)):
        _, first, second = told(capsys, "status", place)
    assert first == ["a", "3", "3", "-", "-", "lstm", "3.100", "-", "-"]
    assert second == ["b", "3", "1", "1", "1", "planned", "gru", "3.000", "20", "/s", "5s"]  # 10 steps of 0.5 s left
    assert main(["status", str(place), "--json"]) == 0
    assert [(run["sweep"], run["name"]) for run in json.loads(capsys.readouterr().out)][:3] == [("a", "finished")] * 3
    of_one = told(capsys, "status", place / "a")
    assert of_one[0][:2] == ["3", "runs:"] and of_one[-1][:2] == ["best", "loss:"]
    assert main(["status", str(place), "--watch"]) == 2
    assert "--watch: is for a terminal" in capsys.readouterr().err


def test_the_best_losses_of_many_families_stand_below_their_sweep() -> None:
    families = ("elman", "gru", "lstm", "mingru", "minlstm", "transformer")
    found = [Overview(name, Counter(finished=3), dict.fromkeys(families, 2.5), 1e4, 60.0) for name in ("a", "b")]
    assert describe(found, 200).splitlines()[0].split()[5:7] == ["best", "loss"]
    heading, first, *losses = describe(found, 80).splitlines()[:4]
    assert heading.split() == ["sweep", "runs", "done", "running", "other", "rate", "left"] and first.split()[0] == "a"
    assert " ".join(" ".join(losses).split()) == "best loss: " + ", ".join(f"{family} 2.500" for family in families)
    assert max(map(len, describe(found, 80).splitlines())) <= 80


def test_a_watched_text_is_no_longer_than_the_terminal() -> None:
    assert shortened("a\nb\nc", 3) == "a\nb\nc"
    assert shortened("a\nb\nc\nd", 3) == "a\nb\nand 2 more lines"


def test_rows_and_columns_are_chosen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(told(capsys, "runs", place)) == 1 + 5
    rows = told(capsys, "runs", place, "--best", "--sort", "loss", "--columns", "family,loss,optimizer.learning_rate")
    assert rows == [["family", "loss", "learning_rate"], ["gru", "3.0000", "0.01"], ["lstm", "3.1000", "0.003"]]
    rows = told(capsys, "runs", place, "--where", 'family == "lstm"', "--sort", "optimizer.learning_rate")
    assert [row[8] for row in rows[1:]] == ["3.3000", "3.1000", "3.2000"]
    assert told(capsys, "runs", place / "a", "--columns", "loss", "--format", "csv")[0] == ["loss"]
    for words, said in (
        (["--sort", "los"], "--sort los: there is no such column; did you mean 'loss'?"),
        (["--columns", "family,lss"], "--columns lss: there is no such column"),
        (["--where", 'family == "gpt"'], "is true for no row"),
        (["--where", "status == 'planned'", "--best"], "--best: no run has finished"),
    ):
        assert main(["runs", str(place), *words]) == 2
        assert said in capsys.readouterr().err


@pytest.fixture(params=["without pandas", "by the run table"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs` lists runs that are alike from their files, and others by the run table."""
    if request.param == "by the run table":
        monkeypatch.setattr(columns, "listed", lambda *_, **__: None)


@pytest.mark.usefixtures("both_ways")
def test_runs_with_less_memory_are_of_the_same_model(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search may go on with other values of train.remat and train.mesh."""
    assert PLACES == PLACED
    for rate, loss, remat in ((1e-3, 3.1, False), (3e-3, 2.9, True), (1e-2, 3.0, True)):
        options = {"optimizer.learning_rate": rate, "train.remat": remat}
        put(tmp_path, make_config("lstm", **options), loss)
    assert told(capsys, "runs", tmp_path, "--best", "--columns", "loss")[1:] == [["2.9000"]]


@pytest.mark.usefixtures("both_ways")
def test_the_best_rate_is_one_at_which_no_seed_diverged(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(rate: float, seed: int) -> Any:
        return make_config("lstm", **{"optimizer.learning_rate": rate, "train.seed": seed})

    for rate, seed, loss in ((1e-3, 0, 3.1), (1e-3, 1, 3.2), (3e-3, 0, 2.5)):
        put(tmp_path, config(rate, seed), loss)
    put_diverged(tmp_path, config(3e-3, 1))
    asked = ("runs", tmp_path, "--best", "--columns", "loss,optimizer.learning_rate")
    assert sorted(told(capsys, *asked)[1:]) == [["3.1000", "0.001"], ["3.2000", "0.001"]]
    put_diverged(tmp_path, config(1e-3, 2))
    assert len(told(capsys, *asked)) == 3  # a further seed at the chosen rate
    put_diverged(tmp_path, config(3e-3, 2))
    assert main([str(word) for word in asked]) == 2
    assert "--best: no run has finished, or a run of every learning rate has diverged" in capsys.readouterr().err


def test_losses_that_cannot_be_compared_are_neither_best_nor_in_order_without_a_word(
    place: Path, make_config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, batching, loss in (("a", "streams", 2.9), ("c", "streams", 2.8)):
        put(place / path, make_config("lstm", **{"data.batching": batching}), loss)
    _, a, _, c = told(capsys, "status", place)
    assert a[-5:-2] == ["-", "(several", "data.batching)"] and c[-4:-2] == ["lstm", "2.800"]

    assert main(["runs", str(place), "--sort", "loss"]) == 0
    said = capsys.readouterr()
    assert "note: in the order of loss, which cannot be compared: several data.batching" in said.err
    heading, first = (line.split() for line in said.out.splitlines()[:2])
    assert heading[:3] == ["run", "batching", "status"] and first[1:3] == ["streams", "finished"]
    assert main(["runs", str(place), "--sort", "loss", "--where", "`data.batching` == 'windows'"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "batching" not in said.out


def test_columns_leave_in_their_order_until_the_others_fit() -> None:
    rows = [("model", "N", "T", "time"), ("lstm", "10", "64", "5s")]
    whole, none = aligned_within(rows, 20, ("T", "N"))
    assert none == [] and whole.splitlines() == ["model   N   T  time", "lstm   10  64    5s"]
    assert aligned_within(rows, 18, ("T", "N")) == ("model   N  time\nlstm   10    5s", ["T"])
    assert aligned_within(rows, 11, ("T", "N")) == ("model  time\nlstm     5s", ["T", "N"])


def test_runs_are_listed_from_their_files_as_from_the_whole_table(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (
        [],
        ["--sort", "loss"],
        ["--columns", "label,model.d_model,seconds,optimizer.learning_rate"],
        ["--best"],
        ["--best", "--where", 'family == "lstm"', "--columns", "family,loss"],
        ["--where", "`optimizer.learning_rate` > 2e-3 and loss > 2 and status != 'planned'"],
        ["--where", "`model.window` != 3"],  # only some families have it, and the whole table has all fields
        ["--where", "kind == 'lstm'", "--best"],
    )
    listed = [told(capsys, "runs", place, *words, code=2 * ("window" in str(words))) for words in asked]
    monkeypatch.setattr(columns, "listed", lambda *_, **__: None)
    assert [told(capsys, "runs", place, *words, code=2 * ("window" in str(words))) for words in asked] == listed


def test_runs_that_were_written_with_other_fields_are_not_compared_from_their_files(place: Path) -> None:
    assert columns.listed([place / "a"], ["loss"], alike=True) is not None
    file = next((place / "a").glob("*/config.json"))
    saved = json.loads(file.read_text())
    del saved["train"]["remat"]  # as by a version without it
    file.write_text(json.dumps(saved))
    assert columns.listed([place / "a"], ["loss"], alike=True) is None


def test_states_and_runs_are_told_without_jax_and_pandas(place: Path) -> None:
    best = ["--best", "--columns", "family,loss"]
    for words, others in (
        (["status", str(place)], ("jax", "pandas")),
        (["status", str(place / "a")], ("jax", "pandas")),
        (["runs", str(place), "--sort", "loss"], ("jax", "pandas")),
        (["runs", str(place), *best], ("jax", "pandas")),
        (["runs", str(place), *best, "--where", 'family == "lstm"'], ("jax",)),
    ):
        program = (
            f"import sys; from seqjax.cli import main; code = main({words}); "
            f"sys.exit(code or not sys.modules.keys().isdisjoint({others}))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "3" in done.stdout
