"""Units: memory against XLA's own figures, bundles that hold together, the makespan against all assignments."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quick import slow

from seqjax import cli, runs
from seqjax.config import Config, program_key
from seqjax.host import disk
from seqjax.layers import native
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Planned, read_sweep
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.printed import predicted_seconds
from seqjax.sweeps.programs import Unit, assign, form_units, makespan, memory_of
from seqjax.tasks.text import make_objective
from seqjax.training.lanes import make_bundle
from seqjax.training.state import Hyper

PLENTY = 1e13
V = 257


class MadeUp:
    """Speeds by a formula: a bundle of R runs takes ``alone + (R - 1) further`` seconds."""

    def __init__(self, alone: float = 10.0, further: float = 2.0) -> None:
        self.alone, self.further = alone, further

    def seconds(self, config: Config, lanes: int) -> float:
        return config.train.steps * (self.alone + (lanes - 1) * self.further)


def machine(cores: int = 2, memory: float = PLENTY, gpus: int = 0, threads: int | None = None) -> Machine:
    return Machine(tuple(range(cores)), tuple(map(str, range(gpus))), memory, threads)


def with_seed(config: Config, seed: int) -> Planned:
    return Planned(
        dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed)), {"train.seed": seed}
    )


def nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def bytes_by_xla(config: Config, lanes: int) -> float:
    """What the compiled step takes, or the compiled evaluation with the state that lies by, whichever is more."""
    configs = [with_seed(config, seed).config for seed in range(lanes)]
    program = make_bundle(configs, make_objective(config, V), devices=1)
    state, at_once = program.init(), program.steps_at_once
    length = config.train.context_length + 1
    batches = np.zeros((lanes, at_once, config.train.batch_size, length), np.int32)
    hyper = Hyper(np.ones((lanes, at_once), np.float32), np.ones(lanes, np.float32))
    quick = {"xla_backend_optimization_level": 0}  # buffers are laid out before that
    step = program.steps.lower(state, batches, hyper, np.zeros(at_once, bool), 1).compile(quick).memory_analysis()
    windows = np.zeros((config.evaluation.batch_size, length), np.int32)
    evaluation = program.score.lower(state.params, windows, None).compile(quick).memory_analysis()
    lying_by = nbytes(state.opt_state)
    return max(
        step.argument_size_in_bytes
        + step.output_size_in_bytes
        - step.alias_size_in_bytes
        + step.temp_size_in_bytes,
        evaluation.argument_size_in_bytes
        + evaluation.output_size_in_bytes
        + evaluation.temp_size_in_bytes
        + lying_by,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "lanes", "changes"),
    [
        ("elman", 6, {"model.d_model": 64}),
        slow("lstm", 8, {"model.d_model": 128, "model.n_layers": 1, "train.batch_size": 2, "train.context_length": 8}),
        slow("transformer", 1, {"model.d_model": 64, "train.batch_size": 4, "evaluation.batch_size": 64}),
        slow("window", 4, {"model.d_model": 64, "train.accumulation": 2}),
    ],
    ids=lambda part: str(part) if not isinstance(part, dict) else "",
)
def test_memory_is_xlas_from_above(make_config: Any, family: str, lanes: int, changes: dict[str, Any]) -> None:
    settings_ = {"train.batch_size": 16, "train.context_length": 64, "evaluation.batch_size": 16, "model.n_layers": 2}
    config = make_config(family, **settings_ | changes)
    estimate, measured = memory_of(config, lanes, accelerator=False) - 2e8, bytes_by_xla(config, lanes)
    assert measured > 2e6
    assert measured <= estimate <= 4 * measured


def test_memory_is_xlas_from_above_without_compiled_functions(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a C++ compiler keeps more of a recurrence. The width is of no other test: its bytes are new."""
    monkeypatch.setattr(native, "compiled", lambda: False)
    test_memory_is_xlas_from_above(make_config, "elman", 6, {"model.d_model": 60})


def test_memory_rises_with_the_lanes(make_config: Any) -> None:
    """Or a piece of a bundle might take more than the whole."""
    for accelerator in (False, True):
        sizes = [memory_of(make_config("lstm"), lanes, accelerator) for lanes in range(1, 20)]
        assert sizes == sorted(sizes)


