"""Sweeps of one trunk and many horizons: the plan, its ids and time, and that it ends as the runs from scratch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeping import SIGKILL, Launcher, launch, numbers

from seqjax import runs
from seqjax.errors import UserError
from seqjax.host.wording import si
from seqjax.sweeps.grid import read_sweep, sharing
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.printed import describe_plan, predicted_seconds
from seqjax.sweeps.programs import assign, form_units

BATCH = "{batch_size: 4, context_length: 16, log_every: 5, checkpoint_every: 10}"  # 64 tokens a step
STEPS = (16, 24, 40)
BEGINS = (12, 18)  # of the decays of the first two
TRUNK = "horizon: {trunk: 2560, branches: [1024, 1536, 2560], warmup_fraction: 0.25, evaluations: 4}"
ALONE = """
optimizer: {schedule: wsd, warmup_steps: 4, decay_fraction: 0.25}
grid: {horizon.tokens: [1024, 1536, 2560], train.seed: [0, 1]}
"""
SHARED = f"""
optimizer: {{schedule: wsd, decay_fraction: 0.25}}
{TRUNK}
grid: {{train.seed: [0, 1]}}
"""
ONE_CORE = Machine((0,), (), 1e13, None)


class MadeUp:
    def seconds(self, config: Any, lanes: int) -> float:
        return float(config.train.steps * lanes)


def sweep_file(path: Path, text: Any, axes: str, model: str = "{family: lstm, d_model: 16, n_layers: 1}") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"data: {{corpus: {text}}}\nmodel: {model}\ntrain: {BATCH}\n"
        f"evaluation: {{every: 10, windows: 16, final_windows: 32, batch_size: 16}}\n{axes}\n"
    )
    return path


@pytest.fixture
def planned(tmp_path: Path, small_text: Path) -> list[Any]:
    axes = SHARED.replace(", evaluations: 4", "")
    return sharing(read_sweep(sweep_file(tmp_path / "shared.yaml", small_text, axes)).runs())


def test_every_horizon_is_the_run_that_it_is_alone(planned: list[Any], tmp_path: Path, small_text: Path) -> None:
    alone = read_sweep(sweep_file(tmp_path / "alone.yaml", small_text, ALONE)).runs()
    assert {run.run_id for run in planned} == {run.run_id for run in alone}
    assert [run.config.train.steps for run in planned] == [*STEPS, *STEPS]
    first, second = planned[:3], planned[3:]
    for runs_ in (first, second):
        assert {run.trunk for run in runs_} == {runs_[2].run_id}
        assert [run.shared for run in runs_] == [*BEGINS, 0]
        assert [run.pins for run in runs_] == [(), (), BEGINS]
    assert all(run.trunk is None and not run.pins and not run.shared for run in sharing(alone))


def test_evaluations_are_spaced_as_the_trunks(tmp_path: Path, small_text: Path) -> None:
    path = sweep_file(tmp_path / "shared.yaml", small_text, SHARED)
    path.write_text(path.read_text().replace("every: 10, ", ""))
    found = [run.config for run in read_sweep(path).runs()]
    assert {(config.evaluation.every, config.optimizer.warmup_steps) for config in found} == {(10, 4)}


def test_shared_steps_count_once(planned: list[Any], tmp_path: Path) -> None:
    units = form_units(planned, ONE_CORE, MadeUp(), bundle=False)
    steps = 2 * (40 + (16 - 12) + (24 - 18))
    assert predicted_seconds(units, ONE_CORE) == steps + 2 * 5.0
    sweep = read_sweep(tmp_path / "shared.yaml")
    told = describe_plan(sweep, planned, 0, units, ONE_CORE, MadeUp())
    assert f"in all {si(steps * 64)} tokens" in told
    assert "4 runs from checkpoints of their trunks" in told
    alone = sharing([run for run in planned if run.run_id != run.trunk])  # the trunk is not in the sweep
    assert predicted_seconds(form_units(alone, ONE_CORE, MadeUp(), bundle=False), ONE_CORE) == 2 * (16 + 24) + 5.0


def test_branches_wait_for_their_trunks_and_share_their_program(planned: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for run in planned:
        runs.open_run(folder / run.run_id, run.config)
    trunks = [run.run_id for run in planned if run.run_id == run.trunk]
    (unit,) = assign(planned, folder, ONE_CORE, None, bundle=True, alone=True)
    assert set(unit.run_ids) == set(trunks)
    for trunk in trunks:
        (folder / trunk / "result.json").write_text('{"status": "finished", "steps": 40, "validation": {"loss": 3.0}}')
    units = assign(list(reversed(planned)), folder, ONE_CORE, None, bundle=True, alone=True)
    assert [tuple(run.trunk for run in branch.runs) for branch in units] == [unit.run_ids] * 2


def test_branches_of_a_trunk_that_was_given_up_do_not_wait(planned: list[Any], tmp_path: Path) -> None:
    for run in planned:
        runs.open_run(tmp_path / run.run_id, run.config)
    left = [run for run in planned if run.run_id != planned[2].run_id]
    units = assign(left, tmp_path, ONE_CORE, None, bundle=True, alone=True)
    assert {run.run_id for unit in units for run in unit.runs} == {planned[i].run_id for i in (0, 1, 5)}


def test_branches_start_while_other_trunks_train(planned: list[Any], tmp_path: Path) -> None:
    for run in planned:
        runs.open_run(tmp_path / run.run_id, run.config)
    two = assign(planned, tmp_path, ONE_CORE, None, bundle=False, alone=True)
    first, second = (unit.runs[0] for unit in two)
    (tmp_path / first.run_id / "result.json").write_text(
        '{"status": "finished", "steps": 40, "validation": {"loss": 3.0}}'
    )
    units = assign(planned, tmp_path, ONE_CORE, None, bundle=False, alone=True, taken={second.run_id})
    assert [unit.runs[0].trunk for unit in units] == [first.run_id] * 2
    added = [run for run in planned if run.trunk == second.run_id]  # as if its trunk had not been planned
    others = [run for run in added if run.run_id != second.run_id]
    assert not assign(others, tmp_path / "other", ONE_CORE, None, bundle=False, alone=True, taken={first.run_id})


@pytest.mark.parametrize(
    ("horizon", "said"),
    [
        ("{trunk: 2560}", "horizon.branches: expected a list of tokens"),
        ("{branches: [1024]}", "horizon.trunk: expected tokens"),
        ("{trunk: 2560, branches: [4e3]}", "4,000 is more than horizon.trunk; at most 2,560"),
        (
            "{trunk: 2560, branches: [1024]}\noptimizer: {schedule: cosine}",
            "needs optimizer.schedule wsd; it is cosine",
        ),
        ("{trunk: 2560, branches: [1024]}\ngrid: {train.steps: [3]}", "the lengths are those of horizon.branches"),
    ],
)
def test_impossible_horizons_are_refused(tmp_path: Path, small_text: Path, horizon: str, said: str) -> None:
    path = sweep_file(tmp_path / "wrong.yaml", small_text, f"horizon: {horizon}")
    with pytest.raises(UserError, match=said) as found:
        read_sweep(path).runs()
    assert "\n" not in str(found.value) and "wrong.yaml:" in str(found.value)


@pytest.mark.slow
def test_a_sweep_of_branches_is_the_sweep_from_scratch(tmp_path: Path) -> None:
    """Killed in the middle; in bundles. Runs by themselves: tests/training/test_trunk.py."""
    axes, options = SHARED.replace(", evaluations: 4", ""), ("--workers", "1")
    assert launch(sweep_file(tmp_path / "a" / "tiny.yaml", "english", ALONE), tmp_path / "alone", *options) == 0
    shared = sweep_file(tmp_path / "b" / "tiny.yaml", "english", axes)
    killed = Launcher(shared, tmp_path / "shared", *options)
    killed.wait_until(lambda: killed.results() >= 2)
    for worker in killed.workers():
        os.kill(worker, SIGKILL)
    killed.end(SIGKILL)
    assert launch(shared, tmp_path / "shared", *options) == 0
    table, scratch = numbers(killed.folder), numbers(tmp_path / "alone" / "tiny")
    different = ["label", "trunk", "seconds"]
    pd.testing.assert_frame_equal(*(t.drop(columns=different, errors="ignore") for t in (table, scratch)))
    assert table["trunk"].nunique() == 2 and scratch["trunk"].isna().all()
    for row in table.itertuples():
        result = runs.read_result(killed.folder / row.run_id)
        assert ("taken_over" in result) == (row.run_id != row.trunk)
