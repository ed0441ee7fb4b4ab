"""`seqjax train`: trains a model from a config, or resumes a run folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import seqjax
from seqjax import runs
from seqjax.commands import options as shared
from seqjax.config import Config, RunConfig, dotted, run_id
from seqjax.config.plain import whole
from seqjax.errors import UserError
from seqjax.host.peers import Peers
from seqjax.host.stopping import Interrupted, exit_code
from seqjax.host.streams import fitted, tell_note
from seqjax.host.wording import quoted, with_error
from seqjax.runs import read_plan
from seqjax.runs.config_file import validate, with_options
from seqjax.runs.tree import OWN, read_tree

DIVERGED = 3


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "train",
        """
        seqjax train configs/english/lstm.yaml
        seqjax train configs/english/lstm.yaml --model.d-model 128 --train.steps 500
        seqjax train runs/lstm/lstm-2x128-0123456789      # resume
        seqjax train runs/lstm/lstm-2x128-0123456789 --train.steps 2000    # a longer run, from its state
        seqjax train CONFIG --from runs/lstm/lstm-2x128-0123456789         # fine-tune: from its parameters
        """,
        fields=True,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG|RUN", help="a config, or a run folder to resume")
    parser.add_argument("--runs", type=Path, help="parent of all run folders [runs]")
    parser.add_argument("--run", type=Path, help="the run folder [RUNS/<name of CONFIG>/<run id>]", dest="folder")
    parser.add_argument("--from", type=Path, metavar="RUN", dest="source", help="begin with the parameters of this run")
    shared.add_corpus(parser)
    shared.add_code(parser)
    parser.add_argument(
        "--devices",
        type=whole(),
        help="number of devices that share each batch, of all processes [all; on CPUs 1 for each process]",
    )
    together = parser.add_argument_group(
        "several processes", "found by themselves under srun and on TPU slices (docs/clusters.md)"
    )
    together.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others")
    together.add_argument(
        "--processes", type=whole(), metavar="N", help="number of processes; 1: alone, also under srun"
    )
    together.add_argument(
        "--process", type=whole(), metavar="I", help="number of this process: 0 writes the run folder"
    )
    parser.add_argument(
        "--wandb",
        metavar="MODE",
        help="online, offline or disabled [WANDB_MODE; else online if a key is found, else offline]",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on the terminal (log.txt has it)")
    parser.add_argument("--no-sample", action="store_true", help="do not print a sample of text at the end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Train, then print the result."""
    from seqjax.training.processes import joined

    with joined(options.coordinator, options.processes, options.process) as peers:
        config, folder, prepare = _config_and_folder(options, rest, peers)
        return _train(config, folder, prepare, options, writes=peers.index == 0)


def _train(
    config: RunConfig, folder: Path, prepare: Callable[[], None], options: argparse.Namespace, writes: bool
) -> int:
    """Train, and print the result in the process that writes."""
    from seqjax.training.loop import train

    repeated = runs.read_result(folder) is not None
    if writes:
        _note_bundle(folder, repeated)
    try:
        with runs.gone_unless_begun(folder) if writes else nullcontext():
            if writes:
                prepare()
            result = train(
                config,
                folder,
                devices=options.devices,
                wandb_mode=options.wandb,
                quiet=options.quiet,
                corpus=options.corpus,
            )
    except Interrupted as stop:
        if writes:
            again = f"seqjax train {quoted(folder)}{shared.code_again(config)}"
            told = f"stopped at step {stop.step}, state saved; resume with: {again}"
            print(fitted(told, sys.stderr), file=sys.stderr)
        return exit_code(stop.signal_number)
    if not writes:
        return DIVERGED if result["status"] == "diverged" else 0
    if repeated:
        print(fitted(f"{folder}: this run has ended already; nothing to do", sys.stderr), file=sys.stderr)
    _print_result(folder, result)
    if result["status"] == "diverged":
        return DIVERGED
    if not options.no_sample and isinstance(config, Config):
        print("sample")
        print(seqjax.open(folder, corpus=options.corpus).sample(tokens=300, temperature=0.8))
    return 0