@pytest.fixture
def programs(make_config: Any) -> list[Config]:
    """Three configs that need a program each."""
    return [make_config("elman"), make_config("elman", **{"train.steps": 40}), make_config("window")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=3),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(1, 20),
    st.floats(0.0, 20.0),
    st.booleans(),
)
def test_units_share_out_all_runs(
    programs: list[Config], counts: list[int], cores: int, gpus: int, fitting: int, further: float, measured: bool
) -> None:
    accelerator = gpus > 0
    workers = gpus or cores
    share = memory_of(programs[0], fitting, accelerator)
    planned = [with_seed(config, seed) for config, count in zip(programs, counts, strict=True) for seed in range(count)]
    place = machine(cores, share * (1 if accelerator else workers), gpus)
    units = form_units(planned, place, MadeUp(further=further) if measured else None, bundle=True)
    found = [run.run_id for unit in units for run in unit.runs]
    assert sorted(found) == sorted(run.run_id for run in planned)  # each in one unit, and none left over
    for unit in units:
        assert len({program_key(run.config) for run in unit.runs}) == 1
        assert len(unit.runs) == 1 or memory_of(unit.runs[0].config, len(unit.runs), accelerator) <= share
        assert len(unit.runs) <= (128 if accelerator else 16)
        assert unit.memory == memory_of(unit.runs[0].config, len(unit.runs), accelerator)
        if measured:
            assert unit.seconds == MadeUp(further=further).seconds(unit.runs[0].config, len(unit.runs))
    assert len(units) >= min(workers, len(planned))  # no worker stands idle while runs are together
    assert not measured or all(a.seconds >= b.seconds for a, b in itertools.pairwise(units))
    if measured and further >= 10.0:
        assert len(units) == len(planned)  # a bundle would be no faster
    alone = form_units(planned, place, None, bundle=False)
    assert sorted(unit.run_ids for unit in alone) == sorted((run.run_id,) for run in planned)


def test_bundles_are_of_full_groups_where_they_can_be(make_config: Any) -> None:
    def sizes(count: int, cores: int) -> list[int]:
        planned = [with_seed(make_config("elman"), seed) for seed in range(count)]
        return sorted(len(unit.runs) for unit in form_units(planned, machine(cores), MadeUp(), bundle=True))

    assert sizes(9, 2) == [4, 5]
    assert sizes(16, 2) == [8, 8]
    assert sizes(18, 2) == [9, 9]
    assert sizes(14, 2) == [6, 8]
    assert sizes(33, 1) == [9, 12, 12]
    assert sizes(3, 2) == [1, 2]
    assert sizes(4, 8) == [1, 1, 1, 1]


def test_threads_are_cores_to_spare(make_config: Any) -> None:
    def threads(count: int, place: Machine) -> set[int]:
        planned = [with_seed(make_config("elman"), seed) for seed in range(count)]
        return {unit.threads for unit in form_units(planned, place, MadeUp(further=20.0), bundle=True)}

    assert threads(1, machine(8)) == {8}
    assert threads(3, machine(8)) == {2}
    assert threads(8, machine(8)) == threads(20, machine(8)) == {1}
    assert threads(20, machine(8, threads=4)) == {4}
    assert threads(1, machine(8, gpus=2)) == {1}


def test_no_run_is_no_unit() -> None:
    assert form_units([], machine(), MadeUp(), bundle=True) == []
    assert makespan([], machine()) == predicted_seconds([], machine()) == 0.0


# What a folder keeps


@pytest.fixture
def begun(make_config: Any, tmp_path: Path) -> tuple[Path, list[Planned]]:
    """A sweep folder in which six runs are assigned to two workers: three and three."""
    planned = [with_seed(make_config("elman"), seed) for seed in range(6)]
    for run in planned:
        runs.open_run(tmp_path / "sweep" / run.run_id, run.config)
    units = assign(planned, tmp_path / "sweep", machine(2), MadeUp(), bundle=True, alone=True)
    assert sorted(unit.run_ids for unit in units) == sorted([ids(planned[:3]), ids(planned[3:])])
    return tmp_path / "sweep", planned


def ids(planned: list[Planned]) -> tuple[str, ...]:
    return tuple(run.run_id for run in planned)


def begin(folder: Path, run: Planned) -> None:
    runs.append_metrics(folder / run.run_id, {"step": 5, "loss": 5.0})


def end(folder: Path, run: Planned) -> None:
    disk.write_json(
        folder / run.run_id / "result.json", {"status": "finished", "steps": 20, "validation": {"loss": 3.0}}
    )


def lanes(units: list[Unit]) -> set[tuple[str, ...]]:
    return {unit.run_ids for unit in units}


def test_a_plan_is_written_beside_every_run(begun: tuple[Path, list[Planned]]) -> None:
    folder, planned = begun
    for number, run in enumerate(planned):
        together = planned[:3] if number < 3 else planned[3:]
        assert json.loads((folder / run.run_id / "plan.json").read_text()) == {
            "label": f"elman-1x16 seed={number}",
            "axes": {"train.seed": number},
            "lanes": list(ids(together)),
            "threads": 1,
        }


def test_what_has_begun_together_stays_together(begun: tuple[Path, list[Planned]]) -> None:
    """Though another machine, other speeds and another order would cut otherwise; the rest is planned anew."""
    folder, planned = begun
    begin(folder, planned[1])
    units = assign(planned[::-1], folder, machine(4), MadeUp(further=20.0), bundle=True, alone=True)
    assert lanes(units) == {ids(planned[:3]), *[(run.run_id,) for run in planned[3:]]}
    assert {unit.threads for unit in units if len(unit.runs) == 3} == {1}
    units = assign(planned, folder, machine(4), None, bundle=False, alone=True)
    assert lanes(units) == {ids(planned[:3]), *[(run.run_id,) for run in planned[3:]]}


