"""The experiments on Muon, cosines and parts: made-up tables whose answer is known, and slices of what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiment import SWEEPS, load, recorded, trained_as_by_a_user

from seqjax.config import Config, dotted, to_dict
from seqjax.errors import UserError
from seqjax.sweeps.axes import RATE
from seqjax.sweeps.grid import Planned, read_sweep

TOKENS = (1e6, 2e6, 4e6, 8e6)
RATES = {2.5e-3: 1.02, 5e-3: 1.0, 1e-2: 1.01}  # the loss over that at the best


def table(gains: dict[str, float], schedule: str = "wsd") -> pd.DataFrame:
    """L = 20 (gain D)^-0.1, with seeds apart; a rate of each optimizer has a run that diverged half-way."""
    rows: list[dict[str, Any]] = []
    for name, gain in gains.items():
        for tokens in TOKENS:
            for seed in (0, 1, 2):
                shared = {"model.family": "lstm", "optimizer.name": name, "tokens": tokens, "train.seed": seed,
                          "optimizer.schedule": schedule, "train.steps": tokens, "status": "finished"}  # fmt: skip
                own = 20 * (gain * tokens) ** -0.1 * (1 + 1e-3 * seed)
                rows += [shared | {"optimizer.learning_rate": rate, "loss": own * over} for rate, over in RATES.items()]
                rows.append(shared | {"optimizer.learning_rate": 2e-2, "loss": 0.1})
                rows[-1] |= {"status": "diverged", "loss": None, "tokens": tokens / 2} if seed == 1 else {}
    return pd.DataFrame(rows).assign(run_id=[f"r{i}" for i in range(len(rows))])


def test_muon_that_needs_half_the_tokens_is_said_to() -> None:
    found, files = load("muon").analyse(table({"adamw": 1.0, "muon": 2.0}), Path())
    rows = found["found"]["LSTM"]
    assert [row["ratio"] and row["ratio"]["value"] for row in rows] == [*[pytest.approx(2)] * 3, None]
    assert all(row["adamw"]["rate"] == 5e-3 and not row["adamw"]["edge"] and row["change"]["high"] < 0 for row in rows)
    assert files["muon.md"].count("2.00 (2.00 to 2.00) times") == 3 and files["muon.md"].count("outside") == 1


def test_a_best_rate_at_an_edge_is_named() -> None:
    rows = table({"adamw": 1.0, "muon": 2.0})
    rows = rows[(rows["optimizer.learning_rate"] > 3e-3) | (rows["optimizer.name"] != "muon")]
    text = load("muon").analyse(rows, Path())[1]["muon.md"]
    assert text.count("best rate at the edge: muon") == len(TOKENS)


def test_seeds_that_one_optimizer_lacks_are_not_in_the_change() -> None:
    module, rows = load("muon"), table({"adamw": 1.0, "muon": 2.0})
    is_muon, all_rows = rows["optimizer.name"] == "muon", module.analyse(rows, Path())[0]["found"]["LSTM"]
    found, files = module.analyse(
        rows[~(is_muon & (rows["train.seed"] == 0))].sort_values("train.seed", ascending=False), Path()
    )
    for row, of_all in zip(found["found"]["LSTM"], all_rows, strict=True):
        assert row["change"]["seeds"] == 2 and row["adamw"]["seeds"] == 3
        assert row["change"]["value"] == pytest.approx(of_all["change"]["value"], rel=1e-2)
        assert row["ratio"] is None or row["ratio"]["value"] == pytest.approx(2)
    assert files["muon.md"].count("(2 seeds in common) | 2.00 (2.00 to 2.00) times (2 seeds in common) |") == 3
    apart = rows[is_muon == (rows["train.seed"] == 2)]
    with pytest.raises(UserError, match=r"^LSTM, 1,000,000 tokens: no seed in common: \(2\) and \(0, 1\)$"):
        module.analyse(apart, Path())


def test_a_horizon_at_which_every_rate_diverged_is_told() -> None:
    rows = table({"adamw": 1.0, "muon": 2.0})
    rows.loc[(rows["tokens"] == TOKENS[1]) & (rows["train.seed"] == 1), ["status", "loss"]] = ["diverged", None]
    with pytest.raises(UserError, match="a run of every learning rate has diverged, r16 and those that differ"):
        load("muon").analyse(rows, Path())


def test_branches_are_held_against_cosines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("horizons")
    (tmp_path / "muon").mkdir()
    monkeypatch.setattr(module, "gather", lambda _: table({"adamw": 1.0, "muon": 3.0}))
    found, files = module.analyse(table({"adamw": 1.1}, "cosine"), tmp_path / "horizons")
    changes = [row["change"]["value"] for row in found["found"]["LSTM"]]
    expected = [20 * 1.001 * tokens**-0.1 * (1 - 1.1**-0.1) for tokens in TOKENS]
    assert np.allclose(changes, expected) and files["horizons.md"].count("| 0.005 |") == 8
    fewer = table({"adamw": 1.1}, "cosine").query("tokens > 1e6")
    with pytest.raises(UserError, match="the horizons differ"):
        module.analyse(fewer, tmp_path / "horizons")
    monkeypatch.setattr(module, "gather", lambda _: table({"adamw": 1.0}).assign(status="running"))
    with pytest.raises(UserError, match="not all runs have ended"):
        module.analyse(fewer, tmp_path / "horizons")


def planned(sweep: str, **axes: Any) -> Planned:
    """The first run of a sweep file that has these values on its axes."""
    runs = read_sweep(SWEEPS / f"{sweep}.yaml").runs()
    return next(run for run in runs if run.axes.items() >= axes.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimizer"), [("muon", "muon"), ("horizons", "cosine")])
def test_the_shortest_run_ends_among_its_recorded_seeds(name: str, optimizer: str, tmp_path: Path) -> None:
    """One of three seeds is at most 2 / sqrt(3) deviations from their mean: 0.465 of Student's half interval."""
    row = recorded(name)["found"]["LSTM"][0]
    loss = row[optimizer]
    own = {"optimizer.name": "muon"} if name == "muon" else {}
    run = planned(name, **{"model.family": "lstm", "horizon.tokens": 1.25e6, RATE: loss["rate"], **own})
    result = trained_as_by_a_user(run.config, tmp_path / "run")
    away = 0.465 * (loss["high"] - loss["low"]) / 2
    assert result["tokens"] == row["tokens"]
    assert abs(result["validation"]["loss"] - loss["value"]) < away + 0.01


