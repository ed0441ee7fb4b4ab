"""The scaling curves: known laws are found again, and a slice of each recorded grid trains to its recorded loss."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiment import RESULTS, SWEEPS, load, recorded, trained_as_by_a_user

from seqjax.config import Config
from seqjax.families import kind_of
from seqjax.runs.targets import non_embedding_parameters
from seqjax.sweeps.axes import RATE
from seqjax.sweeps.grid import read_sweep

KINDS = {"lstm": (0.10, 8e5), "transformer modern": (0.14, 1e6)}  # exponent and scale of L(N)
SIZES, TOKENS = (3.5e3, 1e4, 19e3, 5e4), (2.5e5, 5e5, 1e6, 2e6)

SLICES = [
    ("size_data_compute", "size-data", "transformer modern"),
    ("isoflop", "isoflop-families", "transformer modern"),
    ("context_length", "context-length", "lstm"),
    ("crossing", "crossing", "lstm"),
]


def made_up() -> pd.DataFrame:
    """Runs of two rates; at the better one L = (N_c / N)^a (2e6 / D)^0.05."""
    rows = []
    for kind, (exponent, scale) in KINDS.items():
        for n in SIZES:
            for d in TOKENS:
                for rate, worse in ((4e-3, 1.0), (1e-2, 1.02)):
                    loss = (scale / n) ** exponent * (2e6 / d) ** 0.05 * worse
                    rows.append({
                        "run_id": f"{kind} {n} {d} {rate}", "status": "finished", "kind": kind, "tokens": d,
                        "model.family": kind.split()[0], "model.n_layers": 1, "model.d_model": int(n),
                        "train.steps": int(d / 1024),
                        "train.context_length": 128, "params_non_embedding": int(n), "loss": loss,
                        "flops_exact": 6 * (n + 91 * n**0.5) * d, "optimizer.learning_rate": rate,
                        "optimizer.decay_fraction": 0.2, "train.seed": 0,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def test_a_rate_at_an_edge_is_one_of_its_own_model() -> None:
    """The other model was tried at a higher rate too, and diverged there."""
    rows = [("lstm", 0.01, 2.0), ("lstm", 0.02, 1.9), ("gru", 0.01, 2.0), ("gru", 0.02, 1.9), ("gru", 0.04, None)]
    table = pd.DataFrame(rows, columns=["model.family", RATE, "loss"]).assign(status="finished", tokens=1e5, run_id="r")
    table.loc[table["loss"].isna(), ["status", "tokens"]] = ["diverged", 3e4]
    assert load("common").at_an_edge(table).startswith("1 of 2 models")


@pytest.mark.slow
def test_the_laws_of_a_run_table_are_found_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("size_data_compute")
    monkeypatch.setattr(module, "fit", functools.partial(module.fit, bootstrap=40, diagnose=False))
    found, figures = module.analyse(made_up(), Path())
    for kind, (exponent, _) in KINDS.items():
        assert found["L(N)"][kind]["params"]["alpha_N"] == pytest.approx(exponent, rel=1e-3)
        assert found["L(D)"][kind]["params"]["alpha_D"] == pytest.approx(0.05, rel=1e-3)
        assert found["L(N)"][kind]["n_rows"] == len(SIZES) and found["L(D)"][kind]["n_rows"] == len(TOKENS)
    assert "beyond which Transformer modern is better" in found["L(N)"]["crossing"]
    assert {row["rate"] for row in found["at_best"]} == {4e-3} and len(found["at_best"]) == 2 * len(SIZES) * len(TOKENS)
    assert found["edge"].startswith("32 of 32 models")
    top = figures["laws"].axes[2]
    assert "| L(D): the largest size | 0.050 (" in figures["exponents.md"]
    assert top.get_title() == "L(N): the longest runs" and "LSTM\nL = " in top.get_legend().get_texts()[0].get_text()
    assert "== L(C) LSTM" in capsys.readouterr().out


@pytest.mark.slow
def test_the_law_of_learning_curves_is_found_again(tmp_path: Path) -> None:
    """L = (N_c / N)^0.1 + (S_c / S)^0.6 before the decay; what comes after it is not fitted."""
    table = made_up()
    for row in table[table["tokens"] == max(TOKENS)].itertuples():
        (tmp_path / row.run_id).mkdir()
        last = int(max(TOKENS) / 1024)
        lines = [{"step": s, "validation_loss": (8e5 / row.params_non_embedding) ** 0.1 + (40 / s) ** 0.6
                  - (s > 0.8 * last)} for s in range(120, last, 120)]  # fmt: skip
        (tmp_path / row.run_id / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found, figures = load("learning_curves").analyse(table, tmp_path)
    for kind in KINDS:
        assert found[kind]["params"]["alpha_N"] == pytest.approx(0.1, rel=0.01)
        assert found[kind]["params"]["alpha_S"] == pytest.approx(0.6, rel=0.01)
    stars = [line for line in figures["curves"].axes[0].get_lines() if line.get_marker() == "*"]
    assert [len(line.get_xdata()) for line in stars] == [len(TOKENS)] * len(SIZES)


def test_the_best_sizes_of_a_run_table_are_found_again() -> None:
    """L = 1.2 + 30 / N^0.5 + 80 / D^0.4 at C = 6 N D: N ~ C^(0.4 / 0.9)."""
    rows = []
    for kind in KINDS:
        for flops in (2e10, 6e10, 2e11, 6e11):
            for n in np.geomspace(0.3, 3, 5) * 1.03e4 * (flops / 4e10) ** (0.4 / 0.9):
                d = flops / (6 * n)
                rows.append({
                    "run_id": f"{kind} {n}", "status": "finished", "kind": kind, "tokens": d, "train.seed": 0,
                    "model.family": kind.split()[0], "params_non_embedding": n, "model.n_layers": 1,
                    "train.context_length": 64,
                    "flops_exact": flops, "optimizer.learning_rate": 1e-2, "loss": 1.2 + 30 / n**0.5 + 80 / d**0.4,
                })  # fmt: skip
    found, files = load("isoflop").analyse(pd.DataFrame(rows), Path())
    assert set(files) == {"lstm", "transformer", "minima.md"}
    for kind in KINDS:
        assert found[kind]["a"] == pytest.approx(0.4 / 0.9, abs=0.02) and len(found[kind]["best"]) == 4
    assert "| LSTM | N ~ C^0.4" in files["minima.md"]


def test_contexts_are_means_over_seeds_and_gaps_are_seen() -> None:
    rows = [("lstm", 8, 2.5), ("lstm", 8, 2.7), ("lstm", 16, 2.0), ("transformer modern", 8, 2.4)]
    runs = [{"kind": kind, "context": context, "loss": loss} for kind, context, loss in rows]
    assert load("context_length").as_table(runs).splitlines()[2:] == ["| 8 | 2.600 | 2.400 |", "| 16 | 2.000 | - |"]


def test_a_lead_is_between_runs_with_one_seed() -> None:
    """Two of the LSTM's seeds have diverged; the third is behind by 0.1."""
    module = load("lead")
    rows = [
        {"kind": kind, "train.seed": seed, "loss": None if kind == "lstm" and seed < 2 else loss + seed,
         "status": "diverged" if kind == "lstm" and seed < 2 else "finished", "run_id": f"{kind}-{seed}",
         "optimizer.learning_rate": 1e-2, "params_non_embedding": 10, "tokens": 1000, "train.context_length": 8,
         "model.family": kind.split()[0], "model.n_layers": 1, "train.steps": 5}
        for kind, loss in (("lstm", 2.1), ("transformer gpt2", 2.2), ("transformer modern", 2.0)) for seed in range(3)
    ]  # fmt: skip
    text = module.analyse(pd.DataFrame(rows), Path())[1]["lead.md"]
    assert text.splitlines()[-1].endswith("| 3.000 (0.516 to 5.484) | 0.100 |")
    assert load("common").bracket({"value": -0.1, "low": np.nan, "high": np.nan}, sign=True) == "-0.100"


