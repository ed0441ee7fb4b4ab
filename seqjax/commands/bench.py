"""`seqjax bench`: compile time and step time of each family at two sizes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config import Config, OptimizerConfig, TrainConfig, check
from seqjax.config.plain import whole
from seqjax.errors import UserError
from seqjax.families import FAMILIES, Family, family_of, own
from seqjax.families.family import Impossible
from seqjax.host.cores import Waiting, beside
from seqjax.host.disk import check_place
from seqjax.host.own_code import class_of
from seqjax.host.wording import si

VOCABULARY = 256
PROFILED_STEPS = 4


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "bench",
        """
        seqjax bench
        seqjax bench --families lstm transformer --repeats 20 --json bench.json
        seqjax bench --families lstm --sizes 128 --profile traces     # then: xprof traces
        """,
    )
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), help="also FILE.py:CLASS [all]")
    parser.add_argument("--sizes", nargs="+", type=whole(1), default=[64, 256], help="widths D = H [64 256]")
    parser.add_argument("--batch-size", type=whole(1), default=32, help="B [32]")
    parser.add_argument("--context-length", type=whole(1), default=128, help="T [128]")
    parser.add_argument("--repeats", type=whole(1), default=10, help="timed steps; the median is shown [10]")
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--profile", metavar="FOLDER", help="also write a trace of a few steps of each, for xprof")
    parser.set_defaults(run=run)


def _model(name: str, width: int) -> Family:
    """A family at its default proportions, with at most two layers."""
    family = family_of(name)().widened(width)
    return dataclasses.replace(family, n_layers=min(2, family.n_layers))


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Time the real train step (forward, backward, clip, Adam) of each model and print a table."""
    shared.no_more(rest)
    for place, family in enumerate(options.families):
        if family not in FAMILIES and not own.shelf.names_file(family):
            raise UserError(f"command line: --families {family}: allowed: {', '.join(FAMILIES)}, or FILE.py:CLASS")
        try:
            options.families[place] = family_of(family).family
        except UserError as error:
            raise UserError(f"command line: --families: {error}") from None
    for family, width in ((family, width) for width in options.sizes for family in options.families):
        try:
            check(_config(family, width, options))
        except Impossible as error:
            raise UserError(f"command line: --sizes {width}: {family}: {error}") from None
    if options.json:
        check_place(Path(options.json))
    from seqjax.training.hardware import describe_hardware, describe_versions, peak_flops

    hardware, versions = describe_hardware(), describe_versions()
    print(
        f"{hardware['device']} x {hardware['devices']}, {hardware['processor']}, {hardware['cores']} cores, "
        f"jax {versions['jax']}, float32, B = {options.batch_size}, T = {options.context_length}, V = {VOCABULARY}"
    )
    print(
        f"{'family':<14}{'width':>6}{'params':>10}{'compile':>11}{'step':>12}{'tokens/s':>12}{'FLOP/s':>12}"
        f"{'of peak':>9}"
    )
    rows = []
    for width in options.sizes:
        for family in options.families:
            row = _measure(family, width, options)
            name = class_of(family)
            rows.append(row)
            peak = peak_flops(int(hardware["devices"]))
            share = f"{row['flops_per_second'] / peak:.1%}" if peak else "-"
            print(
                f"{name:<14}{width:>6}{si(row['parameters']):>10}{row['compile_seconds']:>9.2f} s"
                f"{1e3 * row['step_seconds']:>9.2f} ms{si(row['tokens_per_second']):>12}"
                f"{si(row['flops_per_second']):>12}{share:>9}",
                flush=True,
            )
    for note in beside((row["waited_share"] for row in rows), "measurement", "their times are too long"):
        print(f"note: {note}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"hardware": hardware, "versions": versions, "rows": rows}, file, indent=2)
    return 0


def _config(family: str, width: int, options: argparse.Namespace) -> Config:
    train = TrainConfig(batch_size=options.batch_size, context_length=options.context_length)
    return Config(_model(family, width), optimizer=OptimizerConfig(), train=train)


def _measure(family: str, width: int, options: argparse.Namespace) -> dict[str, Any]:
    import jax
    import numpy as np

    from seqjax.models import count_parameters, flops_per_token
    from seqjax.tasks.text import make_objective
    from seqjax.training.lanes import make_program
    from seqjax.training.state import Hyper
    from seqjax.training.timing import step_times

    config = _config(family, width, options)
    program = make_program(config, make_objective(config, VOCABULARY))
    state = program.init()
    shape = (program.steps_at_once, options.batch_size, options.context_length + 1)
    batches = program.put(np.random.default_rng(0).integers(0, VOCABULARY, shape, np.int32))
    hyper = Hyper(np.full(len(batches), 1e-3, np.float32), np.float32(0.0))
    resets_K = np.zeros(len(batches), bool)
    began = time.perf_counter()
    compiled = program.steps.lower(state, batches, hyper, resets_K, 1).compile()
    compile_seconds = time.perf_counter() - began

    def call(state: Any, count: int) -> Any:
        return jax.block_until_ready(compiled(state, batches, hyper, resets_K, count))[0]

    times = step_times(call, state, program.steps_at_once)
    next(times), next(times)
    waiting = Waiting()
    step_seconds = float(np.median([next(times) for _ in range(options.repeats)]))
    waited_share = waiting.share()
    if options.profile:
        with jax.profiler.trace(str(Path(options.profile) / f"{family}-{width}")):
            call(program.init(), min(PROFILED_STEPS, program.steps_at_once))
    tokens = options.batch_size * options.context_length
    flops = flops_per_token(config.model, VOCABULARY, options.context_length)["training"]
    return {
        "family": family,
        "model": dataclasses.asdict(config.model),
        "parameters": count_parameters(config.model, VOCABULARY, options.context_length)["total"],
        "compile_seconds": compile_seconds,
        "step_seconds": step_seconds,
        "tokens_per_second": tokens / step_seconds,
        "flops_per_second": flops * tokens / step_seconds,
        "waited_share": waited_share,
    }
