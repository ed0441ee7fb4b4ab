"""A sweep from its file to its last result: plan, train, extend the search, until nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqjax import disk, runs
from seqjax.config import DataConfig
from seqjax.data import cache_folder
from seqjax.errors import UserError
from seqjax.stopping import stop_signals
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Planned, Sweep
from seqjax.sweeps.launch.local import Pool
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.search import Curve, curves_json, search
from seqjax.sweeps.speed import Speeds, calibrate
from seqjax.sweeps.units import Unit, assign, form_units
from seqjax.sweeps.view import View
from seqjax.tasks.text import Text, check_lengths, load
from seqjax.training.hardware import machine_key
from seqjax.units import duration


@dataclass(frozen=True)
class Outcome:
    """How a sweep stands when its launcher ends.

    Attributes:
        planned: all its runs.
        curves: of the learning-rate search, if there is one.
        failed: run ids that were given up.
        signal_number: that stopped the launcher, or None.
    """

    planned: list[Planned]
    curves: list[Curve]
    failed: tuple[str, ...]
    signal_number: int | None


def measured_speeds(
    planned: Sequence[Planned], machine: Machine, bundle: bool, say: Callable[[str], None], stopping: Sequence[int] = ()
) -> Speeds:
    """Times of steps on this machine: kept from earlier, or measured now in some seconds."""
    speeds = Speeds(cache_folder() / "speeds.json", f"{machine_key()} {machine.kind}")
    programs = [(unit.runs[0].config, len(unit.runs)) for unit in form_units(planned, machine, None, bundle)]
    missing = speeds.missing(programs)
    if missing:
        say(f"measuring {len(missing)} step time(s) on this machine, once")
        pool = Pool(None, machine, stopping=stopping)
        try:
            calibrate(speeds, programs, 1 if machine.gpus else len(machine.cores), pool.ask_all)
        finally:
            pool.close()
    return speeds


def prepare_texts(
    planned: Iterable[Planned], say: Callable[[str], None], texts: dict[DataConfig, Text] | None = None
) -> None:
    """Make the tokenizers and token shards of all runs, once, and see that each run can read them.

    Args:
        texts: those that are made already; the others are added.
    Raises:
        UserError: a corpus that is not there, or is too small for its tokenizer or for a run, which is named.
    """
    texts = {} if texts is None else texts
    for run in planned:
        data = run.config.data
        if data not in texts:
            say(f"text: corpus {data.corpus}, tokenizer {data.tokenizer}")
            texts[data] = load(run.config)
            for note in texts[data].corpus.notes:
                say(f"note: {note}")
        try:
            check_lengths(run.config, texts[data])
        except UserError as error:
            raise UserError(f"{run.label}: {error}") from None


def results_of(folder: Path) -> Callable[[str], dict[str, Any] | None]:
    """A reader of results that remembers those it has seen: they do not change any more."""
    seen: dict[str, dict[str, Any]] = {}

    def read(run_id: str) -> dict[str, Any] | None:
        if run_id not in seen and (result := runs.read_result(folder / run_id)) is not None:
            seen[run_id] = result
        return seen.get(run_id)

    return read


Launch = Callable[[Sequence[Unit], View, Sequence[int]], tuple[str, ...] | None]
"""Trains units until all have ended or are given up, and returns the run ids that were given up; None: it has left
them to others."""


def run_sweep(
    sweep: Sweep, folder: Path, machine: Machine, speeds: Speeds | None, *, bundle: bool, launch: Launch
) -> Outcome:
    """Train every run of the sweep that has not ended, and those that its search adds, round by round.

    The texts of the runs are made here, whoever trains them: nothing is launched that cannot read its text.

    Raises:
        UserError: a text is absent or too short; the folder cannot be written, or holds something else.
    """
    results = results_of(folder)
    failed: tuple[str, ...] = ()
    texts: dict[DataConfig, Text] = {}
    planned, curves = search(sweep, results)
    view = View(folder, [run.run_id for run in planned])

    def prepare() -> None:
        prepare_texts([run for run in planned if results(run.run_id) is None], view.say, texts)

    prepare()  # which may take minutes: a signal ends it at once
    with stop_signals() as stopping:
        folders.make(folder, sweep, planned)
        with folders.launcher(folder) as launchers:
            while not stopping:
                prepare()  # of runs that the search has added
                folders.make(folder, sweep, planned)
                _keep_curves(folder, curves)
                waiting = [run for run in planned if run.run_id not in failed]
                with folders.planning(folder):
                    units = assign(waiting, folder, machine, speeds, bundle, folders.is_alone(launchers))
                if not units:
                    break
                view.track([run.run_id for run in planned])
                given_up = launch(units, view, stopping)
                if given_up is None:
                    break
                failed = (*failed, *given_up)
                planned, curves = search(sweep, results)
            _keep_curves(folder, curves)
            view.close()
    return Outcome(planned, curves, failed, stopping[0] if stopping else None)


def local_launch(folder: Path, machine: Machine, wandb_mode: str | None, retries: int) -> Launch:
    """Train units in worker processes on this machine."""

    def launch(units: Sequence[Unit], view: View, stopping: Sequence[int]) -> tuple[str, ...]:
        pool = Pool(
            folder,
            machine,
            wandb_mode=wandb_mode,
            retries=retries,
            tick=lambda busy, waiting: view.show(busy, waiting, pool.given_up),
            say=view.say,
            stopping=stopping,
        )
        pool.run(units)
        return tuple(pool.given_up)

    return launch


def _keep_curves(folder: Path, curves: Sequence[Curve]) -> None:
    if curves:
        disk.write_json(folder / "search.json", curves_json(curves))


def check_budget(seconds: float, budget: float | None) -> None:
    """Refuse a plan that takes longer than it may.

    Raises:
        UserError: it does.
    """
    if budget is not None and seconds > budget:
        raise UserError(
            f"--budget {duration(budget)}: the plan is predicted to take {duration(seconds)}; take runs or tokens "
            "away, or let `seqjax plan` propose sizes that fit"
        )
