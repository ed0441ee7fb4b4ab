"""The best rate as a law of N and D: made-up sweeps give it back, and optima at an edge are left out and told."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.laws import optima as optima_module
from seqjax.laws.optima import optima
from seqjax.laws.run_columns import RATE

K, A, B = 1.79, -0.713, 0.307  # Li et al. 2025
RATES = np.geomspace(3e-5, 0.3, 17)


def sweep(noise: float, seed: int, rates: np.ndarray = RATES) -> tuple[np.ndarray, ...]:
    """4 sizes, 3 budgets, all rates: N, D, x, loss, whose optimum lies on the law but for noise of a third of it."""
    rng = np.random.default_rng(seed)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 3)))
    best = K * n**A * d**B * np.exp(noise * rng.standard_normal(len(n)))
    loss = 2 + (1e8 / n) ** 0.3 + 0.02 * (np.log(rates[:, None] / best)) ** 2
    everywhere = np.ones((len(rates), 1))
    return tuple(x.ravel() for x in (n * everywhere, d * everywhere, rates[:, None] + 0 * n, loss))


def test_without_noise_the_law_comes_back() -> None:
    found = optima(*sweep(0.0, 0), bootstrap=0)
    np.testing.assert_allclose(list(found.fit.constants.values()), [K, A, B], rtol=1e-6)
    assert not any(one.problem for one in found.found) and len(found.found) == 12


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """150 tables with noise of 20 % in the optima: intervals of 95 % hold the truth in 90 to 99.5 %."""
    monkeypatch.setattr(optima_module, "fit", partial(optima_module.fit, diagnose=False))  # most of the time is that
    truth = np.array([K, A, B])
    held = []
    for seed in range(150):
        ends = np.array(list(optima(*sweep(0.2, seed), bootstrap=100, seed=seed).fit.intervals.values()))
        held.append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert 0.90 <= np.mean(held) <= 0.995
    assert (np.mean(held, axis=0) >= 0.87).all()


def test_an_optimum_at_the_edge_is_left_out_and_told() -> None:
    n, d, x, loss = sweep(0.0, 0)
    gone = (n == n.max()) & (x < 1e-3)  # the best rates of the largest size are below that
    found = optima(n[~gone], d[~gone], x[~gone], loss[~gone], bootstrap=0)
    lost = [one for one in found.found if one.problem]
    assert lost and {one.params for one in lost} == {n.max()}
    assert (
        found.fit.flags[0] == f"optima: {len(lost)} of 12 are left out: the best value is the smallest that was tried"
    )
    np.testing.assert_allclose(list(found.fit.constants.values()), [K, A, B], rtol=1e-6)
    few = gone | ((n == n.min()) & (d == d.min()) & (x > np.sort(x[(n == n.min()) & (d == d.min())])[1]))
    flag = optima(n[~few], d[~few], x[~few], loss[~few], bootstrap=0).fit.flags[0]
    assert flag.endswith(
        f"left out: {len(lost)} x the best value is the smallest that was tried; 1 x fewer than 3 values were tried"
    )


def test_one_budget_gives_a_law_of_n_alone_and_two_rates_none() -> None:
    n, d, x, loss = sweep(0.0, 0)
    one = d == d.min()
    found = optima(n[one], d[one], x[one], loss[one], bootstrap=0)
    assert found.fit.law.equation == "x = k N^a" and abs(found.fit.constants["a"] - A) < 1e-6
    with pytest.raises(UserError, match=r"0 of 12 sizes and budgets .* fewer than 3 values were tried"):
        optima(*sweep(0.0, 0, RATES[:2]))


@pytest.mark.parametrize(("of", "other"), [("rate", "train.context_length"), ("batch", "optimizer.learning_rate")])
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(
    of: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run of each N, D and x with 1 nat more: with another context, or at a worse rate of the same batch."""
    n, d, x, loss = sweep(0.0, 0)
    column = {"rate": "optimizer.learning_rate", "batch": "train.batch_size"}[of]
    table = pd.DataFrame({"params": n, "tokens": d, column: x, "loss": loss, "status": "finished"})
    both = pd.concat([table.assign(**{other: 8}), table.assign(**{other: 1408, "loss": loss + 1})])
    both.assign(run_id=[f"r{i}" for i in range(len(both))]).to_csv(tmp_path / "t.csv", index=False)
    words = ["optima", str(tmp_path / "t.csv"), "--of", of, "--bootstrap", "0"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count(", loss ") == (24 if of == "rate" else 12)
    assert "a = -0.7130" in printed and ("several contexts in one fit: 8, 1408" in printed) == (of == "rate")
    assert main([*words, "--where", f"`{other}` == 8"]) == 0
    assert all(line in printed for line in capsys.readouterr().out.splitlines() if ", loss " in line)


def test_values_are_compared_on_the_seeds_that_all_have() -> None:
    n, d, x, loss = sweep(0.0, 0)
    further = (x > 1e-3) & (x < 2e-3)
    columns = [np.concatenate([column, column[further]]) for column in (n, d, x, loss)]
    columns[3][len(n) :] -= 1.0
    found = optima(*columns, bootstrap=0, run_seed=[0] * len(n) + [1] * further.sum())
    np.testing.assert_allclose(list(found.fit.constants.values()), [K, A, B], rtol=1e-6)
    columns[3][len(n) :] = np.inf
    assert optima(*columns, bootstrap=0, run_seed=[0] * len(n) + [1] * further.sum()).found == found.found


def run_table(diverge: str, column: str) -> pd.DataFrame:
    """Runs of two seeds, and of two rates if the column is another, the second one worse. Those for which the
    expression is true diverged half-way."""
    n, d, x, loss = sweep(0.0, 0)
    table = pd.DataFrame({"params": n, "tokens": d, column: x, "loss": loss, "status": "finished", "steps": 10})
    if column != RATE:
        table = pd.concat([table.assign(**{RATE: 1e-3}), table.assign(**{RATE: 1e-2, "loss": loss + 0.5})])
    table = pd.concat([table.assign(**{"train.seed": seed}) for seed in (0, 1)], ignore_index=True)
    table = table.assign(**{"run_id": [f"r{i}" for i in range(len(table))], "train.steps": 10, "x": table[column]})
    table["model.d_model"], table["optimizer.decay"] = table["params"], table["tokens"]
    lost = table.eval(diverge)
    changes = {"loss": np.nan, "status": "diverged", "steps": 5, "tokens": table["tokens"] / 2}
    return table.assign(**{name: table[name].mask(lost, value) for name, value in changes.items()})


@pytest.mark.parametrize("of", ["rate", "batch"])
def test_values_at_which_a_run_diverged_are_told_from_an_edge(
    of: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(diverge: str, kept: str = "x > 0") -> str:
        table = run_table(diverge, {"rate": RATE, "batch": "train.batch_size"}[of])
        table.query(kept).to_csv(tmp_path / "t.csv", index=False)
        assert main(["optima", str(tmp_path / "t.csv"), "--of", of, "--bootstrap", "0"]) == 0
        return capsys.readouterr().out

    whole = printed("x < 0")
    assert whole.count("left out") == 0 and "a = -0.7130" in whole
    assert printed("x > 0.05 and params > 5e8") == whole
    both, one = printed("x > 3e-3 and params > 5e8"), printed("x > 3e-3 and params > 5e8 and `train.seed` == 0")
    assert "1 of 12 are left out: the best value is the largest that finished; larger ones diverged" in both
    assert one == both  # the other seed counts for nothing
    assert "3 of 12 are left out: the best value is the smallest that finished; smaller ones" in printed("x < 6e-4")
    assert "3 of 12 are left out: a run of every value diverged" in printed("params < 2e7")
    assert "3 of 12 are left out: fewer than 3 values finished" in printed("params < 2e7 and x < 0.1")
    further = "`train.seed` == 1", "`train.seed` == 0 or 1e-3 < x < 2e-3 and `optimizer.learning_rate` < 2e-3"
    assert printed(*further) == whole
    if of == "batch":
        assert printed(f"x > 3e-3 and `{RATE}` > 2e-3") == whole  # at the worse rate alone


@pytest.mark.parametrize(
    ("column", "place", "value", "words"),
    [
        ("lr", 3, "high", "column 'lr', line 5: 'high' is not a number"),
        ("loss", 1, None, "column 'loss', line 3: is empty; leave such rows out"),
        ("D", 0, -1.0, "column 'D', line 2: -1.0 is not a positive number"),
    ],
)
def test_a_cell_that_is_no_number_is_named(
    column: str, place: int, value: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame(dict(zip(("N", "D", "lr", "loss"), sweep(0.0, 0), strict=True))).astype({column: object})
    table.loc[place, column] = value
    table.to_csv(tmp_path / "t.csv", index=False)
    assert main(["optima", str(tmp_path / "t.csv"), "--params", "N", "--tokens", "D", "--of", "lr"]) == 2
    assert f"{tmp_path / 't.csv'}: {words}" in capsys.readouterr().err


def test_the_command_reads_any_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame(dict(zip(("N", "D", "lr", "loss"), sweep(0.0, 0), strict=True))).to_csv(
        tmp_path / "t.csv", index=False
    )
    words = ["optima", str(tmp_path / "t.csv"), "--params", "N", "--tokens", "D", "--bootstrap", "0", "--of"]
    assert main([*words, "lr"]) == 0
    printed = capsys.readouterr().out
    assert "lr: x = k N^a D^b" in printed and "a = -0.7130" in printed and printed.count("lr = ") == 12
    assert main([*words, "lrr"]) == 2
    assert "--of lrr: there is no such column; there are N, D, lr, loss; did you mean 'lr'?" in capsys.readouterr().err
    assert main(["optima", str(tmp_path / "t.csv")]) == 2
    assert "--params params: there is no such column; there are N, D" in capsys.readouterr().err
    pd.read_csv(tmp_path / "t.csv").rename(columns={"N": "params", "D": "tokens", "lr": "rate"}).to_csv(
        tmp_path / "t.csv", index=False
    )
    assert main(["optima", str(tmp_path / "t.csv"), "--bootstrap", "0"]) == 0
    assert "rate: x = k N^a D^b" in capsys.readouterr().out
