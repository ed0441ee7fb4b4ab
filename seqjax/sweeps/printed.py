"""The plan and the progress of a sweep as text."""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter
from collections.abc import Sequence

from seqjax.config import Config
from seqjax.host.streams import is_terminal
from seqjax.host.wording import counted, duration, si
from seqjax.models.accounting import count_parameters
from seqjax.runs.targets import non_embedding_parameters, training_flops_per_token, vocabulary_size
from seqjax.sweeps.aligned import aligned, aligned_within
from seqjax.sweeps.axes import short
from seqjax.sweeps.grid import Planned, Sweep
from seqjax.sweeps.machine import Machine
from seqjax.sweeps.programs import Unit, makespan
from seqjax.sweeps.search import Curve, Trial
from seqjax.sweeps.speed import Speeds


def tokens_of(run: Planned) -> int:
    """Number of training tokens."""
    train = run.config.train
    return train.steps * train.batch_size * train.context_length


def flops_of(run: Planned) -> float:
    """Training FLOPs, exactly counted."""
    config = run.config
    per_token = training_flops_per_token(config, vocabulary_size(config))
    return per_token * tokens_of(run)


FIRST_OUT = ("T", "together", "FLOP", "P")
"""Columns of a plan that are left out where they do not fit the terminal, the first one first."""


def describe_plan(
    sweep: Sweep, planned: Sequence[Planned], ended: int, units: Sequence[Unit], machine: Machine, speeds: Speeds | None
) -> str:
    """Runs by shape and length: parameters, tokens, FLOPs, and the predicted time on this machine."""
    heading = f"sweep {sweep.name}: {counted(len(planned), 'run')}" + (f", {ended} of them ended" if ended else "")
    if all(isinstance(run.config, Config) for run in planned):
        share = [1 - run.shared / run.config.train.steps for run in planned]  # the rest is its trunk's
        tokens = round(sum(part * tokens_of(run) for part, run in zip(share, planned, strict=True)))
        flops = sum(part * flops_of(run) for part, run in zip(share, planned, strict=True))
        contexts = ", ".join(f"{length:,}" for length in sorted({run.config.train.context_length for run in planned}))
        told = (
            f"N: non-embedding parameters; P: all parameters; T: context, {contexts}; "
            f"in all {_si(tokens)} tokens, {_si(flops)} FLOP (exact count)"
        )
        lines = [heading, "", _plan_table(planned, units), "", told]
    else:
        lines = [heading, "", _plan_of_tasks(planned, units)]
    if branches := sum(run.shared > 0 for run in planned):
        lines.append(f"{counted(branches, 'run')} from checkpoints of their trunks: shared steps count once")
    lines += _describe_search(sweep)
    for note, count in Counter(note for run in planned for note in run.notes).items():
        lines.append(f"note: {note}" + (f" ({counted(count, 'run')})" if count < len(planned) else ""))
    if units:
        threads = "/".join(str(count) for count in sorted({unit.threads for unit in units}))
        on_gpus = "one on each GPU" if machine.sharing == 1 else f"at most {machine.sharing} at once on a GPU"
        how = on_gpus if machine.gpus else f"{threads} thread(s) each"
        lines.append(f"machine: {machine.describe()}; {len(units)} program(s) to train, {how}")
    if units and speeds is not None:
        lines.append(f"predicted time: {duration(predicted_seconds(units, machine))}")
    return "\n".join(lines)


