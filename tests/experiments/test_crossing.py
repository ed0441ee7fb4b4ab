"""The experiment of the map: from a run table to crossings over three budgets and a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from experiment import load


def test_a_run_table_becomes_a_map() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"run_id": f"{family}-{n}-{seed}-{d}", "status": "finished", "model.family": family, "train.seed": seed,
         "params_non_embedding": n, "tokens": d, "flops_exact": price * 6 * n * d, "seconds": price * 1e-9 * n * d,
         "loss": (e + 12 / n**0.3 + b / d**beta) * np.exp(1e-3 * rng.standard_normal())}
        for family, price, (e, b, beta) in (("lstm", 1.0, (2.0, 35.0, 0.28)), ("transformer", 1.5, (1.75, 260.0, 0.4)))
        for n in (2.5e4, 1e5) for seed in (0, 1) for d in (5e5, 1e6, 2e6, 4e6, 8e6)
    ]  # fmt: skip
    rows.append(rows[0] | {"run_id": "gone", "status": "diverged", "loss": None})
    found, figures = load("crossing").analyse(pd.DataFrame(rows), Path())
    assert set(found) == {"surfaces", "tokens", "flops", "seconds"} and set(figures) == {"map"}
    for places in found["tokens"].values():
        assert [place["verdict"] for place in places] == ["lstm, then transformer"] * 2
        assert all(place["low"] < 1.318e6 < place["high"] for place in places)
    assert all(place["x"] > 6 * place["params"] * 1.318e6 for place in found["flops"]["law"])