def _config_and_folder(
    options: argparse.Namespace, rest: list[str], peers: Peers
) -> tuple[RunConfig, Path, Callable[[], None]]:
    """The config of the run, its folder, and what puts the state that it begins with into that folder.

    Process 0 alone reads the run to start from, and tells the others what the config names.
    """
    path: Path = options.config
    if path.is_dir():
        return _of_run_folder(options, rest)
    if options.corpus:
        raise UserError("command line: --corpus goes with a run folder; with a config write --data.corpus")
    config = shared.config_of(path, rest)
    parent = options.runs or Path("runs")
    if not options.source:
        return config, options.folder or parent / _name_of(path) / run_id(config), _nothing
    from seqjax.trained.starting import keep_start, start_from
    from seqjax.training.hardware import present_devices

    present_devices()  # JAX finds them once all processes ask; process 0 needs one to read the run
    content = b""
    if peers.index == 0:
        config, content = start_from(config, options.source)
    config = replace(config, train=replace(config.train, start=peers.first(config.train.start)))
    folder = options.folder or parent / _name_of(path) / run_id(config)
    return config, folder, partial(keep_start, config, folder, options.source, content)


def _nothing() -> None:
    """A run that begins at its first step, or where its own folder says, needs nothing more."""


def _name_of(path: Path) -> str:
    """The name of a config; of a run's config.json the name of the folder above the run."""
    return path.stem if path.name != "config.json" else path.resolve().parent.parent.name


def _of_run_folder(options: argparse.Namespace, rest: list[str]) -> tuple[RunConfig, Path, Callable[[], None]]:
    """The run in the folder to resume; with ``--train.steps`` a new run that goes on from its state."""
    path: Path = options.config
    named, others = shared.take_code(rest)
    if options.source:
        raise UserError(
            f"command line: --from goes with a config: seqjax train {quoted(path / 'config.json')} --from RUN"
        )
    steps = shared.config_options(others) if others and others[0].startswith("--") else dict.fromkeys(others, "")
    if set(steps) - {"train.steps"} or not all(OWN[key].names_file(words) for key, words in named):
        raise UserError(
            f"command line: {rest[0]}: a run that is resumed keeps its config; drop the option. A new run from its "
            f"parameters: seqjax train {quoted(path / 'config.json')} --from {quoted(path)}"
        )
    config = shared.configs_of_runs([path], [word for word in rest if word not in others], options.trust_code)[0]
    if steps and (longer := validate(with_options(read_tree(path / "config.json"), steps))) != config:
        place = options.runs or (path.parent if "lanes" not in read_plan(path) else Path(f"{path.parent}-longer"))
        folder = options.folder or place / run_id(longer)
        return longer, folder, partial(_plan_longer, path, longer, folder)
    if options.runs or options.folder:
        raise UserError("command line: --runs and --run go with a config; a run that is resumed stays in its folder")
    return config, path, _nothing


def _plan_longer(trunk: Path, longer: RunConfig, folder: Path) -> None:
    from seqjax.training.trunk import plan_longer

    step = plan_longer(trunk, longer, folder)
    print(fitted(f"a new run, {folder}, goes on from step {step} of {trunk}", sys.stderr), file=sys.stderr)


def _note_bundle(folder: Path, ended: bool) -> None:
    lanes = len(read_plan(folder).get("lanes", ()))
    if lanes > 1 and not ended:
        tell_note(
            f"this run is one of {lanes} in a bundle; alone its last digits may differ. "
            "`seqjax sweep` with its sweep file resumes the bundle"
        )


def _print_result(folder: Path, result: dict[str, Any]) -> None:
    print(f"run       {folder}")
    if result["status"] == "diverged":
        first, last = result["diverged_in_steps"]
        print(
            f"status    diverged in steps {first} to {last}: a loss or its gradient was not finite.\n"
            "          Try a lower --optimizer.learning-rate or more --optimizer.warmup-steps."
        )
        return
    found = result.get("validation")
    if found is None:
        print("status    imported, and not evaluated: the same `seqjax import` once more evaluates it")
        return
    if "bits_per_byte" not in found:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items() if isinstance(value, float))
        print(f"held out  {shown} (validation, step {result['best']['step']})")
        for name, value in dotted(result.get("test") or {}):
            if isinstance(value, int | float):
                print(f"test      {name.replace('_', ' ')} {value:.4g}")
        return
    from seqjax.tasks.text_evaluation import unknown_note

    print(
        f"held out  {with_error(found['loss'], found['loss_se'])} nats per token, {found['bits_per_byte']:.4f} "
        f"bits per byte{unknown_note(found.get('unknown', 0.0))}\n"
        f"          of {found['tokens']:,} tokens of the validation split"
    )
    if len(found["by_source"]) > 1:
        parts = ", ".join(f"{source} {loss:.4f}" for source, loss in found["by_source"].items())
        print(fitted(f"          nats per token by source: {parts}", sys.stdout))