def _plan_table(planned: Sequence[Planned], units: Sequence[Unit]) -> str:
    """One row for the runs of one shape and length."""
    unit_of = {run_id: unit for unit in units for run_id in unit.run_ids}
    groups: dict[tuple[str, int, int, int], list[Planned]] = {}
    for run in planned:
        shape, context = run.run_id.rpartition("-")[0], run.config.train.context_length
        groups.setdefault((shape, non_embedding_parameters(run.config.model), context, tokens_of(run)), []).append(run)
    rows = [("model", "N", "P", "T", "steps", "tokens", "FLOP", "runs", "together", "time")]
    for (shape, size, context, tokens), members in groups.items():
        config = members[0].config
        total = count_parameters(config.model, vocabulary_size(config), context)["total"]
        here = [unit_of[run.run_id] for run in members if run.run_id in unit_of]
        lanes = sorted({len(unit.runs) for unit in here})
        seconds = [unit.seconds for unit in here if unit.seconds is not None]
        together = "ended" if not here else str(lanes[0]) if len(lanes) == 1 else f"{lanes[0]}-{lanes[-1]}"
        rows.append(
            (
                shape,
                _si(size),
                _si(total),
                f"{context:,}",
                f"{config.train.steps:,}",
                _si(tokens),
                _si(flops_of(members[0])),
                str(len(members)),
                together,
                duration(max(seconds)) if seconds else "-",
            )
        )
    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else math.inf
    return aligned_within(rows, max(80, width), FIRST_OUT)[0]


def _plan_of_tasks(planned: Sequence[Planned], units: Sequence[Unit]) -> str:
    """One row for the runs of one shape and length."""
    seconds = {run_id: unit.seconds for unit in units for run_id in unit.run_ids}
    groups: dict[tuple[str, int], list[float | None]] = {}
    for run in planned:
        groups.setdefault((run.run_id.rpartition("-")[0], run.config.train.steps), []).append(seconds.get(run.run_id))
    rows = [("task, model", "steps", "runs", "time")]
    for (shape, steps), times in groups.items():
        known = [time for time in times if time is not None]
        rows.append((shape, f"{steps:,}", str(len(times)), duration(max(known)) if known else "-"))
    return aligned(rows)


def _describe_search(sweep: Sweep) -> list[str]:
    if sweep.search is None:
        return []
    rates = ", ".join(f"{rate:g}" for rate in sweep.search.rates)
    lines = [f"learning rates {rates}; up to {sweep.search.extend} more for each model while a best one is at an edge"]
    if sweep.search.transfer:
        lines.append(f"searched at the smallest {sweep.search.transfer}; the others take the rate found there")
    if sweep.search.seeds:
        lines.append(f"then seeds {', '.join(map(str, sweep.search.seeds))} at the chosen rates")
    if sweep.left_out:
        lines.append("models that --only leaves out get no rates; without it all models get as many")
    if sweep.search.transfer or sweep.search.seeds:
        middle = sweep.search.rates[len(sweep.search.rates) // 2]
        lines.append(f"runs at chosen rates are counted above, at {middle:g}")
    return lines


def _si(value: float) -> str:
    return si(value).strip()


def predicted_seconds(units: Sequence[Unit], machine: Machine) -> float:
    """Predicted wall seconds of a plan, including the start of the workers.

    Branches are counted after all trunks. On this machine they start earlier, so it may take less.
    """
    rounds = [[unit for unit in units if unit.branches is later] for later in (False, True)]
    return sum(makespan(units, machine) + 5.0 for units in rounds if units)


def describe_curves(curves: Sequence[Curve]) -> str:
    """The learning-rate search: per model the loss at each rate, the chosen rate marked."""
    known = [curve for curve in curves if any(trial.loss is not None for trial in curve.trials)]
    lines = ["held-out loss by learning rate (* chosen)"] if known else []
    for curve in known:
        axes = ", ".join(f"{key.rpartition('.')[2]} {short(key, value)}" for key, value in curve.axes.items())
        trials = "  ".join(
            f"{trial.rate:g}: {_loss(trial)}{'*' if trial.rate == curve.chosen else ''}" for trial in curve.trials
        )
        lines += [f"  {curve.label} ({axes})", f"      {trials}"]
        if curve.follows:
            lines.append(f"      the rate found for {curve.follows}")
        elif curve.settled and curve.edge:
            lines.append(f"      the best lies at the {curve.edge} edge of the rates, and search.extend allows no more")
    return "\n".join(lines)


def _loss(trial: Trial) -> str:
    if trial.loss is None:
        return "open"
    return f"{trial.loss:.4f}" if math.isfinite(trial.loss) else "diverged"
