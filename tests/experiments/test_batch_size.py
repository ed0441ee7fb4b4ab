"""The experiment of the critical batch: made-up curves of a known B_crit, and what is told where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiment import REPOSITORY, RESULTS, SWEEPS, load, trained_as_by_a_user

from seqjax.errors import UserError
from seqjax.laws.critical_batch import critical, over_losses, steps_to
from seqjax.laws.kaplan import critical_batch
from seqjax.runs import read_curve
from seqjax.sweeps.grid import read_sweep

T, B_STAR, P = 128, 5e6, 5.0  # B_crit = 5e6 / L^5: 20,580 tokens at 3 nats


def made(folder: Path, longest: float = 4e4) -> pd.DataFrame:
    """Runs whose loss falls as 1.5 + 60 S_min^-0.5, S_min = S / (1 + B_crit(L) / B), faster at the middle rate."""
    rows, rng = [], np.random.default_rng(0)
    losses = np.geomspace(6.0, 2.0, 200)
    for batch in (16, 32, 64, 128, 256, 512):
        for rate, slower in ((1e-3, 1.3), (3e-3, 1.0), (1e-2, 1.5)):
            for seed in (0, 1):
                name = f"lstm-{batch}-{rate}-{seed}"
                b_crit = B_STAR / losses**P
                steps = slower * (60 / (losses - 1.5)) ** 2 * (1 + b_crit / (batch * T))
                steps *= np.exp(0.02 * rng.standard_normal())
                norms = np.sqrt(1.0 + 2 * b_crit / (batch * T))  # a noise scale of twice B_crit
                lines = [{"step": round(s), "validation_loss": loss, "grad_norm": norm}
                         for s, loss, norm in zip(steps, losses, norms, strict=True) if s < longest]  # fmt: skip
                (folder / name).mkdir()
                (folder / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
                rows.append({"run_id": name, "status": "finished", "kind": "lstm", "train.batch_size": batch,
                             "train.context_length": T, "train.seed": seed, "optimizer.learning_rate": rate,
                             "params_non_embedding": 100_352,
                             "loss": 2.0, "bits_per_byte": 2.0 / np.log(2)})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_curves_of_a_known_critical_batch_give_it_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, figures = load("batch_size").analyse(made(tmp_path), tmp_path)
    rows = found["families"]["lstm"]["losses"]
    assert set(figures) == {"critical-batch", "critical-batch.md"} and len(rows) == 6
    for row in rows:
        truth = B_STAR / row["loss"] ** P
        assert abs(np.log(row["batch"] / truth)) < 0.2
        assert row["low"] < truth < row["high"] < 2 * row["low"]
        np.testing.assert_allclose(row["noise_scale"]["batch"], 2 * truth, rtol=0.3)
        assert {run["rate"] for run in row["runs"]} == {3e-3} and row["rates_at_an_edge"] == []
        assert row["inside"] == (16 * T < truth)
        assert 0 < row["misfit"] < 0.04 and all(row["low"] < batch < row["high"] for batch in row["by_seed"])
        np.testing.assert_allclose(row["kaplan"], critical_batch(4.3 * row["loss"]) * 4.3)  # a token is a byte here
    law = found["families"]["lstm"]["law"]
    assert law["low"] < P < law["high"] and 3.5 < law["exponent"] < 6.5
    assert "LSTM: B_crit = " in capsys.readouterr().out


def test_a_rate_at_which_a_seed_diverged_does_not_count(tmp_path: Path) -> None:
    table, module = made(tmp_path), load("batch_size")
    lost = (table["train.batch_size"] == 64) & (table["optimizer.learning_rate"] == 3e-3) & (table["train.seed"] == 1)
    table.loc[lost, ["status", "loss"]] = ["diverged", np.nan]
    module.LOSSES = 1
    (row,) = module.analyse(table, tmp_path)[0]["families"]["lstm"]["losses"]
    assert {run["rate"] for run in row["runs"] if run["batch"] == 64 * T} == {1e-3}
    assert {run["rate"] for run in row["runs"] if run["batch"] != 64 * T} == {3e-3}


def test_an_edge_and_a_critical_batch_beyond_the_batches_are_told(tmp_path: Path) -> None:
    table = made(tmp_path).query("`train.batch_size` <= 64 and `optimizer.learning_rate` < 1e-2")
    module = load("batch_size")
    module.LOSSES = 3
    found, files = module.analyse(table, tmp_path)
    family = found["families"]["lstm"]
    assert [row["rates_at_an_edge"] for row in family["losses"]] == [[16 * T, 32 * T, 64 * T]] * 3
    assert [row["inside"] for row in family["losses"]] == [False, True, False]
    text = files["critical-batch.md"]
    assert ", outside of 2,048 to 8,192 |" in text and "| 2,048, 4,096, 8,192 |" in text
    note = files["critical-batch"].get_supxlabel()
    assert "at an edge of those tried" in note and json.dumps(found, allow_nan=False)


def test_a_loss_that_not_every_batch_reaches_is_no_loss_of_theirs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no loss is reached by every batch"):
        load("batch_size").analyse(made(tmp_path, longest=250), tmp_path)


def test_steps_without_noise_are_on_the_hyperbola_and_two_batches_are_too_few() -> None:
    batch = 2.0 ** np.arange(8, 15)
    found = critical(batch, 300 + 1.2e6 / batch, bootstrap=0)
    np.testing.assert_allclose([found.least, found.least_tokens, found.batch], [300, 1.2e6, 4000], rtol=1e-6)
    assert np.isnan(found.interval).all()
    with pytest.raises(UserError, match="at least three batches; there are 2"):
        critical(batch[:2], batch[:2])


def test_the_step_to_a_loss_lies_between_two_evaluations() -> None:
    steps = steps_to([10, 100, 1000], [4.0, 3.0, 2.0], [3.5, 2.0, 1.9, 4.0])
    np.testing.assert_allclose(steps[:2], [10**1.5, 1000])
    assert np.isnan(steps[2:]).all()  # not reached, and reached before the first evaluation


def test_the_law_over_losses_has_the_exponent_of_its_points() -> None:
    batch = 2.0 ** np.arange(8, 15)
    losses = [4.0, 3.5, 3.0]
    rng = np.random.default_rng(0)
    noise = np.exp(0.01 * rng.standard_normal(len(batch)))
    found = [critical(batch, noise * (300 + 300 * 1e6 / loss**5 / batch), 100) for loss in losses]
    law = over_losses(losses, found)
    assert law.interval[0] < law.exponent < law.interval[1] and abs(law.exponent + 5) < 0.3


@pytest.mark.slow
def test_the_sweep_has_both_families_at_every_batch() -> None:
    runs = read_sweep(SWEEPS / "batch-size.yaml").runs()
    assert len(runs) == 2 * (2 * 6 * 4 + 1)
    sizes = {run.config.train.batch_size for run in runs}
    assert sorted(sizes) == [4 * 2**k for k in range(6)]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads((RESULTS / "batch_size" / "results.json").read_text())


def test_the_page_shows_what_was_recorded(recorded: dict[str, Any]) -> None:
    text = load("batch_size").as_text(recorded["families"])
    assert text in (REPOSITORY / "experiments" / "README.md").read_text()
    assert text == (RESULTS / "batch_size" / "critical-batch.md").read_text()


def test_recorded_critical_batches_follow_from_the_recorded_steps(recorded: dict[str, Any]) -> None:
    for family in recorded["families"].values():
        row = family["losses"][-1]
        again = critical(*np.array([(run["batch"], run["steps"]) for run in row["runs"]]).T, bootstrap=0)
        np.testing.assert_allclose([again.least, again.least_tokens], [row["steps"], row["tokens"]], rtol=1e-4)


@pytest.mark.slow
def test_a_run_reaches_a_loss_when_the_recorded_one_did(recorded: dict[str, Any], tmp_path: Path) -> None:
    """The LSTM at the smallest batch, its best rate for the first loss, until just after that loss."""
    row = recorded["families"]["lstm"]["losses"][0]
    run = row["runs"][0]
    for config in (planned.config for planned in read_sweep(SWEEPS / "batch-size.yaml").runs()):
        batch = config.train.batch_size * config.train.context_length
        place = config.model.family, batch, config.optimizer.learning_rate, config.train.seed
        if place == ("lstm", run["batch"], run["rate"], run["seed"]):
            break
    every = config.evaluation.every
    steps = every * (int(run["steps"]) // every + 1)
    trained_as_by_a_user(replace(config, train=replace(config.train, steps=steps)), tmp_path / "run")
    curve = [(point["step"], point["validation_loss"]) for point in read_curve(tmp_path / "run")]
    np.testing.assert_allclose(steps_to(*zip(*curve, strict=True), [row["loss"]]), run["steps"], rtol=0.05)