def test_equal_runs_of_three_experiments_have_equal_losses() -> None:
    """10 M tokens with cosines of 1e-2 are rows of `parts`, `horizons` and `lead`, of other sessions and machines."""
    lstm, rate = {"model.family": "lstm", "model.n_layers": 1}, {RATE: 1e-2}
    axes = {"parts": lstm, "lead": lstm | rate, "horizons": lstm | rate | {"horizon.tokens": 1e7}}
    first, *others = (trained(planned(name, **own).config) for name, own in axes.items())
    assert all(other == first for other in others)
    cosine = recorded("horizons")["found"]["LSTM"][-1]["cosine"]
    assert cosine["rate"] == 1e-2
    losses = {
        "parts": recorded("parts")["parts"]["LSTM, 1 layer"]["loss"]["value"],
        "horizons": cosine["value"],
        "lead": recorded("lead")["forms"]["LSTM"]["loss"]["value"],
    }
    assert max(losses.values()) - min(losses.values()) < 0.01, losses


def trained(config: Config) -> dict[str, Any]:
    """What decides the parameters at the end: all but when a run is evaluated and saved."""
    host = ("evaluation.every", "evaluation.windows", "train.checkpoint_every")
    return {key: value for key, value in dotted(to_dict(config)) if key not in host}
