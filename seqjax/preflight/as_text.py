"""Checks of runs on a target as text, within 80 columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqjax.config import Config, run_id
from seqjax.host.wording import counted, si
from seqjax.models.accounting import count_parameters
from seqjax.preflight.accelerators import GIB, Target
from seqjax.preflight.compiling import Compiled
from seqjax.preflight.needs import Bound, Check
from seqjax.sweeps.printed import aligned

SHARE = 0.3  # of the peak, for hours that are no bound
ABOUT = (
    "Compiled, never run. A bound is the least time that peak, bandwidth and link\n"
    "allow. Real steps are slower; recurrences much, since each turn of a loop waits\nfor the turn before it."
)
ON_CARDS = 0.75  # of the memory; what JAX takes by itself


@dataclass(frozen=True)
class Row:
    """Runs of a sweep that share a program.

    Attributes:
        found: the check of one of them.
        runs: their number.
        steps: that they take together; steps of a trunk count once.
    """

    found: Check
    runs: int
    steps: int


def describe(found: Check, largest: int | None) -> str:
    """One run on a target.

    Args:
        largest: the batch that about fits; None: none does.
    """
    config, target, both = found.config, found.target, (found.step, found.evaluation)
    bounds = found.step_bound, found.evaluation_bound
    flops = f"{si(found.step_flops)}FLOP", f"{si(found.evaluation_flops)}FLOP"
    rows = [
        ("", "train step", "evaluation"),
        ("GiB of a device", *(_gib(one.memory) for one in both)),
        ("  arguments", *(_gib(one.arguments) if one.text else "refused" for one in both)),
        ("  temporary", *(_gib(one.temporary) if one.text else "refused" for one in both)),
        ("batch shared by the devices", *(_shared(one, target) for one in both)),
        ("exchanges, bytes of a device", *map(_exchanges, both)),
        ("turns of loops", *(f"{one.text.turns:,}" if one.text else "-" for one in both)),
        ("kernels beside XLA's", *(_kernels(one) for one in both)),
        ("FLOPs by accounting" if isinstance(config, Config) else "FLOPs as compiled", *flops),
        ("bound on the time, ms", *map(_milliseconds, bounds)),
        *((f"  by {name}", *(f"{1e3 * getattr(one, name):.3g}" for one in bounds)) for name in vars(bounds[0])),
    ]
    fits = "fits" if found.fits else "DOES NOT FIT"
    steps, text = config.train.steps, isinstance(config, Config)
    lines = [
        f"{run_id(config)} on {target.name}: {fits}, {_gib(found.memory)} of {_gib(target.chip.memory)} GiB",
        "",
        aligned(rows),
        "",
        f"train.batch_size: {config.train.batch_size}; {_largest(largest)}",
        *([f"T x T arrays: {_told(found.scores)}; arrays of V for each token: {_told(found.logits)}"] if text else []),
        f"{steps:,} steps: {_hours(found.device_hours(steps))} device hours at the bound, "
        f"{_hours(found.device_hours(steps, SHARE))} at {SHARE:.0%} of the peak",
    ]
    if target.platform == "cuda" and found.fits and found.memory > ON_CARDS / 0.95 * target.chip.memory:
        lines.append(f"set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95: by itself JAX takes {ON_CARDS:.0%} of a card")
    return "\n".join([*lines, "", ABOUT])


def table(rows: Sequence[Row]) -> str:
    """A sweep on a target: one line for the runs that share a program; what does not fit is marked."""
    cells = [("model", "N", "B", "runs", "GiB", "", "shared", "ms", "hours", f"at {SHARE:.0%}")]
    for row in rows:
        found, config = row.found, row.found.config
        cells.append(
            (
                run_id(config).rpartition("-")[0],
                *_sizes(config),
                str(row.runs),
                _gib(found.memory),
                "" if found.fits else "!",
                _shared(found.step, found.target),
                f"{1e3 * found.step_bound.seconds:.3g}",
                _hours(found.device_hours(row.steps)),
                _hours(found.device_hours(row.steps, SHARE)),
            )
        )
    first = rows[0].found.target
    hours = [sum(row.found.device_hours(row.steps, share) for row in rows) for share in (None, SHARE)]
    misfits = [row for row in rows if not row.found.fits]
    some = f"{len(misfits)} DO NOT FIT (!)" if misfits else "all fit"
    return "\n".join(
        [
            f"{counted(sum(row.runs for row in rows), 'run')}, {counted(len(rows), 'program')} on {first.name}: "
            f"{some}; {_gib(first.chip.memory)} GiB a device",
            "",
            aligned(cells),
            "",
            "ms: bound of a train step; hours: of all devices, all steps",
            f"in all {_hours(hours[0])} device hours at the bound, {_hours(hours[1])} at {SHARE:.0%} of the peak",
            "",
            ABOUT,
        ]
    )


def _sizes(config: Any) -> tuple[str, str]:
    """N and B of a run on text; of another task B alone."""
    if not isinstance(config, Config):
        return "-", str(config.train.batch_size)
    size = count_parameters(config.model, 1, 1)["non_embedding"]
    return si(size).replace(" ", ""), str(config.train.batch_size)


def _gib(size: float) -> str:
    size /= GIB
    return "?" if math.isinf(size) else f"{size:,.0f}" if size >= 1000 else f"{size:.3g}"


def _shared(one: Compiled, target: Target) -> str:
    """Whether the devices share the batch: yes, partly or no, with how often they do one device's products."""
    if one.text is None or target.devices == 1:
        return "-"
    times = round(one.shared, 2)
    word = "yes" if times <= 1.1 else "no" if times > 0.9 * target.devices else "partly"
    return f"{word} {times:g}"


def _exchanges(one: Compiled) -> str:
    if one.text is None:
        return "-"
    kinds = {}
    for each in one.text.collectives:
        count, size = kinds.get(each.kind, (0, 0.0))
        kinds[each.kind] = count + each.times, size + each.times * each.size
    return ", ".join(f"{count} {kind} {si(size)}B" for kind, (count, size) in kinds.items()) or "none"


def _kernels(one: Compiled) -> str:
    """Their number by who wrote them: cuDNN, Triton, or Pallas for TPUs."""
    if one.text is None:
        return "-"
    makers = Counter()
    for name, count in one.text.kernels.items():
        makers[next((maker for maker in ("cudnn", "triton") if maker in name), "tpu")] += count
    return ", ".join(f"{count} {maker}" for maker, count in makers.items()) or "none"


def _milliseconds(bound: Bound) -> str:
    return f"{1e3 * bound.seconds:.3g}, by {bound.by}"


def _largest(largest: int | None) -> str:
    return "no batch fits" if largest is None else f"about {largest:,} would fit"


def _told(found: bool | None) -> str:
    return {True: "yes", False: "none", None: "cannot be told"}[found]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}" if hours >= 0.01 else "<0.01"
