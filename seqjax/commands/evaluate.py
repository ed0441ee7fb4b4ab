"""`seqjax eval`: held-out loss of a trained run."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seqjax
from seqjax.commands import options as shared
from seqjax.config import Config
from seqjax.config.plain import whole
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.wording import with_error

if TYPE_CHECKING:
    from seqjax.trained.opened import OpenRun


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "eval",
        """
        seqjax eval runs/lstm/lstm-2x128-0123456789
        seqjax eval RUN --split test --windows 4096 --checkpoint best
        seqjax eval RUN --json > loss.json        # with the loss at every position of the context
        """,
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--split", default="validation", choices=("train", "validation", "test"), help="[validation]")
    parser.add_argument("--windows", type=whole(), help="held-out windows [evaluation.final_windows]")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which parameters [last]")
    shared.add_corpus(parser)
    shared.add_code(parser)
    parser.add_argument("--json", action="store_true", help="everything as JSON on standard output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Evaluate and print."""
    shared.configs_of_runs([options.folder], rest, options.trust_code)
    run = seqjax.open(options.folder, checkpoint=options.checkpoint, corpus=options.corpus)
    if not isinstance(run.config, Config):
        return _of_task(run, options)
    if options.windows is not None and (options.windows < 1 or run.config.data.batching == "streams"):
        reason = "must be at least 1" if options.windows < 1 else "does not apply to streams, which are read completely"
        raise UserError(f"command line: --windows {options.windows} {reason}")
    from seqjax.tasks.text_evaluation import unknown_note

    found = run.evaluate(options.split, options.windows)
    if options.json:
        print(json.dumps({"step": run.step, **dataclasses.asdict(found)}, indent=2))
        return 0
    print(
        f"{options.split} split at step {run.step}: {found.tokens:,} tokens in {found.windows:,} "
        f"{'windows' if found.protocol == 'windows' else 'stream segments'}"
        f"{', all there are' if options.windows and found.windows < options.windows else ''}"
    )
    print(f"  {with_error(found.loss, found.loss_se)} nats per token")
    print(f"  {found.bits_per_byte:.4f} bits per byte{unknown_note(found.unknown)}")
    for source, loss in found.by_source.items():
        print(f"  {loss:.4f} nats per token on {source}")
    print("  position   nats per token")
    for position in _powers_of_two(len(found.by_position)):
        print(f"  {position:>8}   {with_error(found.by_position[position - 1], found.by_position_se[position - 1])}")
    return 0


def _of_task(run: OpenRun, options: argparse.Namespace) -> int:
    """Print the numbers of a run of another task than text."""
    if options.windows is not None:
        raise UserError(f"command line: --windows {options.windows} is for runs on text")
    if options.split == "train":
        raise UserError("command line: --split train is for runs on text; allowed: validation, test")
    found = run.held_out().record if options.split == "validation" else run.task.final(run.params)
    if not found:
        raise UserError(f"{run.folder}: its task has no test data")
    print(json.dumps({"step": run.step, **disk.finite(found)}, indent=2))
    return 0


def _powers_of_two(last: int) -> list[int]:
    return sorted({2**k for k in range(last.bit_length()) if 2**k <= last} | {last})
