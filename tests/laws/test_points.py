"""From any table to points: what is taken, what is left out and why, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from seqjax.errors import UserError
from seqjax.laws.points import Points, make_points, read_points
from seqjax.laws.run_rows import at_best_rates
from seqjax.laws.variables import listed

GOOD = {"Model Size": [1e6, 2e6, 4e6], "Training FLOP": [6e15, 2.4e16, 9.6e16], "loss": [3.1, 2.9, 2.7]}
COLUMNS = {"params": "Model Size", "flops": "Training FLOP"}
NEEDS = ("params", "tokens")


def read(changes: dict | None = None, **options: object) -> Points:
    return read_points(pd.DataFrame(GOOD | (changes or {})), COLUMNS, NEEDS, source="t.csv", **options)


def test_tokens_are_derived_and_it_is_said() -> None:
    points = read()
    np.testing.assert_allclose(points.variables["tokens"], [1e9, 2e9, 4e9])
    assert points.notes == ("tokens are FLOPs / (6 N), from the column 'Training FLOP'",)
    assert points.conventions["tokens"] == "FLOPs / (6 N)"


def test_large_products_do_not_overflow() -> None:
    """6 N D of 1e12 parameters and 1e13 tokens is 6e25; int64 ends at 9.2e18."""
    points = make_points([2.0, 1.9], params=np.array([10**12, 2 * 10**12]), tokens=np.array([10**13, 10**13]))
    np.testing.assert_allclose(points.variables["flops"], [6e25, 12e25])
    assert points.variables["flops"].dtype == np.float64


MISTAKES = {
    "no such column": ({}, {"params": "Model size"}, "there is no column 'Model size'; did you mean 'Model Size'"),
    "text": ({"loss": [3.1, "n/a", 2.7]}, {}, "column 'loss', row 2: 'n/a' is not a number"),
    "nan": ({"loss": [3.1, np.nan, 2.7]}, {}, "column 'loss', row 2: is empty"),
    "zero loss": ({"loss": [3.1, 0.0, 2.7]}, {}, "column 'loss', row 2: 0.0 is not a positive number"),
    "infinite": ({"loss": [3.1, 2.9, np.inf]}, {}, "column 'loss', row 3: inf is not a positive number"),
    "negative size": ({"Model Size": [1e6, -2e6, 4e6]}, {}, "column 'Model Size', row 2: -2000000.0 is not"),
    "overflowed": (
        {"Training FLOP": [6, -9223372036854775808, 9]}, {}, "column 'Training FLOP', row 2.*did an integer overflow",
    ),
    "the same run twice": (
        {"Model Size": [1e6, 1e6, 4e6], "Training FLOP": [6e15, 6e15, 1e17], "loss": [3.1, 3.1, 2.7]}, {},
        "row 2 is row 1 once more",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_column_and_row(name: str) -> None:
    changes, columns, words = MISTAKES[name]
    with pytest.raises(UserError, match=words):
        read_points(pd.DataFrame(GOOD | changes), COLUMNS | columns, NEEDS, source="t.csv")


def test_a_missing_variable_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"t.csv: needs params and tokens: name the column \(--params COLUMN\)"):
        read_points(pd.DataFrame({"loss": [3.0], "size": [1e6]}), {}, NEEDS, source="t.csv")
    with pytest.raises(UserError, match=r"there is no column 'loss'"):
        read_points(pd.DataFrame({"N": [3.0]}), {"params": "N"}, ("params",), source="t.csv")


def test_rows_are_left_out_by_rules_that_are_kept() -> None:
    points = read(where="`Model Size` > 1e6")
    assert len(points) == 2 and [(g.row, g.rule) for g in points.left_out] == [("row 1", "not `Model Size` > 1e6")]
    points = read(drop_highest=1)
    assert points.rows == ("row 2", "row 3") and points.left_out[0].rule == "one of the 1 highest losses"
    for where, words in (("size > 1", "size"), ("`Model Size` * 2", "not true or false"), ("loss > 9", "no row")):
        with pytest.raises(UserError, match=words):
            read(where=where)
    with pytest.raises(UserError, match="cannot leave out the 3 highest"):
        read(drop_highest=3)


def run_table() -> pd.DataFrame:
    rows = []
    for width, best in ((16, 1e-2), (32, 3e-3), (64, 1e-3)):
        for rate in (1e-3, 3e-3, 1e-2):
            for seed in (0, 1):
                off = abs(np.log(rate / best))
                rows.append(
                    {"run_id": f"r{len(rows)}", "label": f"w{width} at {rate}", "status": "finished",
                     "loss": 3 - np.log(width) / 10 + off / 10 + seed / 1000,
                     "params_non_embedding": 8 * width**2, "params_total": 8 * width**2 + 512 * width,
                     "tokens": 1_000_000, "flops_exact": 1e9 * width, "model.d_model": width,
                     "optimizer.learning_rate": rate, "train.seed": seed}
                )  # fmt: skip
    rows.append(rows[-1] | {"run_id": "dead", "status": "diverged", "loss": np.nan})
    return pd.DataFrame(rows)


def test_of_a_run_table_the_best_rates_of_finished_runs_are_taken() -> None:
    points = read_points(run_table(), needs=("params", "tokens"))
    assert len(points) == 6  # three sizes, two seeds
    assert np.unique(points.variables["params"]).tolist() == [8 * 16**2, 8 * 32**2, 8 * 64**2]
    rules = {g.rule for g in points.left_out}
    assert "diverged" in rules and "another learning rate is better" in rules and len(points.left_out) == 13
    assert points.conventions == {"params": "non-embedding", "tokens": "column 'tokens'", "flops": "exact"}
    assert len(np.unique(points.cluster)) == 3  # seeds stay together
    (note,) = points.notes
    assert "edge of its sweep for 2 models, w16 at 0.01, w64 at 0.001:" in note


def test_the_survivors_of_a_rate_at_which_another_seed_diverged_are_no_points() -> None:
    table = run_table()
    died = (table["model.d_model"] == 32) & (table["optimizer.learning_rate"] == 3e-3) & (table["train.seed"] == 1)
    table.loc[died, ["status", "loss", "tokens"]] = ["diverged", np.nan, 1234]
    for found in (at_best_rates(table), table.loc[[int(row.split()[1]) - 1 for row in read_points(table).rows]]):
        chosen = found[found["model.d_model"] == 32]
        assert set(chosen["optimizer.learning_rate"]) == {1e-3} and set(chosen["train.seed"]) == {0, 1}
    table.loc[table["train.seed"] == 1, ["status", "loss"]] = ["diverged", np.nan]
    assert at_best_rates(table).empty
    with pytest.raises(UserError, match=r"no point to fit .*9 x a run of every learning rate has diverged"):
        read_points(table)


def test_runs_of_which_none_has_finished_are_no_points_and_it_is_said_why() -> None:
    table = pd.DataFrame(
        {"run_id": ["a", "b"], "status": ["planned", "failed"], "loss": [None, None], "tokens": [1, 2]}
    )
    with pytest.raises(UserError, match=r"the table: no point to fit \(left out: 1 x planned; 1 x failed\)"):
        read_points(table)


def test_conventions_have_short_names() -> None:
    points = read_points(run_table(), {"params": "total"}, ("params",))
    assert points.conventions["params"] == "total"
    assert points.variables["params"].min() == 8 * 16**2 + 512 * 16


def test_points_of_arrays_check_their_lengths() -> None:
    with pytest.raises(UserError, match="params"):
        make_points([1.0, 2.0], params=[1.0])


def test_clusters_by_column() -> None:
    table = pd.DataFrame(GOOD | {"run": ["a", "a", "b"]})
    points = read_points(table, COLUMNS, NEEDS, cluster="run")
    assert points.cluster.tolist() == [0, 0, 1]
    assert json.dumps(points.rows)


def test_an_empty_cluster_is_refused() -> None:
    with pytest.raises(UserError, match="column 'run': is empty in 1 row"):
        read_points(pd.DataFrame(GOOD | {"run": ["a", None, "b"]}), COLUMNS, NEEDS, cluster="run")


def test_columns_that_nobody_asked_for_may_hold_anything() -> None:
    table = pd.DataFrame(GOOD | {"steps": [0, 0, 0], "status": ["COMPLETED"] * 3, "position": ["a", "b", "c"]})
    points = read_points(table, COLUMNS, NEEDS)
    assert len(points) == 3 and "steps" not in points.variables
    with pytest.raises(UserError, match="column 'steps', row 1: 0 is not a positive number"):
        read_points(table, COLUMNS, (*NEEDS, "steps"))


def test_plain_names_are_found() -> None:
    points = read_points(pd.DataFrame({"params": [1e6, 1e7], "flops": [1e15, 1e17], "loss": [3.0, 2.0]}), needs=NEEDS)
    np.testing.assert_allclose(points.variables["tokens"], [1e15 / 6e6, 1e17 / 6e7])


def test_rows_keep_the_numbers_of_their_table() -> None:
    part = pd.DataFrame(GOOD).iloc[1:]
    assert read_points(part, COLUMNS, NEEDS).rows == ("row 2", "row 3")


def test_a_loss_that_is_text_is_told_also_where_rates_are_compared() -> None:
    table = run_table().astype({"loss": object})
    table.loc[3, "loss"] = "n/a"
    with pytest.raises(UserError, match=r"column 'loss', row 4.*'n/a' is not a number"):
        read_points(table, needs=NEEDS)


def test_columns_are_named_in_one_or_two_lines() -> None:
    assert listed(["a", "b"]) == "a, b" and listed(range(14)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"
    assert listed(["x" * 90] * 9) == "x" * 90 + " and 8 more" and listed(["x" * 300]) == "x" * 300
