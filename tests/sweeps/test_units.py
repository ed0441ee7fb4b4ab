"""Units: memory against XLA's own figures, bundles that hold together, predictions against closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quick import slow

from seqjax import cli, runs
from seqjax.config import Config, TaskTrain, program_key, to_dict
from seqjax.errors import UserError
from seqjax.families import Elman
from seqjax.host import disk
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Planned, read_sweep
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.printed import predicted_seconds
from seqjax.sweeps.programs import Unit, assign, form_units, makespan, memory_of
from seqjax.sweeps.speed import Speeds, calibrate, measure, shape_of
from seqjax.tasks import delays
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


def test_memory_rises_with_the_lanes(make_config: Any) -> None:
    """Or a piece of a bundle might take more than the whole."""
    for accelerator in (False, True):
        sizes = [memory_of(make_config("lstm"), lanes, accelerator) for lanes in range(1, 20)]
        assert sizes == sorted(sizes)


@pytest.fixture
def programs(make_config: Any) -> list[Config]:
    """Three configs that need a program each."""
    return [make_config("elman"), make_config("elman", **{"train.steps": 40}), make_config("window")]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    disk.write_json(folder / run.run_id / "result.json", {"status": "finished", "steps": 20})


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


# Predictions


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


def measured(speeds: Speeds, config: Config, lanes: int, step: float, compilation: float = 3.0) -> None:
    speeds.add(config, lanes, {"step_seconds": step, "compile_seconds": compilation})


@pytest.fixture
def batch(make_config: Any) -> Callable[[int], Config]:
    """An LSTM with so many sequences in a batch: FLOPs in proportion."""
    return lambda size: make_config("lstm", **{"train.batch_size": size, "train.accumulation": 1})


def test_least_and_most_costly_step_of_each_family_are_measured(batch: Any, make_config: Any, tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speeds.json", "here")
    wanted = speeds.missing([(batch(size), size // 4) for size in (16, 4, 8, 32)] + [(make_config("gru"), 1)])
    assert wanted == [(batch(4), 1), (batch(32), 1), (batch(32), 8), (make_config("gru"), 1)]
    measured(speeds, batch(32), 8, 1.0)
    measured(speeds, batch(4), 1, 0.1)
    assert speeds.missing([(batch(4), 1), (batch(32), 8)]) == [(batch(32), 1)]
    again = Speeds(tmp_path / "speeds.json", "here")
    assert again.missing([(batch(4), 1), (batch(32), 8)]) == [(batch(32), 1)]
    longer = dataclasses.replace(batch(4), train=dataclasses.replace(batch(4).train, steps=10**6, seed=3))
    assert again.missing([(longer, 1)]) == []  # a step is a step
    assert Speeds(tmp_path / "speeds.json", "there").missing([(batch(4), 1)]) == [(batch(4), 1)]


def test_steps_of_tasks_are_measured_shape_by_shape(tmp_path: Path) -> None:
    """What is timed is positive; a run takes its steps and evaluations; the length and the seed are no shape."""
    speeds = Speeds(tmp_path / "speeds.json", "here")
    config = delays.Config(
        model=Elman(d_model=8, n_layers=1),
        task=delays.DelayTask(distance=2, held_out=4),
        train=TaskTrain(steps=10, batch_size=2, evaluate_every=4),
    )
    wider = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1010, seed=1))
    assert speeds.missing([(config, 1), (wider, 1), (longer, 1)]) == [(longer, 1), (wider, 1)]
    found = measure(to_dict(config), None, 1)
    assert found.keys() == {"compile_seconds", "step_seconds", "evaluation_seconds"} and min(found.values()) > 0
    speeds.add(config, 1, {"compile_seconds": 3.0, "step_seconds": 0.1, "evaluation_seconds": 0.2})
    assert speeds.missing([(config, 1), (wider, 1)]) == [(wider, 1)]
    checkpoints = 0.05 * (1 + 3 + 1)
    assert speeds.seconds(config, 1) == pytest.approx(1.3 * 3 + 10 * 0.1 + 3 * 0.2 + checkpoints)
    assert speeds.seconds(longer, 1) == pytest.approx(1.3 * 3 + 1010 * 0.1 + 253 * 0.2 + 0.05 * (1 + 253 + 1))


def test_predictions_are_exact_where_it_was_measured_and_a_power_law_between(batch: Any, tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speeds.json", "here")
    speeds.missing([(batch(4), 2), (batch(64), 8)])
    for size, lanes_, seconds in ((4, 1, 0.01), (4, 2, 0.015), (64, 1, 0.09), (64, 8, 0.3)):
        measured(speeds, batch(size), lanes_, seconds)
    for size, lanes_, seconds in (
        (4, 1, 0.01),  # as measured
        (4, 2, 0.015),
        (64, 1, 0.09),
        (64, 8, 0.3),
        (4, 5, 0.01 + 4 * 0.005),  # linear in the lanes
        (64, 3, 0.09 + 2 * 0.03),
        (16, 1, (0.01 * 0.09) ** 0.5),  # 16 is the geometric mean of 4 and 64
        (8, 1, 0.01 ** (3 / 4) * 0.09 ** (1 / 4)),
        (256, 1, 0.09 * 4),  # beyond, in proportion to the FLOPs
        (1, 1, 0.01 / 4),
    ):
        assert speeds.step_seconds(batch(size), lanes_) == pytest.approx(seconds)
    alone = [speeds.step_seconds(batch(size), 1) for size in range(1, 100)]
    assert alone == sorted(alone)
    together = [speeds.step_seconds(batch(16), lanes_) for lanes_ in range(1, 20)]
    assert together == sorted(together)


def test_a_run_is_compilation_steps_and_evaluations(batch: Any, tmp_path: Path) -> None:
    speeds = Speeds(tmp_path / "speeds.json", "here")
    speeds.missing([(batch(8), 1)])
    measured(speeds, batch(8), 1, 0.5, compilation=0.0)

    def seconds(**changes: Any) -> float:
        config = batch(8)
        train = dataclasses.replace(config.train, steps=100, checkpoint_every=1000)
        evaluation = dataclasses.replace(config.evaluation, **{"every": 1000, "final_windows": 24} | changes)
        return speeds.seconds(dataclasses.replace(config, train=train, evaluation=evaluation), 1)

    forward = 0.5 / 3  # of 8 windows: a third of a step
    assert seconds() == pytest.approx(100 * 0.5 + 3 * forward, abs=0.2)  # and a checkpoint
    assert seconds(every=10, windows=16) == pytest.approx(100 * 0.5 + (3 + 10 * 2) * forward, abs=1.0)


def test_only_steps_that_were_asked_for_are_interpolated_between(batch: Any, tmp_path: Path) -> None:
    """An outlier of an earlier sweep does not bend the line of this one."""
    old = Speeds(tmp_path / "speeds.json", "here")
    measured(old, batch(16), 1, 1000.0)
    speeds = Speeds(tmp_path / "speeds.json", "here")
    speeds.missing([(batch(4), 1), (batch(64), 1)])
    measured(speeds, batch(4), 1, 0.01)
    measured(speeds, batch(64), 1, 0.09)
    assert speeds.step_seconds(batch(16), 1) == pytest.approx(0.03)
    assert shape_of(batch(16)).flops_per_step == pytest.approx(4 * shape_of(batch(4)).flops_per_step)


DAMAGED = ("", "{", "[]", "3", "\x00\xff", '{"here": 3}', '{"here": {"1 x": 3}}', '{"here": {"1 x": {"lanes": 1}}}')


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_of_speeds_is_no_error(batch: Any, tmp_path: Path, content: str) -> None:
    file = tmp_path / "speeds.json"
    file.write_bytes(content.encode("latin-1"))
    speeds = Speeds(file, "here")
    assert speeds.missing([(batch(8), 1)]) == [(batch(8), 1)]
    measured(speeds, batch(8), 1, 0.5)
    assert speeds.step_seconds(batch(8), 1) == 0.5
    assert Speeds(file, "here").missing([(batch(8), 1)]) == []


def test_half_a_measurement_is_none(batch: Any, tmp_path: Path) -> None:
    file = tmp_path / "speeds.json"
    measured(Speeds(file, "here"), batch(8), 1, 0.5)
    ((key, entry),) = json.loads(file.read_text())["here"].items()
    for name in entry:
        file.write_text(json.dumps({"here": {key: {k: v for k, v in entry.items() if k != name}}}))
        assert Speeds(file, "here").missing([(batch(8), 1)]) == [(batch(8), 1)]


def test_speeds_that_cannot_be_kept_are_no_error(batch: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    speeds = Speeds(tmp_path / "file" / "speeds.json", "here")
    assert speeds.missing([(batch(8), 1)])
    measured(speeds, batch(8), 1, 0.5)
    assert speeds.step_seconds(batch(8), 1) == 0.5


def test_a_first_step_that_fails_is_told_before_anything_starts(batch: Any, tmp_path: Path) -> None:
    def answer(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        good = {"outcome": "done", "step_seconds": 0.1, "compile_seconds": 1.0}
        return [good if request["lanes"] == 1 else bad for request in requests]

    bad = {"outcome": "error", "reason": "RESOURCE_EXHAUSTED"}
    speeds = Speeds(tmp_path / "speeds.json", "here")
    calibrate(speeds, [(batch(8), 4)], 1, answer)  # alone it can be trained
    assert speeds.step_seconds(batch(8), 4) == pytest.approx(4 * 0.1)
    with pytest.raises(UserError, match=r"^lstm-2x16-\w+: a first step was tried and failed \(RESOURCE_EXHAUSTED\)"):
        calibrate(speeds, [(batch(16), 1)], 1, lambda requests: [bad for _ in requests])


def test_a_family_whose_runs_have_ended_is_measured_too(
    tmp_path: Path, small_text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the search may extend its rates."""
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
    assert "6 runs, 3 of them ended" in capsys.readouterr().out
    assert folders.state(next((tmp_path / "runs" / "s").iterdir())).name == "finished"
