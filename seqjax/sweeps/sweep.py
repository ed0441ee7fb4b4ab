"""A sweep from its file to its last result: plan, train, extend the search, repeat."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqjax import runs
from seqjax.config import PLACED, Config, task_name, text_without, to_dict
from seqjax.data import cache_folder
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.stopping import stop_signals
from seqjax.host.wording import duration
from seqjax.layers import native
from seqjax.sweeps import folder as folders
from seqjax.sweeps.axes import RATE, SEED
from seqjax.sweeps.grid import Planned, Sweep
from seqjax.sweeps.launch import Launch, NextUnits
from seqjax.sweeps.launch.jobs import in_queue
from seqjax.sweeps.launch.local import Pool
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.programs import Unit, assign, form_units
from seqjax.sweeps.search import Curve, curves_json, search
from seqjax.sweeps.speed import Speeds, calibrate
from seqjax.sweeps.view import View
from seqjax.tasks import task_module
from seqjax.tasks.text import check_lengths
from seqjax.training.hardware import machine_key
from seqjax.training.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """The state of a sweep when its launcher ends.

    Attributes:
        planned: all its runs.
        curves: curves of the learning-rate search, if there is one.
        failed: ids of runs that were given up.
        signal_number: the signal that stopped the launcher, or None.
    """

    planned: list[Planned]
    curves: list[Curve]
    failed: tuple[str, ...]
    signal_number: int | None


def measured_speeds(
    planned: Sequence[Planned], machine: Machine, bundle: bool, say: Callable[[str], None], stopping: Sequence[int] = ()
) -> Speeds | None:
    """Step times on this machine, from the file or measured now. None: the data of a task is missing."""
    shared = f" by {machine.sharing}" if machine.sharing > 1 else ""
    speeds = Speeds(cache_folder() / "speeds.json", f"{machine_key(native.version())} {machine.kind}{shared}")
    programs = [(unit.runs[0].config, len(unit.runs)) for unit in form_units(planned, machine, None, bundle)]
    missing = speeds.missing(programs)
    if missing:
        try:
            prepare_data([run for run in planned if not isinstance(run.config, Config)], lambda _: None)
        except UserError as error:
            say(f"note: no time is predicted: {error}")
            return None
        say(f"measuring {len(missing)} step time(s) on this machine, once")
        pool, progress = Pool(None, machine, stopping=stopping), Progress(None)

        def told(measured: int, total: int) -> None:
            if progress.is_due(measured == total):
                progress.show(f"measured {measured} of {total}")

        try:
            calibrate(speeds, programs, 1 if machine.gpus else len(machine.cores), pool.ask_all, told)
        finally:
            progress.end()
            pool.close()
        if shared := speeds.shared():
            say(f"note: other work ran beside {shared} of them: predicted times are too long, and are not kept")
    return speeds


def prepare_data(planned: Iterable[Planned], say: Callable[[str], None], known: dict[str, Any] | None = None) -> None:
    """Read the data of all runs once (text is tokenized), and check that each run can be trained on it.

    Args:
        known: data that was read before; new data is added.
    Raises:
        UserError: missing data, or data that a run cannot be trained on (with the run).
    """
    known = {} if known is None else known
    for run in planned:
        config, name = run.config, task_name(run.config)
        module = task_module(name)
        key = _data_key(config)
        if new := key not in known:
            if isinstance(config, Config):
                say(f"text: corpus {config.data.corpus}, tokenizer {config.data.tokenizer}")
            else:
                say(f"data of the task {name}")
            known[key] = module.load(config)
            notes = known[key].corpus.notes if isinstance(config, Config) else ()
            for note in notes:
                say(f"note: {note}")
        try:
            if isinstance(config, Config):
                check_lengths(config, known[key])
            elif new:  # whether a task can be made depends only on the sections of its data
                module.make_task(config, known[key])
        except UserError as error:
            raise UserError(f"{run.label}: {error}") from None


def _data_key(config: Any) -> str:
    """The same text for all runs with the same data: it depends only on the sections `data` and `task`."""
    tree = to_dict(config)
    return json.dumps({name: tree[name] for name in ("data", "task") if name in tree}, sort_keys=True)


def results_of(folder: Path) -> Callable[[str], dict[str, Any] | None]:
    """A function run id -> result or None, which caches results: they do not change."""
    seen: dict[str, dict[str, Any]] = {}

    def read(run_id: str) -> dict[str, Any] | None:
        if run_id not in seen and (result := runs.read_result(folder / run_id)) is not None:
            seen[run_id] = result
        return seen.get(run_id)

    return read


def superseded(folder: Path, planned: Sequence[Planned]) -> list[str]:
    """Finished runs at rates that the search of their models does not have, since it had other rates or sizes before.

    Tables take the best of all rates, so that these models have had more tries than others.
    """
    of_models, of_rates = (RATE, SEED, *PLACED), (SEED, *PLACED)
    models, at_rates = ({text_without(run.config, keys) for run in planned} for keys in (of_models, of_rates))
    found = []
    for name, place in folders.folders_by_id(folder).items():
        if folders.state_to_show(place).name == "finished":
            with contextlib.suppress(UserError):  # its config is of another version
                config = runs.read_config(place)
                if text_without(config, of_rates) not in at_rates and text_without(config, of_models) in models:
                    found.append(name)
    return sorted(found)


def run_sweep(
    sweep: Sweep, folder: Path, machine: Machine, speeds: Speeds | None, *, bundle: bool, launch: Launch
) -> Outcome:
    """Train every run of the sweep that has not ended, and the runs that its search adds.

    A branch starts when its trunk has ended, a further rate of the search when all before it have.
    The data of the runs is prepared here before they are launched.

    Raises:
        UserError: data is missing or too short; the folder cannot be written, or holds something else.
    """
    results = results_of(folder)
    failed: tuple[str, ...] | None = ()
    known: dict[str, Any] = {}
    planned, curves = search(sweep, results)
    view = View(folder, [run.run_id for run in planned])

    def prepare() -> None:
        prepare_data([run for run in planned if results(run.run_id) is None], view.say, known)

    prepare()  # it may take minutes: outside of stop_signals a signal ends it at once
    with stop_signals() as stopping:
        folders.make(folder, sweep, planned)
        with folders.launcher(folder) as launchers:

            def next_units(given_up: Collection[str], taken: Collection[str]) -> list[Unit]:
                nonlocal planned, curves
                before = len(planned)
                planned, curves = search(sweep, results)
                if len(planned) > before:
                    prepare()
                    folders.make(folder, sweep, planned)
                    view.track([run.run_id for run in planned])
                _keep_curves(folder, curves)
                hopeful = [run for run in planned if run.run_id not in given_up]
                with folders.planning(folder):
                    alone = folders.is_alone(launchers)
                    return assign(hopeful, folder, machine, speeds, bundle, alone, taken, in_queue(folder))

            failed = launch(next_units, view, stopping)
            planned, curves = search(sweep, results)
            _keep_curves(folder, curves)
            view.close()
    return Outcome(planned, curves, failed or (), stopping[0] if stopping else None)


def local_launch(folder: Path, machine: Machine, wandb_mode: str | None, retries: int) -> Launch:
    """Train units in worker processes on this machine."""

    def launch(next_units: NextUnits, view: View, stopping: Sequence[int]) -> tuple[str, ...]:
        pool = Pool(
            folder,
            machine,
            wandb_mode=wandb_mode,
            retries=retries,
            tick=lambda busy, waiting: view.show(busy, waiting, pool.given_up),
            say=view.say,
            stopping=stopping,
        )
        pool.run(next_units)
        return tuple(pool.given_up)

    return launch


def _keep_curves(folder: Path, curves: Sequence[Curve]) -> None:
    if curves:
        disk.write_json(folder / "search.json", curves_json(curves))


def check_budget(seconds: float, budget: float | None) -> None:
    """Check the predicted seconds of a plan.

    Raises:
        UserError: they exceed the budget.
    """
    if budget is not None and seconds > budget:
        raise UserError(
            f"--budget {duration(budget)}: the plan is predicted to take {duration(seconds)}; remove runs "
            "or tokens, or let `seqjax plan` propose sizes that fit"
        )
