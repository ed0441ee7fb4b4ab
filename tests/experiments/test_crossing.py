"""The experiment of the map: from a run table to crossings over three budgets and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiment import load

from seqjax.comparison.lead_map import _said, best_depths, maps, times_in_doubt
from seqjax.laws.crossing import Place


@pytest.mark.slow
def test_a_run_table_becomes_a_map() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"run_id": f"{family}-{n}-{seed}-{d}", "status": "finished", "model.family": family, "train.seed": seed,
         "kind": "lstm" if family == "lstm" else "transformer modern", "steps": int(d), "model.n_layers": 1,
         "params_non_embedding": n, "tokens": d, "flops_exact": price * 6 * n * d,
         "train.context_length": 128, "optimizer.learning_rate": 1e-2,
         "training_seconds": price * 1e-9 * n * d,
         "loss": (e + 12 / n**0.3 + b / d**beta) * np.exp(1e-3 * rng.standard_normal())}
        for family, price, (e, b, beta) in (("lstm", 1.0, (2.0, 35.0, 0.28)), ("transformer", 1.5, (1.75, 260.0, 0.4)))
        for n in (2.5e4, 1e5) for seed in (0, 1) for d in (5e5, 1e6, 2e6, 4e6, 8e6)
    ]  # fmt: skip
    rows.append(rows[0] | {"run_id": "gone", "status": "diverged", "loss": None})
    table = pd.DataFrame(rows)
    found, figures = load("crossing").analyse(table, Path())
    assert set(figures) == {"map-modern"}
    (one,) = found["maps"]
    assert set(one["by_law"]) == set(one["direct"]) == {"tokens", "flops", "seconds"}
    for read in ("by_law", "direct"):
        places = one[read]["tokens"]
        assert [place["verdict"] for place in places] == ["LSTM, then Transformer modern"] * 2
        # one 95 % interval in twenty misses the truth: how many do is tested in tests/laws/test_crossing.py
        assert all(place["low"] < place["crossing"] < place["high"] for place in places)
        assert all(abs(place["crossing"] / 1.318e6 - 1) < 0.05 for place in places)
    assert all(place["crossing"] > 6 * place["params"] * 1.318e6 for place in one["by_law"]["flops"])
    said = [line for line in found["answer"] if "Transformer modern overtakes the LSTM at 1.3" in line]
    assert len(said) == 2 and "training tokens (95 %: " in said[0]
    shared = table.assign(device="H100", processor="A", runs_in_program=12)
    (one,), without = maps(shared[shared["status"] == "finished"])
    assert set(one.by_law) == {"tokens", "flops"} and "no map over seconds" in without[0]


def bare(kind: str, layers: int, tokens: float, batch: int, loss: float, params: int = 30_000) -> dict[str, Any]:
    """A finished run with the columns that a map needs, and 1,000 tokens in a window."""
    return {"kind": kind, "model.n_layers": layers, "tokens": tokens, "steps": int(tokens / (1000 * batch)),
            "params_non_embedding": params, "flops_exact": 6 * params * tokens, "loss": loss}  # fmt: skip


def test_the_best_depth_of_a_horizon_is_found_among_other_batches() -> None:
    """Two layers with twice the batch have as many steps at 4 M tokens as one layer at 2 M."""
    deep = {2e6: 4.6, 4.001e6: 4.3, 8e6: 4.2}
    rows = [bare("lstm", 1, tokens, 2, loss) for tokens, loss in ((2e6, 4.5), (4e6, 4.4), (8e6, 4.1))]
    rows += [bare("lstm", 2, tokens, 4, loss) for tokens, loss in deep.items()]
    assert sorted(best_depths(pd.DataFrame(rows))["loss"]) == [4.1, 4.3, 4.5]


@pytest.mark.parametrize(
    ("more", "params", "said"),
    [
        (16, 30_000, "no map of Transformer modern over training tokens: no size was trained with any in common"),
        (1, 60_000, "Transformer modern and LSTM have no size in common"),
    ],
)
def test_what_families_do_not_have_in_common_is_said(more: int, params: int, said: str) -> None:
    horizons = ((2e6, 4.5), (4e6, 4.4), (8e6, 4.1))
    rows = [bare("lstm", 1, tokens, 2, loss) for tokens, loss in horizons]
    rows += [bare("transformer modern", 2, more * tokens, 2, loss, params) for tokens, loss in horizons]
    made, without = maps(pd.DataFrame(rows))
    assert said in " ".join(without)
    assert len(made) == (more == 1) and all(one.sentences() == [] for one in made)


NOT_EXCLUDED = "a crossing before the data is not excluded"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("order", "x", "interval", "sentence"),
    [
        (("LSTM", "T"), 0.0, (0.0, 0.5), "T leads everywhere in the data, against the LSTM"),
        (("T", "LSTM"), 0.0, (0.0, 0.5), "LSTM leads everywhere in the data, against the T"),
        (("LSTM", "T"), INF, (20.0, INF), "LSTM leads everywhere in the data, against the T"),
        (("T", "LSTM"), INF, (NAN, NAN), "T leads everywhere in the data (noise unknown), against the LSTM"),
        (("LSTM", "T"), 0.5, (0.2, 2.0), f"T leads at the end; {NOT_EXCLUDED}, against the LSTM"),
        (("LSTM", "T"), 0.5, (0.2, 20.0), "crossing of the T and the LSTM is not resolved"),
    ],
)
def test_the_leader_leads_against_the_other(order: Any, x: float, interval: Any, sentence: str) -> None:
    place = Place(1e5, (1.0, 10.0), x, *interval, order, (0.1, 0.2))
    said = _said(place, ("T", "LSTM"), "training tokens")
    assert said == f"{sentence}, from 1 to 10 training tokens"


@pytest.mark.parametrize(
    ("devices", "processors", "runs", "compare"),
    [
        (["cpu", "cpu"], ["A", "A"], [3, 1], True),  # on a processor each run of a program has its share of the time
        (["cpu", "cpu"], ["A", "B"], [1, 1], False),
        (["H100", "H100"], ["A", "A"], [1, np.nan], True),
        (["H100", "H100"], ["A", "A"], [1, 12], False),
        (["H100", "cpu"], ["A", "A"], [1, 1], False),
    ],
)
def test_times_are_compared_where_a_run_has_its_own(devices, processors, runs, compare) -> None:
    table = pd.DataFrame({"device": devices, "processor": processors, "runs_in_program": runs})
    table["training_seconds"] = [1.0, 2.0]
    assert (not times_in_doubt(table)) is compare
    assert not times_in_doubt(table.drop(columns="device"))  # a table that does not say is believed
    for lost in (table.drop(columns="training_seconds"), table.assign(training_seconds=[np.nan, 1.0])):
        assert times_in_doubt(lost) == "not all runs have a time of training"