TABLES = (
    "size_data_compute/exponents", "learning_curves/exponents", "isoflop/minima", "context_length/contexts",
    "parts/parts", "muon/muon", "horizons/horizons", "prediction/h100-1.6M/prediction",
    "prediction/workstation-300k/prediction", "prediction/workstation-1.6M/prediction",
)  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_page_of_experiments_shows_the_recorded_table(name: str) -> None:
    assert (RESULTS / f"{name}.md").read_text() in (RESULTS.parent / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sweep", "kind"), SLICES)
def test_a_slice_of_a_recorded_grid_trains_to_its_loss(name: str, sweep: str, kind: str, tmp_path: Path) -> None:
    """The recorded run with the fewest tokens of the smallest model of a family; each family is in one grid or more."""
    runs = [row for row in recorded(name)["at_best"] if row["kind"] == kind]
    row = min(runs, key=size_and_seed)
    plan = read_sweep(SWEEPS / f"{sweep}.yaml")
    planned = [plan.plan({**point, RATE: 1e-3}).config for point in plan.points]
    config = next(config for config in planned if describes(row, config))
    optimizer = dataclasses.replace(config.optimizer, learning_rate=row["rate"])
    result = trained_as_by_a_user(dataclasses.replace(config, optimizer=optimizer), tmp_path / "run")
    assert result["validation"]["loss"] == pytest.approx(row["loss"], abs=0.02)


def size_and_seed(row: dict[str, Any]) -> tuple[float, ...]:
    """The smallest first, of them the first seed: that of a plan."""
    return row["params"], row["tokens"], row.get("seed", 0)


def describes(row: dict[str, Any], config: Config) -> bool:
    """Whether a recorded row is of a run with this config, whatever its rate."""
    train = config.train
    return (
        row["kind"] == kind_of(config.model.family, vars(config.model))
        and row["params"] == non_embedding_parameters(config.model)
        and row["tokens"] == train.steps * train.batch_size * train.context_length
        and row["context"] == train.context_length
    )


def test_learning_curves_have_all_seeds_and_each_run_is_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    module, rng = load("learning_curves"), np.random.default_rng(0)
    rows, curves = [], {}
    for size in (3_600, 10_000, 19_000, 50_000):
        for seed in (0, 1):
            steps, off = np.arange(125, 2001, 125), np.exp(0.004 * rng.standard_normal())
            losses = off * ((1e9 / size) ** 0.05 + (40 / steps) ** 0.5)
            curves[f"{size}-{seed}"] = [
                {"step": s, "validation_loss": loss} for s, loss in zip(steps, losses, strict=True)
            ]
            rows.append({"run_id": f"{size}-{seed}", "train.steps": 2000, "optimizer.decay_fraction": 0.2,
                         "params_non_embedding": size, "loss": losses[-1], "train.seed": seed})  # fmt: skip
    monkeypatch.setattr(module, "read_curve", lambda folder: curves[folder.name])
    found = module.curves_of(pd.DataFrame(rows), Path())
    kept = [step for step in range(125, 2001, 125) if 200 <= step <= 1600]
    assert len(found.law.points) == 8 * len(kept) and len(np.unique(found.law.points.cluster)) == 8
    assert found.law.intervals["alpha_N"][0] < 0.05 < found.law.intervals["alpha_N"][1]
    mean = np.mean([[p["validation_loss"] for p in curves[f"3600-{seed}"] if p["step"] in kept] for seed in (0, 1)], 0)
    np.testing.assert_allclose(found.at_constant_rate[3600], [kept, mean])
    again = module.curves_of(pd.DataFrame(rows[::-1]), Path())
    np.testing.assert_allclose(again.law.theta, found.law.theta, rtol=1e-6)
