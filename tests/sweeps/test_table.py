"""The run table and the states of runs, from folders alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqjax import runs
from seqjax.cli import main
from seqjax.config import Config, dotted, run_id, to_dict
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.wording import duration, si
from seqjax.sweeps import folder as folders
from seqjax.sweeps import table
from seqjax.sweeps.columns import SHOWN
from seqjax.sweeps.grid import Planned
from seqjax.sweeps.programs import Unit, keep_plan
from seqjax.training.loop import train_bundle


def call(*words: object) -> int:
    return main([str(word) for word in words])


def made_up(loss: float = 3.0, **changes: Any) -> dict[str, Any]:
    """A result.json as seqjax.training.record writes it."""
    return {
        "status": "finished",
        "steps": 20,
        "validation": {"loss": loss, "loss_se": 0.01, "bits_per_byte": loss / math.log(2)},
        "best": {"step": 10, "validation_loss": loss - 0.1},
        "train_loss": loss + 0.1,
        "tokens": 2560,
        "parameters": {"non_embedding": 1024, "with_readout": 5136, "embedding": 4112, "total": 9505},
        "training_flops": {"kaplan_6nd": 1.5e7, "exact": 1.6e7},
        "hardware": {"device": "cpu", "processor": "abacus"},
        "versions": {"jax": "0.10.2", "seqjax": "0.2"},
        **changes,
    }


def put(folder: Path, config: Config, result: dict[str, Any] | None = None) -> Path:
    place = folder / run_id(config)
    runs.open_run(place, config)
    if result is not None:
        disk.write_json(place / "result.json", {"run_id": run_id(config), **result})
    return place


@pytest.fixture
def all_states(make_config: Any, tmp_path: Path) -> Path:
    """A sweep folder with a run of every state that a folder on its own can be in."""
    folder = tmp_path / "runs" / "mixed"
    put(folder, make_config("lstm"), made_up(3.25))
    put(folder, make_config("gru"), {"status": "diverged", "steps": 7, "train_loss": None, "tokens": 896})
    put(folder, make_config("window"))
    stopped = put(folder, make_config("elman"))
    runs.append_metrics(stopped, {"step": 5, "loss": 5.0})
    failed = put(folder, make_config("transformer"))
    for given_up in (False, False, True):
        folders.add_failure(failed, "killed by SIGKILL", given_up)
    return folder


def test_a_trained_bundle_is_in_the_table_as_its_results_say(make_config: Any, tmp_path: Path) -> None:
    shared = {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0, "train.steps": 10}
    good = make_config("elman", **shared, **{"optimizer.learning_rate": 1e-2})
    ill = make_config("elman", **shared, **{"optimizer.learning_rate": 1e30})
    lanes = [(config, tmp_path / "sweep" / run_id(config)) for config in (good, ill)]
    results = train_bundle(lanes, devices=1, quiet=True)
    found = table.gather([tmp_path / "sweep"]).set_index("run_id")
    row = found.loc[run_id(good)]
    n, v = 2 * 16 * 16, 257  # D H + H H, and the bytes with end of text
    tokens, forward = 10 * 8 * 16, 2 * n + 2 * 16 * v
    assert row[["status", "steps", "tokens", "runs_in_program", "sweep"]].tolist() == [
        "finished",
        10,
        tokens,
        2,
        "sweep",
    ]
    assert row["loss"] == results[0]["validation"]["loss"] == runs.read_result(lanes[0][1])["validation"]["loss"]
    assert 4.0 < row["loss"] < 6.0 and row["loss_se"] == results[0]["validation"]["loss_se"]
    assert row["best_loss"] <= row["loss"] + 1e-6 and row["train_loss"] < math.log(v) + 0.2
    assert (row["params_non_embedding"], row["params_embedding"]) == (n, v * 16)
    assert row["params_total"] == n + 16 + v * 16 + v * 16 + v
    assert (row["flops_per_token"], row["flops_exact"]) == (3 * forward, 3 * forward * tokens)
    assert row["flops_kaplan"] == 6 * n * tokens
    assert row["epochs"] == pytest.approx(tokens / row["unique_tokens"])
    assert (row["optimizer.learning_rate"], row["model.d_model"], row["optimizer.name"]) == (1e-2, 16, "sgd")
    row = found.loc[run_id(ill)]
    assert row["status"] == "diverged" and row["steps"] < 10 and row["tokens"] == row["steps"] * 128
    assert pd.isna(row["loss"]) and pd.isna(row["best_loss"])


def test_nothing_is_missing_in_silence(all_states: Path, make_config: Any) -> None:
    found = table.gather([all_states]).set_index("model.family")
    assert found["status"].to_dict() == {
        "lstm": "finished", "gru": "diverged", "window": "planned", "elman": "stopped", "transformer": "failed"
    }  # fmt: skip
    assert found["steps"].to_dict() == {"lstm": 20, "gru": 7, "window": 0, "elman": 5, "transformer": 0}
    assert found["loss"].dropna().to_dict() == {"lstm": 3.25}
    assert found["failures"].to_dict() == {"lstm": 0, "gru": 0, "window": 0, "elman": 0, "transformer": 3}
    assert found["reason"].dropna().to_dict() == {"transformer": "killed by SIGKILL"}
    assert found.loc["window", "model.window"] == 4 and pd.isna(found.loc["lstm", "model.window"])
    assert set(found["run_id"]) == {run_id(make_config(family)) for family in found.index}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_saved_table_is_the_table(all_states: Path, tmp_path: Path, form: str) -> None:
    here = table.gather([all_states])
    saved = tmp_path / f"saved.{form}"
    saved.write_bytes(table.render(here, form))
    pd.testing.assert_frame_equal(table.gather([saved]), here, check_exact=True)
    again = table.render(table.gather([saved]), form)
    pd.testing.assert_frame_equal(table.gather([saved]), here, check_exact=True)
    assert form == "parquet" or again == saved.read_bytes()


NUMBERS = st.floats(1e-300, 1e300) | st.floats(0.5, 12.0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NUMBERS, min_size=2, max_size=2), st.integers(1, 2**63 - 1))
def test_numbers_come_back_bit_for_bit(make_config: Any, tmp_path: Path, numbers: list[float], tokens: int) -> None:
    for seed, number in enumerate(numbers):
        flops = {"kaplan_6nd": 1e22 * seed, "exact": 1.23e24 * number if number < 1e200 else 0.0}
        put(tmp_path / "s", make_config("lstm", **{"train.seed": seed}),
            made_up(number, training_flops=flops, tokens=tokens, unique_tokens=seed))  # fmt: skip
    here = table.gather([tmp_path / "s"])
    for form in ("csv", "parquet"):
        saved = tmp_path / f"saved.{form}"
        saved.write_bytes(table.render(here, form))
        there = table.gather([saved]).sort_values("train.seed")
        assert there["loss"].tolist() == numbers
        assert there["tokens"].tolist() == [tokens, tokens]
        assert there["flops_kaplan"].tolist() == [0.0, 1e22]
        pd.testing.assert_frame_equal(table.gather([saved]), here, check_exact=True)


def test_types_do_not_depend_on_what_is_in_a_table(all_states: Path, make_config: Any, tmp_path: Path) -> None:
    """One planned run with whole-number rates: nothing in it that would give its types away."""
    put(tmp_path / "other", make_config("lstm", **{"optimizer.learning_rate": 1.0, "data.tokenizer": "bytes"}))
    a, b = table.gather([all_states]), table.gather([tmp_path / "other"])
    assert a.dtypes.to_dict() == b.dtypes.to_dict() == table.gather([all_states, tmp_path / "other"]).dtypes.to_dict()
    saved = tmp_path / "saved.csv"
    saved.write_bytes(table.render(b, "csv"))
    pd.testing.assert_frame_equal(table.gather([saved]), b)


def test_a_run_that_is_there_twice_is_one_row(all_states: Path, make_config: Any, tmp_path: Path) -> None:
    saved = tmp_path / "then.csv"
    saved.write_bytes(table.render(table.gather([all_states]), "csv"))
    assert len(table.gather([all_states, all_states / run_id(make_config("lstm"))])) == 5
    put(all_states, make_config("window"), made_up(2.5))  # since the table was saved, one more has ended
    for places in ([all_states, saved], [saved, all_states]):
        found = table.gather(places).set_index("model.family")
        assert len(found) == 5 and (found.loc["window", "status"], found.loc["window", "loss"]) == ("finished", 2.5)
    other = tmp_path / "runs" / "other"
    put(other, make_config("lstm"))
    both = table.gather([all_states, other])  # the same run in two sweeps is two rows
    assert both["run_id"].tolist().count(run_id(make_config("lstm"))) == 2
    assert set(both["sweep"]) == {"mixed", "other"}


def test_a_table_with_few_columns_is_a_table(all_states: Path, tmp_path: Path) -> None:
    saved = tmp_path / "mine.csv"
    saved.write_text("run_id,status,loss,model.family,data.corpus\nmine,finished,2.5,lstm,123\n")
    found = table.gather([all_states, saved]).set_index("run_id")
    assert found.loc["mine", "loss"] == 2.5 and found.loc["mine", "data.corpus"] == "123"
    assert pd.isna(found.loc["mine", "tokens"]) and len(found) == 6
    assert b"mine" in table.render(table.gather([saved]), "table")


NOT_TABLES = {
    "foreign column": ("t.csv", b"run_id,status,losss\na,b,3\n", "the column 'losss' is not one of", "mean 'loss'?"),
    "column twice": ("t.csv", b"run_id,status,loss,loss\na,b,3,4\n", "the column 'loss' is there 2 times"),
    "no run ids": ("t.csv", b"status,loss\na,3\n", "has no column 'run_id', so it is not a run table"),
    "no status": ("t.csv", b"run_id,loss\na,3\n", "has no column 'status', so it is not a run table"),
    "text for loss": ("t.csv", b"run_id,status,loss\na,b,often\n", "the column 'loss' cannot be read as float64"),
    "half a seed": ("t.csv", b"run_id,status,train.seed\na,b,0.5\n", "the column 'train.seed' cannot be read as int64"),
    "empty": ("t.csv", b"", "cannot be read as a run table: No columns"),
    "not text": ("t.csv", b"\xff\xfe\x00", "cannot be read as a run table: "),
    "torn": ("t.csv", b'run_id,status\n"a,b\n', "cannot be read as a run table: "),
    "not parquet": ("t.parquet", b"run_id,status\na,b\n", "cannot be read as a run table: "),
    "a book": ("t.txt", b"run_id", "not a run table: expected a name that ends in .csv or .parquet"),
}


@pytest.mark.parametrize("name", NOT_TABLES)
def test_what_is_no_run_table_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    file, content, *fragments = NOT_TABLES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as caught:
        table.gather([tmp_path / file])
    assert str(caught.value).startswith(f"{tmp_path / file}: ") and "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_every_column_is_documented_and_filled(all_states: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = table.row_of(next(all_states.glob("lstm-*")))
    assert list(row)[: len(table.COLUMNS)] == list(table.COLUMNS)
    assert set(row) <= set(table.all_columns())
    assert {*table.TEXTS, *table.COUNTS, *SHOWN} <= set(table.all_columns())
    for key, _ in dotted(to_dict(runs.read_config(next(all_states.glob("lstm-*"))))):
        assert key in table.all_columns()
    assert call("runs", "--columns") == 0
    out = capsys.readouterr().out
    for name, meaning in table.COLUMNS.items():
        assert meaning and f"{name} " in out and meaning in out


def test_runs_of_a_halved_bundle_say_so(make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four lanes halved twice; one had ended before, in the program that was planned."""
    made = [Planned(make_config("lstm", **{"train.seed": seed}), {"train.seed": seed}) for seed in range(4)]
    for run in made:
        put(tmp_path / "s", run.config)
    keep_plan(Unit(tuple(made), 1, None, 0), tmp_path / "s")
    assert table.gather([tmp_path / "s"])["halved_from"].isna().all()
    keep_plan(Unit(tuple(made[:2]), 1, None, 0), tmp_path / "s", halved_from=4)
    keep_plan(Unit(tuple(made[:2]), 1, None, 0), tmp_path / "s")  # a restart plans it once more
    keep_plan(Unit(tuple(made[2:3]), 1, None, 0), tmp_path / "s", halved_from=4)
    keep_plan(Unit(tuple(made[2:3]), 1, None, 0), tmp_path / "s", halved_from=2)
    for run, lanes in zip(made, (2, 4, 1, 4), strict=True):
        put(tmp_path / "s", run.config, made_up(runs_in_program=lanes))
    found = table.gather([tmp_path / "s"]).set_index("train.seed")["halved_from"]
    assert found.fillna(0).to_dict() == {0: 4, 1: 0, 2: 4, 3: 0}
    assert call("runs", tmp_path / "s") == 0
    assert capsys.readouterr().err.startswith("note: 2 runs of bundles that died, trained in other programs")