def test_what_has_not_begun_stays_while_others_take_part(begun: tuple[Path, list[Planned]]) -> None:
    folder, planned = begun
    units = assign(planned, folder, machine(4), MadeUp(further=20.0), bundle=True, alone=False)
    assert lanes(units) == {ids(planned[:3]), ids(planned[3:])}
    alone = assign(planned, folder, machine(4), MadeUp(further=20.0), bundle=True, alone=True)
    assert lanes(alone) == {(run.run_id,) for run in planned}
    again = assign(planned, folder, machine(1), MadeUp(), bundle=True, alone=False)
    assert lanes(again) == lanes(alone)  # the new plan is what is written now


def test_ended_runs_keep_their_lane_until_all_have_ended(begun: tuple[Path, list[Planned]]) -> None:
    folder, planned = begun
    for run in planned[:3]:
        begin(folder, run)
    end(folder, planned[0])
    end(folder, planned[2])
    units = assign(planned, folder, machine(2), MadeUp(), bundle=True, alone=True)
    assert ids(planned[:3]) in lanes(units)
    end(folder, planned[1])
    assert {run_id for unit in assign(planned, folder, machine(2), MadeUp(), bundle=True, alone=True)
            for run_id in unit.run_ids} == set(ids(planned[3:]))  # fmt: skip
    for run in planned[3:]:
        end(folder, run)
    assert assign(planned, folder, machine(2), MadeUp(), bundle=True, alone=True) == []


def test_a_lane_may_have_left_the_sweep_file(begun: tuple[Path, list[Planned]]) -> None:
    folder, planned = begun
    begin(folder, planned[0])
    units = assign(planned[1:3], folder, machine(2), MadeUp(), bundle=True, alone=True)
    assert lanes(units) == {ids(planned[:3])}
    assert units[0].runs == tuple(planned[:3])  # config and axes come from its folder


def test_runs_that_a_search_adds_are_units_of_their_own(begun: tuple[Path, list[Planned]], make_config: Any) -> None:
    folder, planned = begun
    begin(folder, planned[0])
    begin(folder, planned[3])
    added = with_seed(make_config("elman"), 99)
    runs.open_run(folder / added.run_id, added.config)
    units = assign([*planned, added], folder, machine(1), MadeUp(), bundle=True, alone=False)
    assert lanes(units) == {ids(planned[:3]), ids(planned[3:]), (added.run_id,)}


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(1, 3))
def test_the_makespan_is_within_grahams_bound(seconds: list[int], workers: int) -> None:
    """Longest first is at most 4/3 - 1/(3 m) of the optimum (Graham 1969), here by trying all assignments."""
    units = [Unit((), 1, float(value), 0.0) for value in seconds]
    optimum = min(
        max(sum(s for s, w in zip(seconds, chosen, strict=True) if w == worker) for worker in range(workers))
        for chosen in itertools.product(range(workers), repeat=len(seconds))
    )
    found = makespan(units, machine(workers))
    assert optimum <= found <= (4 / 3 - 1 / (3 * workers)) * optimum + 1e-9
    assert makespan(units, machine(2 * workers, threads=2)) >= found / 2
    assert makespan(units, machine(1, gpus=workers)) == found
    wide = [dataclasses.replace(unit, threads=2) for unit in units]
    assert makespan(wide, machine(2 * workers)) == found


def test_a_family_whose_runs_have_ended_is_measured_too(
    tmp_path: Path, small_text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the search will extend its rates: the best of the first family is at an edge, so both get another rate."""
    path = tmp_path / "s.yaml"
    path.write_text(
        f"data: {{corpus: {small_text}}}\nlist: [{{model.family: lstm}}, {{model.family: gru}}]\n"
        "search: {rates: [1e-3, 1e-2, 1e-1]}\n"
    )
    for run in read_sweep(path).runs()[:3]:
        runs.open_run(tmp_path / "runs" / "s" / run.run_id, run.config)
        result = {"status": "finished", "steps": 20, "validation": {"loss": 3.0, "loss_se": 0.1}}
        disk.write_json(tmp_path / "runs" / "s" / run.run_id / "result.json", result)
    asked: list[Planned] = []

    def measured_speeds(planned: Any, *_: Any) -> MadeUp:
        asked.extend(planned)
        return MadeUp()

    monkeypatch.setattr("seqjax.sweeps.sweep.measured_speeds", measured_speeds)
    assert cli.main(["sweep", str(path), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert {run.config.model.family for run in asked} == {"lstm", "gru"}
    assert "8 runs, 3 of them ended" in capsys.readouterr().out
    assert folders.state(next((tmp_path / "runs" / "s").iterdir())).name == "finished"
