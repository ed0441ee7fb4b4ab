"""`seqjax sweep`: trains every run of a sweep file, in parallel on this machine or on a cluster."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import number, whole
from seqjax.errors import UserError
from seqjax.host.stopping import exit_code
from seqjax.host.streams import fitted, tell, tell_note
from seqjax.host.wording import counted, quoted
from seqjax.sweeps import grid

FAILED = 4
OF_SLURM = ("partition", "time", "gpus_per_run", "cpus_per_run", "memory_gb", "max_parallel", "account", "qos",
            "sbatch", "detach")  # fmt: skip


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "sweep",
        """
        seqjax sweep configs/sweeps/first.yaml --dry-run
        seqjax sweep configs/sweeps/first.yaml --budget 20m
        seqjax sweep configs/sweeps/first.yaml --train.seed 1 --runs /data/runs
        seqjax sweep configs/sweeps/first.yaml --launcher slurm --partition gpu \\
            --gpus-per-run 1 --time 4:00:00 --sbatch constraint=a100
        """,
        fields=True,
        explained=_of_sweep_files(),
    )
    add_sweep_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--no-measure", action="store_true", help="measure no step times first; no time is predicted")
    parser.add_argument("--preflight", metavar="TARGET", help="compile all runs for h100, 8xh100, v5e-4, ... first")
    parser.add_argument("--budget", metavar="TIME", help="refuse a plan that is predicted to take longer, such as 20m")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="parent of all sweep folders [runs]")
    parser.add_argument("--extend", action="store_true", help="add to a folder with runs of another sweep")
    parser.add_argument(
        "--retries", type=whole(), default=2, help="further tries of a run that dies without progress [2]"
    )
    parser.add_argument("--wandb", metavar="MODE", help="online, offline or disabled [as for train]")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help="[local]")
    slurm = parser.add_argument_group("Slurm (--launcher slurm)")
    slurm.add_argument("--partition", help="[the cluster's default]")
    slurm.add_argument("--time", help="limit of a job; then it is requeued and resumes [4:00:00]")
    slurm.add_argument("--gpus-per-run", type=whole(), help="[0]")
    slurm.add_argument("--cpus-per-run", type=whole(), help="[1]")
    slurm.add_argument("--memory-gb", type=number(), help="[the cluster's default]")
    slurm.add_argument("--max-parallel", type=whole(), help="jobs that run at once [32]")
    slurm.add_argument("--account")
    slurm.add_argument("--qos")
    slurm.add_argument(
        "--sbatch",
        metavar="KEY=VALUE",
        action="append",
        help="another option of sbatch without its dashes, such as constraint=a100 or exclusive; with them an equals "
        "sign is needed: --sbatch=--nice=100; as often as you like",
    )
    slurm.add_argument("--detach", action="store_true", default=None, help="submit and leave; see `seqjax status`")
    parser.set_defaults(run=run)


def _of_sweep_files() -> str:
    """The sections of a sweep file with an example, from the docstring of `seqjax.sweeps.grid`."""
    title, example, *others = grid.__doc__.replace("``", "").strip().split("\n\n")
    width = min(shutil.get_terminal_size().columns, 110) - 2
    title, *others = (textwrap.fill(" ".join(p.split()), width, break_on_hyphens=False) for p in (title, *others))
    return "\n\n".join([title, example, *others])


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `sweep` and `plan` share."""
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep file, such as configs/sweeps/first.yaml")
    parser.add_argument("--no-bundle", action="store_true", help="train every run in its own program")
    parser.add_argument(
        "--workers", type=whole(), help="number of workers; more than there are GPUs share them [one per core or GPU]"
    )
    parser.add_argument("--threads", type=whole(), help="cores of each worker [1; more if there are spare cores]")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Plan, print, train, report."""
    stay_off_accelerators()
    from seqjax.sweeps.folder import refuse_others
    from seqjax.sweeps.grid import read_sweep
    from seqjax.sweeps.printed import describe_plan, predicted_seconds
    from seqjax.sweeps.programs import form_units
    from seqjax.sweeps.search import foreseen
    from seqjax.sweeps.sweep import check_budget, measured_speeds, results_of
    from seqjax.training.tracking import choose_mode

    sweep = read_sweep(options.sweep, shared.config_options(rest))
    choose_mode(options.wandb)
    folder = options.runs / sweep.name
    budget = duration_option("--budget", options.budget)
    cluster = _slurm_options(options)
    machine = machine_of(options) if cluster is None else _slurm_machine(cluster)
    results = results_of(folder)
    planned = foreseen(sweep, results)
    if not options.extend:
        refuse_others(folder, sweep, planned)
    waiting = [run for run in planned if results(run.run_id) is None]
    speeds = None
    if budget and options.no_measure:
        raise UserError("command line: --budget needs step times: leave out --no-measure")
    if cluster is None and not options.no_measure:
        # for ended runs too: a search may add runs of the same shapes
        speeds = measured_speeds(planned if waiting else [], machine, not options.no_bundle, _say)
    units = form_units(waiting, machine, speeds, not options.no_bundle)
    plan = describe_plan(sweep, planned, len(planned) - len(waiting), units, machine, speeds)
    print(fitted(plan, sys.stdout), flush=True)
    if speeds is not None:
        check_budget(predicted_seconds(units, machine), budget)
    if options.preflight:
        from seqjax.preflight.sweeping import refuse_misfits

        print()
        refuse_misfits(waiting, options.preflight)
    if options.dry_run:
        if cluster is not None:
            from seqjax.sweeps.launch.slurm import header

            print(f"\n{header(cluster, f'seqjax-{sweep.name}', len(units))}")
        return 0
    return _train(options, sweep, folder, machine, speeds, cluster)


def _train(options: argparse.Namespace, sweep: Any, folder: Path, machine: Any, speeds: Any, cluster: Any) -> int:
    from seqjax.sweeps.sweep import local_launch, run_sweep

    if cluster is not None:
        from seqjax.sweeps.launch.jobs import slurm_launch
        from seqjax.sweeps.launch.slurm import check_present

        check_present()
        launch = slurm_launch(
            folder, cluster, wandb_mode=options.wandb, retries=options.retries, detach=bool(options.detach)
        )
    else:
        launch = local_launch(folder, machine, options.wandb, options.retries)
    outcome = run_sweep(sweep, folder, machine, speeds, bundle=not options.no_bundle, launch=launch)
    return report(folder, outcome)


def _slurm_options(options: argparse.Namespace) -> Any:
    """What is asked of Slurm; None for this machine.

    Raises:
        UserError: an option of Slurm without ``--launcher slurm``: the runs would train on a login node.
    """
    given = {name: value for name in OF_SLURM if (value := getattr(options, name)) is not None}
    if options.launcher != "slurm":
        if given:
            name = next(iter(given)).replace("_", "-")
            raise UserError(f"command line: --{name}: is for Slurm: say --launcher slurm, or leave it out")
        return None
    from seqjax.sweeps.launch.slurm import SlurmOptions, parse_time

    given.pop("detach", None)
    pairs = [word.partition("=") for word in given.pop("sbatch", [])]
    extra = {key.lstrip("-"): value for key, _, value in pairs}
    # no retries within a job: the launcher submits a failed job again and records the failure
    return SlurmOptions(minutes=parse_time(given.pop("time", "4:00:00")), **given, retries=0, extra=extra)


def _slurm_machine(cluster: Any) -> Any:
    from seqjax.sweeps.launch.jobs import slurm_machine

    return slurm_machine(cluster)


def report(folder: Path, outcome: Any) -> int:
    """Print the state of the sweep; return the exit code."""
    from seqjax.sweeps.aligned import describe_states
    from seqjax.sweeps.folder import state_to_show
    from seqjax.sweeps.printed import describe_curves
    from seqjax.sweeps.sweep import superseded

    states = [state_to_show(folder / run.run_id) for run in outcome.planned]
    print()
    print(fitted(describe_states(states), sys.stdout))
    if curves := describe_curves(outcome.curves):
        print(fitted(curves, sys.stdout))
    print(f"table: seqjax runs {quoted(folder)}")
    if all(state.name in ("finished", "diverged") for state in states):
        if outcome.curves and (found := superseded(folder, outcome.planned)):
            tell_note(
                f"{counted(len(found), 'finished run')} at learning rates that this search has no more, such as "
                f"{found[0]}: tables take the best of all rates, so their models had more tries; move them away"
            )
        families = {run.config.model.family for run in outcome.planned}
        print(f"next:  seqjax fit {quoted(folder)} --plot laws.png")
        if len(families) == 2:
            print(f"       seqjax compare {quoted(folder)} --plot families.png")
    if outcome.signal_number is not None:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return exit_code(outcome.signal_number)
    return FAILED if outcome.failed else 0


def machine_of(options: argparse.Namespace) -> Any:
    """The part of this machine that the options allow."""
    from seqjax.sweeps.machine import this_machine

    if options.workers is not None and options.workers < 1:
        raise UserError(f"command line: --workers {options.workers}: at least 1 is needed")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"command line: --threads {options.threads}: at least 1 is needed")
    return this_machine(options.workers, options.threads)


def duration_option(name: str, text: str | None) -> float | None:
    """Seconds of an option such as 20m."""
    from seqjax.host.wording import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError:
        raise UserError(f"command line: {name} {text}: expected a time such as 90s, 20m, 1h30m or 2d") from None


def stay_off_accelerators() -> None:
    """Use only the CPU in this process: the workers need all the memory of the accelerators."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _say(text: str) -> None:
    tell(text + "\n")