def test_a_run_that_went_on_elsewhere_says_what_took_its_steps(make_config: Any, tmp_path: Path) -> None:
    then, now = ({"seqjax": "1.0", "jax": jax, "device": device} for jax, device in (("0.10.2", "a"), ("0.11.0", "b")))
    put(tmp_path / "s", make_config("lstm"), made_up(made_by=[{"from_step": 0, **then}, {"from_step": 40, **now}]))
    put(tmp_path / "s", make_config("gru"), made_up())
    table.gather([tmp_path / "s"]).to_csv(tmp_path / "t.csv", index=False)
    for found in (table.gather([tmp_path / "s"]), table.read_table(tmp_path / "t.csv")):
        makers = found.set_index("model.family")["made_by"]
        assert makers["lstm"] == "0: jax 0.10.2 device a; 40: jax 0.11.0 device b" and pd.isna(makers["gru"])


# The commands


def test_runs_prints_the_table_by_family_size_and_loss(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for loss, seed in ((3.5, 0), (2.25, 1), (9.0, 2)):
        put(tmp_path / "s", make_config("lstm", **{"train.seed": seed}), made_up(loss))
    big = made_up(1.0, parameters={"non_embedding": 65536}, tokens=999_936, training_flops={"exact": 1e22})
    put(tmp_path / "s", make_config("lstm", **{"train.seed": 3}), big)
    put(tmp_path / "s", make_config("gru"))
    assert call("runs", tmp_path / "s") == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == "run status N tokens rate seed nats/token ±".split()
    assert [line.split()[-2] for line in lines] == ["-", "2.2500", "3.5000", "9.0000", "1.0000"]
    assert lines[0].split()[1] == "planned"
    assert "65.5 k" in lines[-1] and "1 M" in lines[-1]
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 80
    assert call("runs", tmp_path / "s", "--output", tmp_path / "table.txt", "--format", "table") == 0
    heading, *lines = (tmp_path / "table.txt").read_text().splitlines()  # a file has room
    assert heading.split() == "run status N tokens FLOP rate seed nats/token ± bits/byte".split()
    assert "10 Z" in lines[-1]


def test_runs_writes_what_it_is_told_to(
    all_states: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert call("runs", all_states, "--format", "csv") == 0
    csv = capsysbinary.readouterr().out
    assert csv.splitlines()[0].decode().split(",") == list(table.all_columns()) and len(csv.splitlines()) == 6
    for name, words in (
        ("a.csv", ()),
        ("b.parquet", ()),
        ("c.dat", ("--format", "csv")),
        ("d.txt", ("--format", "table")),
    ):
        assert call("runs", all_states, "--output", tmp_path / name, *words) == 0
    assert capsysbinary.readouterr().out == b""
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "c.dat").read_bytes() == csv
    assert (tmp_path / "b.parquet").read_bytes()[:4] == b"PAR1"
    assert (tmp_path / "d.txt").read_text().startswith("run ")
    assert call("runs", tmp_path / "a.csv", tmp_path / "b.parquet", "--format", "csv") == 0
    assert capsysbinary.readouterr().out == csv


MISTAKES = [
    (("runs",), "expected at least one DIR"),
    (("runs", "absent"), "absent: there is no such folder"),
    (("runs", "absent.csv"), "absent.csv: there is no such folder"),
    (("runs", "empty"), "empty: has no run folders in it"),
    (("runs", "SWEEP", "--output", "absent/t.csv"), "command line: --output absent/t.csv: No such file or directory"),
    (("runs", "SWEEP", "--output", "file/t.csv"), "command line: --output file/t.csv: Not a directory"),
    (("runs", "SWEEP", "--output", "t.json"), "--output t.json: say --format csv, parquet or table"),
    (("runs", "SWEEP", "--loss"), "--loss: unknown option"),
    (("status", "absent"), "absent: there is no such folder"),
    (("status", "file"), "file: is not a folder"),
    (("status", "empty"), "empty: has no run folders in it"),
]


@pytest.mark.parametrize(("words", "fragment"), MISTAKES, ids=lambda part: part if isinstance(part, str) else None)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: tuple[str, ...], fragment: str, all_states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert call(*[all_states if word == "SWEEP" else word for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and fragment in line
    assert sorted(tmp_path.rglob("*")) == before


def test_parquet_is_not_for_a_terminal(
    all_states: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert call("runs", all_states, "--format", "parquet") == 2
    assert "name a file with --output" in capsys.readouterr().err


def test_status_tells_what_is_not_as_it_should_be(all_states: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("status", all_states) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "5 runs: 1 finished, 1 diverged, 1 stopped, 1 planned, 1 failed"
    assert [line.split()[0] for line in lines] == ["diverged", "stopped", "failed", "died", "best"]
    assert "step 7 of 20" in lines[0] and "step 5 of 20" in lines[1]
    assert lines[3].strip() == "died 3 times, last: killed by SIGKILL"
    assert call("status", all_states, "--json") == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["failed"]["failures"] == 3 and entries["failed"]["reason"] == "killed by SIGKILL"
    assert (entries["stopped"]["step"], entries["stopped"]["steps"], entries["stopped"]["slurm"]) == (5, 20, None)
    assert call("status", next(all_states.glob("elman-*"))) == 0
    assert capsys.readouterr().out.startswith("1 run: 1 stopped")


# States


def test_a_run_goes_through_its_states(make_config: Any, tmp_path: Path) -> None:
    run = put(tmp_path / "s", make_config("lstm"))

    def state() -> tuple[str, int, int]:
        found = folders.state(run)
        return found.name, found.step, found.failures

    assert state() == ("planned", 0, 0)
    with runs.lock(run):
        assert state() == ("running", 0, 0)
        runs.append_metrics(run, {"step": 5, "loss": 5.0})
        runs.append_metrics(run, {"step": 10, "loss": 4.0})
        assert state() == ("running", 10, 0)
    assert state() == ("stopped", 10, 0)
    folders.add_failure(run, "killed by SIGKILL", given_up=False)
    assert state() == ("stopped", 10, 1)
    folders.add_failure(run, "killed by SIGKILL", given_up=True)
    assert state() == ("failed", 10, 2)
    with runs.lock(run):
        assert state() == ("running", 10, 2)
    disk.write_json(run / "result.json", made_up())
    assert state() == ("finished", 20, 2)
    with runs.lock(run):
        assert state() == ("finished", 20, 2)
    disk.write_json(run / "plan.json", {"label": "a name", "axes": {}, "lanes": [run.name], "threads": 1})
    assert folders.state(run).label == "a name"


def test_checkpoints_alone_are_a_beginning(make_config: Any, tmp_path: Path) -> None:
    run = put(tmp_path / "s", make_config("lstm"))
    assert folders.last_checkpoint(run) == 0
    for step in ("10", "9", "20.orbax-checkpoint-tmp"):
        (run / "checkpoints" / step).mkdir(parents=True)
    assert folders.state(run).name == "stopped"
    assert folders.last_checkpoint(run) == 10


@pytest.mark.parametrize(
    ("content", "step"),
    [
        (b"", 0),
        (b'{"step": 5, "loss": 3.0}\n', 5),
        (b'{"step": 5, "loss": 3.0}\n{"step": 10, "lo', 5),
        (b'{"step": 5, "loss": 3.0}\n{"step": 10, "loss": 3.0}', 5),  # without its newline it is torn
        (b'{"step": 5', 0),
        (b'{"step": 5, "loss": 3.0}\n\x00\x00\x00', 5),
        (b'{"step": 5, "loss": 3.0}\nnonsense\n', 5),
        (b"".join(b'{"step": %d, "loss": 3.0}\n' % step for step in range(1000)), 999),
        (b"".join(b'{"step": %d, "loss": 3.0}\n' % step for step in range(1000)) + b'{"step"', 999),
    ],
)
def test_the_last_whole_line_says_how_far_a_run_is(tmp_path: Path, content: bytes, step: int) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert folders.last_step(tmp_path) == step


def test_a_torn_failure_is_left_out(make_config: Any, tmp_path: Path) -> None:
    run = put(tmp_path / "s", make_config("lstm"))
    folders.add_failure(run, "one", given_up=False)
    with open(run / "failures.jsonl", "a") as file:
        file.write('{"time": "2026-')
    assert (folders.state(run).failures, folders.state(run).reason) == (1, "one")


def test_launchers_know_whether_they_are_alone(tmp_path: Path) -> None:
    with folders.launcher(tmp_path) as one:
        assert folders.is_alone(one)
        with folders.launcher(tmp_path) as two:
            assert not folders.is_alone(one) and not folders.is_alone(two)
        assert folders.is_alone(one)


def test_numbers_as_people_read_them() -> None:
    assert [si(value).strip() for value in (0, 1, 999, 999.9, 1000, 12345, 999_936, 1e15, 1e22, -5e6)] == [
        "0", "1", "999", "1 k", "1 k", "12.3 k", "1 M", "1 P", "10 Z", "-5 M"
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (0, 59.4, 59.6, 3599.6, 7620, 100 * 3600)] == [
        "0s", "59s", "1m 00s", "1h 00m", "2h 07m", "100h 00m"
    ]  # fmt: skip
