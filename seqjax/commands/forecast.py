"""`seqjax forecast`: the loss at the end of a run from its beginning and from earlier runs, under any schedule."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import whole
from seqjax.errors import UserError
from seqjax.host.wording import readable

KEPT = ("data", "model")  # sections that must be the same in all runs: the law is of one model and its data


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "forecast",
        """
        seqjax forecast runs/lstm --with runs/lstm-cosine
        seqjax forecast runs/lstm --until 2000              # as if it had only come to step 2000
        """,
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, finished or not")
    parser.add_argument("--with", dest="others", type=Path, nargs="+", default=[], metavar="RUN",
                        help="earlier runs of the same model, data and batch")  # fmt: skip
    parser.add_argument("--until", type=whole(1), metavar="STEP", help="leave out what RUN measured after this step")
    parser.add_argument("--bootstrap", type=whole(0), default=300, metavar="R", help="refits for the interval [300]")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of the noise of the refits [0]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Read the curves and schedules, fit, print."""
    shared.no_more(rest)
    from seqjax.laws.multi_power import Curve, forecast
    from seqjax.runs import read_config, read_curve
    from seqjax.training.optimizer import learning_rates

    curves, first = [], read_config(options.run_folder)
    for folder in (options.run_folder, *options.others):
        config = read_config(folder)
        if different := [name for name in KEPT if getattr(config, name, None) != getattr(first, name, None)]:
            raise UserError(f"{folder}: {different[0]} differs from {options.run_folder}; the law is of one model")
        if config.train.batch_size != first.train.batch_size:
            raise UserError(f"{folder}: train.batch_size differs from {options.run_folder}; the law is of one batch")
        lines = [line for line in read_curve(folder) if line["step"] > 0]
        if folder == options.run_folder and options.until:
            lines = [line for line in lines if line["step"] <= options.until]
        rates = learning_rates(config.optimizer, config.train.steps)
        curves.append(Curve([line["step"] for line in lines], [line["validation_loss"] for line in lines], rates))
    found = forecast(curves, curves[0].rates, options.bootstrap, options.seed)
    low, high = found.interval
    sure = f" (95 %: {low:.4f} to {high:.4f})" if low == low else ""
    print(f"loss at step {first.train.steps}: {found.loss:.4f}{sure}")
    print("L = L_0 + A S^-alpha - B (what decay takes off): "
          + ", ".join(f"{name} = {readable(value)}" for name, value in found.constants.items()))  # fmt: skip
    print(f"residuals scatter by {found.residual:.2%} of the loss")
    print("\n".join(f"FLAG {flag}" for flag in found.flags) or "no flags")
    return 0
