"""The experiment on rates and width: from a run table to the shift of the best rate and the cost of a transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiment import RESULTS, load

RATES = [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]


def made_up(base: int | None, alignment: Any, best: dict[int, float]) -> list[dict]:
    """Runs whose loss is a parabola in log rate around the best rate of their width."""
    return [
        {"model.family": "lstm", "model.d_model": width, "model.base_width": base, "model.alignment": alignment,
         "optimizer.learning_rate": rate, "params_non_embedding": 8 * width**2, "loss": 3.0 + np.log2(rate / at) ** 2}
        for width, at in best.items() for rate in RATES
    ]  # fmt: skip


def test_shift_and_cost_of_a_known_table() -> None:
    table = pd.DataFrame(
        made_up(None, "full", {16: 1.6e-2, 64: 4e-3})  # falls by two factors of 2
        + made_up(16, "full", {16: 8e-3, 64: 8e-3})
        + made_up(16, "none", {16: 8e-3, 64: 2e-3})  # at the edge
        + [run | {"model.family": "transformer"} for run in made_up(16, pd.NA, {16: 8e-3})]  # it has no such key
    )
    found, figures = load("transfer").analyse(table, Path())
    standard, mup, rooted = (found["found"][f"LSTM, {rule}"] for rule in ("standard", "muP", "muP, no alignment"))
    assert standard["shift"] == pytest.approx(-2)
    assert standard["cost"] == pytest.approx(4)  # the rate of the small width is two factors of 2 from the best
    assert (mup["shift"], mup["cost"]) == (pytest.approx(0), pytest.approx(0))
    assert rooted["shift"] is None
    assert "0.002 (at the edge)" in figures["transfer.md"]
    panels = figures["transfer"].axes
    assert {ax.get_ylim() for ax in panels[:2]} == {panels[0].get_ylim()}
    assert panels[0].get_ylim()[0] < 3.0


def test_a_rate_beside_a_diverged_one_is_no_edge() -> None:
    runs = made_up(None, "full", {16: 8e-3})
    table = pd.DataFrame([run | {"loss": None} if run["optimizer.learning_rate"] == 1.6e-2 else run for run in runs])
    assert "| 0.008 (beside a diverged one) |" in load("transfer").analyse(table, Path())[1]["transfer.md"]


def test_a_width_of_which_all_diverged_is_said() -> None:
    runs = made_up(None, "full", {16: 8e-3, 64: 8e-3})
    for width in (16, 64):
        table = pd.DataFrame([run | {"loss": None} if run["model.d_model"] == width else run for run in runs])
        found, figures = load("transfer").analyse(table, Path())
        assert found["found"]["LSTM, standard"]["cost"] is None
        assert "all diverged" in figures["transfer.md"] and "0.008" in figures["transfer.md"]
    all_lost = pd.DataFrame(runs).assign(loss=np.nan)
    assert "| all diverged | all diverged | - |" in load("transfer").analyse(all_lost, Path())[1]["transfer.md"]


def test_without_alignment_an_lstm_loses_nothing_where_with_it_it_does() -> None:
    """Why the presets have `model.alignment: none` for recurrent families."""
    found = json.loads((RESULTS / "transfer" / "results.json").read_text())["found"]
    least = {rule: min(found[f"LSTM, {rule}"]["curves"]["112"]["loss"]) for rule in ("standard", "muP")}
    assert least["muP"] > least["standard"] + 0.1
    rooted = found["LSTM, muP, no alignment"]
    assert min(rooted["curves"]["112"]["loss"]) < least["standard"] + 0.02
