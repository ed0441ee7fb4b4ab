"""Losses that were predicted before they were measured: recorded errors follow from recorded runs."""

from __future__ import annotations

import json

import experiment
import pytest

from seqjax.sweeps.table import read_table

RECORDED = experiment.RESULTS / "prediction"
SIZES = {"workstation-300k": 3e5, "workstation-1.6M": 1.6e6}


@pytest.mark.parametrize("name", SIZES)
def test_recorded_errors_follow_from_recorded_runs(name: str) -> None:
    prediction = experiment.load("prediction")
    table = read_table(experiment.RESULTS / "figure7" / "workstation" / "runs.csv")
    large = prediction.small_and_large(table, SIZES[name])[1]
    written = json.loads((RECORDED / name / "prediction.json").read_text())
    errors = json.loads((RECORDED / name / "errors.json").read_text())["errors"]
    assert written.keys() == errors.keys()
    for model, one in written.items():
        assert one["before"]
        assert prediction.compared(one["predicted"], prediction.of_model(large, *prediction.MODELS[model])) == [
            pytest.approx(row) for row in errors[model]
        ]


def test_what_is_fitted_is_at_most_half_the_size() -> None:
    prediction = experiment.load("prediction")
    table = read_table(experiment.RESULTS / "figure7" / "workstation" / "runs.csv")
    small, large = prediction.small_and_large(table, 3e5)
    assert small["params_non_embedding"].max() < 1.5e5 < 2e5 < large["params_non_embedding"].min()
    assert large["params_non_embedding"].max() < 4.5e5
    assert {*small["train.context_length"], *large["train.context_length"]} == {1408}
